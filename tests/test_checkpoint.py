"""Tests of what a configured source means, and of the identity of what it leads to."""

from __future__ import annotations

import builtins
import importlib.util
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import CONFIG, tensor, weights, write_model, write_shards

from pytest_quantgate import digests, network
from pytest_quantgate.checkpoint.identity import fingerprint, preflight, resolve
from pytest_quantgate.digests import DigestMemo
from pytest_quantgate.errors import CheckpointError, MissingExtraError
from pytest_quantgate.store import Store

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE: dict[str, Any] = {
    "tokenizer.json": '{"a": 1}',
    "tokenizer_config.json": '{"eos_token": "x"}',
    "generation_config.json": '{"do_sample": true}',
    "chat_template.jinja": "{{ messages }}",
}
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub"
)


def print_of(folder: Path, store: Store | None = None) -> str:
    """Return the fingerprint of a folder."""
    return fingerprint(preflight(folder), store)


# --- identity


def test_a_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    """30: the same files elsewhere, with other times, have the same fingerprint; it has the form sha256:<hex>."""
    one, two = (write_model(tmp_path / name, COMPLETE) for name in ("a", "b"))
    for path in two.iterdir():
        os.utime(path, (0, 0))
    assert print_of(one) == print_of(two)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", print_of(one))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", weights({"w": tensor()}, b"\1" + bytes(7))),
        ("model.safetensors", weights({"v": tensor()})),
        ("config.json", {**CONFIG, "rope_theta": 1e6}),
        ("config.json", {**CONFIG, "quantization_config": {"bits": 4}}),
        ("tokenizer.json", '{"a": 2}'),
        ("tokenizer_config.json", '{"eos_token": "y"}'),
        ("generation_config.json", '{"do_sample": false}'),
        ("chat_template.jinja", "{{ message }}"),
        ("chat_template.jinja", None),
        ("quantize_config.json", {"bits": 4}),
        ("special_tokens_map.json", {}),
        ("merges.txt", "a b"),
    ],
)
def test_whatever_changes_a_number_changes_the_fingerprint(tmp_path: Path, name: str, content: Any) -> None:
    """31: weights, configuration, quantization, tokenizer, generation and chat template are part of the identity."""
    before = print_of(write_model(tmp_path / "a", COMPLETE))
    assert print_of(write_model(tmp_path / "b", {**COMPLETE, name: content})) != before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {**CONFIG, "transformers_version": "9.9", "_name_or_path": "/home/x"}),
        (
            "config.json",
            "\n" + str({name: CONFIG[name] for name in reversed(CONFIG)}).replace("'", '"') + "\n",
        ),
        ("README.md", "words"),
        ("training_args.bin", b"\x80"),
    ],
)
def test_whatever_changes_no_number_does_not(tmp_path: Path, name: str, content: Any) -> None:
    """30: who wrote a configuration, in which order and with which blanks, and files beside the model do not count."""
    before = print_of(write_model(tmp_path / "a", COMPLETE))
    assert print_of(write_model(tmp_path / "b", {**COMPLETE, name: content})) == before


def test_names_of_weight_files_do_not_count(tmp_path: Path) -> None:
    """30: a quantizer may call its file as it likes."""
    one = write_model(tmp_path / "a")
    two = write_model(
        tmp_path / "b", {"model.safetensors": None, "other.safetensors": weights({"w": tensor()})}
    )
    assert print_of(one) == print_of(two)
    assert print_of(write_shards(tmp_path / "c")) != print_of(one)


def test_weights_changed_with_size_and_time_kept_are_noticed(tmp_path: Path) -> None:
    """31: the memo trusts no modification time: a forged one gives another fingerprint all the same."""
    store = Store(tmp_path / "store")
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    settle(path)
    before, first = path.stat(), print_of(folder, store)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert print_of(folder, store) != first


def settle(*_: Path) -> None:
    """Wait until the files count as settled; `quick_clock` makes that short."""
    time.sleep(digests.SETTLED + 0.02)


@pytest.fixture(autouse=True)
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file count as settled after a tenth of a second."""
    monkeypatch.setattr(digests, "SETTLED", 0.1)


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the name of every file that is really read."""
    seen: list[str] = []
    real = digests._hash

    def hash_and_note(path: Path) -> Any:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(digests, "_hash", hash_and_note)
    return seen


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large checkpoint is not hashed in every run; another process's store remembers as well."""
    folder = write_model(tmp_path / "model")
    settle()
    seen = hashed(monkeypatch)
    first = print_of(folder, Store(tmp_path / "store"))
    assert seen == ["model.safetensors"]
    assert print_of(folder, Store(tmp_path / "store")) == first
    assert seen == ["model.safetensors"]


def test_a_fresh_file_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within one tick of the clock would go unseen, so what changed just now is read again."""
    monkeypatch.setattr(digests, "SETTLED", 60)
    folder, store = write_model(tmp_path / "model"), Store(tmp_path / "store")
    seen = hashed(monkeypatch)
    assert print_of(folder, store) == print_of(folder, store)
    assert seen == ["model.safetensors"] * 2


@pytest.mark.parametrize("damage", ["", "x", "{}", "[]", "null", '{"sha256": "0"}', "flip"])
def test_a_damaged_memo_is_not_believed(tmp_path: Path, damage: str) -> None:
    """A note that was cut or changed is as good as none."""
    folder, store = write_model(tmp_path / "model"), Store(tmp_path / "store")
    settle()
    first = print_of(folder, store)
    (note,) = (store.root / "v1" / "fingerprints").iterdir()
    text = note.read_text()
    digest = re.search(r'"sha256":"(.)', text)
    assert digest is not None
    at = digest.start(1)
    note.write_text(
        damage if damage != "flip" else text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
    )
    assert print_of(folder, store) == first


def test_a_file_that_is_written_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """19, 20, 32: no digest is given for a mixture of two states: truncated, grown or replaced while it is hashed."""
    real = os.read
    for number, change in enumerate(("truncate", "append", "replace", "remove")):
        folder = write_model(tmp_path / str(number))
        path = folder / "model.safetensors"
        sound = preflight(folder)

        def meddle(descriptor: int, size: int, path: Path = path, change: str = change) -> bytes:
            data = real(descriptor, size)
            if change == "truncate":
                os.truncate(path, 5)
            elif change == "append":
                with path.open("ab") as file:
                    file.write(b"x")
            elif change == "replace":
                (path.parent / "new").write_bytes(b"x")
                (path.parent / "new").replace(path)
            elif change == "remove":
                path.unlink(missing_ok=True)
            return data

        with monkeypatch.context() as patch:
            patch.setattr(os, "read", meddle)
            with pytest.raises(
                CheckpointError, match=r"model\.safetensors: (changed|missing|cannot be read)"
            ):
                fingerprint(sound)


def test_the_hubs_digest_is_compared(tmp_path: Path) -> None:
    """The hub's cache names a large file by its digest: another content is refused, with what to remove."""
    repository = tmp_path / "models--a--b"
    snapshot = write_model(repository / "snapshots" / "0")
    (repository / "blobs").mkdir()
    path = snapshot / "model.safetensors"
    found = digests.sha256_of(path)
    sound = repository / "blobs" / found
    path.rename(sound)
    path.symlink_to(f"../../blobs/{found}")
    assert print_of(snapshot).startswith("sha256:")
    wrong = repository / "blobs" / ("0" * 64)
    sound.rename(wrong)
    path.unlink()
    path.symlink_to(f"../../blobs/{wrong.name}")
    with pytest.raises(CheckpointError, match=f"the hub lists {wrong.name}.*remove {re.escape(str(wrong))}"):
        print_of(snapshot)


def test_a_memo_without_a_folder_forgets(tmp_path: Path) -> None:
    """It reads the file each time."""
    (tmp_path / "x").write_bytes(b"1")
    memo = DigestMemo(None)
    first = memo.sha256(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"2")
    assert memo.sha256(tmp_path / "x") != first


# --- sources


def test_a_path_counts_from_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute and home paths lead to folders; a folder wins over a hub id of the same form."""
    for name in ("model", "org/name"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    for source in ("model", "./model", str(tmp_path / "model"), "~/model"):
        assert resolve(source, None, tmp_path) == tmp_path / "model"
    assert resolve("org/name", None, tmp_path) == tmp_path / "org" / "name"


@pytest.mark.parametrize(
    "source", ["gone", "./gone", "../gone", "/gone", "~/gone", "a/b/c", "a b/c", "org/na?me"]
)
def test_a_path_that_does_not_exist_is_one_line(tmp_path: Path, source: str) -> None:
    """The message holds the source, the place that was looked at, and both ways on."""
    with pytest.raises(
        CheckpointError, match=r"does not exist \(looked in .*\); give a folder or a hub id"
    ) as caught:
        resolve(source, None, tmp_path)
    assert repr(source) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("source", ["", "a\0b", "./x\n::error::y", "x" * 5000])
def test_an_impossible_path_is_one_line(tmp_path: Path, source: str) -> None:
    """What no file system takes is refused without a traceback."""
    with pytest.raises(CheckpointError) as caught:
        resolve(source, None, tmp_path)
    assert str(caught.value).isprintable()


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    """A weight file instead of its folder is a common mistake."""
    (tmp_path / "x.safetensors").write_text("")
    with pytest.raises(CheckpointError, match="is not a folder"):
        resolve("x.safetensors", None, tmp_path)


def test_a_home_that_is_not_known_is_one_line(tmp_path: Path) -> None:
    """36: an unknown user's home is an error, not a traceback."""
    with pytest.raises(CheckpointError, match="give a folder or a hub id"):
        resolve("~nobody-of-that-name/model", None, tmp_path)


def test_the_hub_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface_hub the message is the pip command."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "pytest_quantgate.backends.hub", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'pytest-quantgate\[hf\]'"):
        resolve("org/name", None, tmp_path)


@needs_hub
def test_a_hub_id_is_fetched_without_pickles_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revision and offline are passed on; only safe kinds of files are asked for."""
    from pytest_quantgate.backends import hub

    calls: list[Any] = []
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: calls.append((a, k)) or str(tmp_path))
    assert resolve("org/name", "v1", tmp_path, offline=True) == tmp_path
    ((source,), options) = calls[0]
    assert (source, options["revision"], options["local_files_only"]) == ("org/name", "v1", True)
    assert "*.safetensors" in options["allow_patterns"]
    assert not any(re.search(r"bin|pt|py|\*$", pattern) for pattern in options["allow_patterns"])


@needs_hub
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RepositoryNotFoundError", "not found on the hub, or private"),
        ("GatedRepoError", "accepted licence"),
        ("RevisionNotFoundError", "no such revision"),
        ("HFValidationError", "no valid hub id"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("RemoteProtocolError", "cannot be reached"),
        ("ConnectionError", "cannot be reached"),
        ("TimeoutError", "cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, expected: str
) -> None:
    """Each answer of the hub names the model and revision and says what to do."""
    from huggingface_hub import errors

    from pytest_quantgate.backends import hub

    kind = (
        getattr(errors, name, None)
        or getattr(builtins, name, None)
        or getattr(importlib.import_module(network.connection_errors()[-1].__module__), name)
    )
    error = kind.__new__(kind)
    error.args = ("first line\nsecond line",)

    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(network, "obstacle", lambda: "")
    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=expected) as caught:
        resolve("org/name", "v1", tmp_path)
    message = str(caught.value)
    assert message.isprintable()
    assert "org/name (revision v1)" in message
    assert ";" in message
    assert "second line" not in message


@needs_hub
@pytest.mark.parametrize(
    ("obstacle", "expected"),
    [
        ("", None),
        (
            "https://hub: refused",
            "the hub cannot be reached, .* \\(https://hub: refused\\); check the network",
        ),
        ("HF_HUB_OFFLINE is set", "not in the local cache, and HF_HUB_OFFLINE is set; download it once"),
    ],
)
def test_an_unreachable_hub_leaves_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str, expected: str | None
) -> None:
    """What is in the cache is used without waiting for the network; what is not is said with why."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    from pytest_quantgate.backends import hub

    calls: list[bool] = []
    monkeypatch.setattr(network, "obstacle", lambda: obstacle)
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *_, **k: calls.append(k["local_files_only"]) or str(tmp_path)
    )
    assert resolve("org/name", None, tmp_path) == tmp_path
    assert calls == [bool(obstacle)]
    if expected is not None:

        def lack(*_: Any, **__: Any) -> str:
            raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder")

        monkeypatch.setattr(hub, "snapshot_download", lack)
        with pytest.raises(CheckpointError, match=expected):
            resolve("org/name", None, tmp_path)


@needs_hub
@pytest.mark.parametrize("offline", [True, False])
def test_no_network_is_said_at_once(tmp_path: Path, *, offline: bool) -> None:
    """With the real library, and a hub that nobody serves: one line within seconds, no traceback, nothing kept."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pytest_quantgate.checkpoint.identity import resolve\n"
        "from pytest_quantgate.errors import CheckpointError\n"
        f"try: resolve('org/name', None, Path('.'), offline={offline})\n"
        "except CheckpointError as error: print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert time.monotonic() - began < 10
    assert done.stdout.startswith("model 'org/name': ")
    assert done.stdout.count("\n") == 1
    assert ("without --quantgate-offline" if offline else "check the network") in done.stdout
    assert "Traceback" not in done.stderr
