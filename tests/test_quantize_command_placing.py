"""A folder that is there whole or not at all, the lock on it, and the files that complete a checkpoint."""

from __future__ import annotations

import fcntl
import json

import pytest

from pytest_quantgate import completing, placing
from pytest_quantgate.errors import StoreError, UsageError


def test_a_work_folder_that_vanished_under_the_lock_is_made_again(tmp_path):
    """A holder removes its folder while another waits for it: the lock on the removed one counts for nothing."""
    target = tmp_path / "made"
    stat = placing._is_still
    seen = []

    def vanishes(work, descriptor):
        seen.append(work)
        if len(seen) == 1:
            work.rmdir()
        return stat(work, descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(placing, "_is_still", vanishes)
        with placing.claimed(target) as work:
            assert work.is_dir()
    assert len(seen) == 2
    assert not work.exists()


def test_what_a_killed_process_left_is_cleared(tmp_path):
    """Nobody holds the lock on its work folder, which is empty when it is claimed again."""
    left = tmp_path / ".made.quantgate" / "store"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    with placing.claimed(tmp_path / "made") as work:
        assert list(work.iterdir()) == []


def test_a_disk_without_locks(tmp_path, monkeypatch):
    """It is refused with what to do, rather than risked."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available")))
    refused = pytest.raises(
        StoreError, match=r"cannot be locked \(No locks available\); give --out on a local"
    )
    with refused, placing.claimed(tmp_path / "made"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing(tmp_path, monkeypatch, exchange):
    """With the system's exchange and without it, the new folder takes the place and the old one is gone."""
    if not exchange:
        monkeypatch.setattr(placing.sys, "platform", "other")
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name.txt").write_text(name)
    removed = []
    remove = placing._remove
    monkeypatch.setattr(placing, "_remove", lambda path: (removed.append(path), remove(path)))
    placing.place(tmp_path / "new", tmp_path / "old")
    assert removed == [tmp_path / "new"]  # never the target: between the two, there would be none
    assert (tmp_path / "old" / "name.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_target_that_turned_into_a_file(tmp_path):
    """It is told, and the file stays."""
    (tmp_path / "new").mkdir()
    (tmp_path / "old").write_text("mine")
    with pytest.raises(StoreError, match="cannot be put in place"):
        placing.place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "mine"


def test_a_dangling_link_is_where_the_checkpoint_goes(tmp_path):
    """Links are followed before anything is made."""
    (tmp_path / "link").symlink_to("there")
    assert placing.check_target(tmp_path / "link", [], force=False) == tmp_path / "there"


def test_a_folder_above_the_calibration_file_is_refused(tmp_path):
    """Replacing it would remove the file."""
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "c.txt"
    file.write_text("a")
    with pytest.raises(UsageError, match=r"c\.txt lies there"):
        placing.check_target(tmp_path, [file], force=True)


# --- completing


def test_gptq_safetensors_gets_its_name_and_its_configuration(tmp_path):
    """What auto-gptq left: weights under its own name, and the quantization beside the configuration."""
    made, source = tmp_path / "made", tmp_path / "source"
    for path in (made, source):
        path.mkdir()
    (made / "gptq.safetensors").write_bytes(b"w")
    (made / "quantize_config.json").write_text('{"bits": 4, "group_size": 128}')
    (made / "tokenizer.json").write_text("own")
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "merges.txt",
        "qwen.tiktoken",
        "x.py",
        "x.cu",
        "README.md",
    ):
        (source / name).write_text("base")
    (source / "config.json").write_text('{"model_type": "qwen2"}')
    added = completing.complete(made, source, "gptq")
    assert set(added) == {
        "tokenizer_config.json",
        "merges.txt",
        "qwen.tiktoken",
        "model.safetensors",
        "config.json",
    }
    assert (made / "tokenizer.json").read_text() == "own"
    assert json.loads((made / "config.json").read_text()) == {
        "model_type": "qwen2",
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    }
    assert completing.complete(made, source, "gptq") == ()
    assert set(completing.complete(made, source, "gptq", code=True)) == {"x.py", "x.cu"}


def test_shards_keep_their_names_and_a_gguf_is_complete(tmp_path):
    """Names that an index lists are not changed; one GGUF file holds everything."""
    made, source = tmp_path / "made", tmp_path / "source"
    for path in (made, source):
        path.mkdir()
    (source / "tokenizer.json").write_text("base")
    (made / "x-1.safetensors").write_bytes(b"w")
    (made / "model.safetensors.index.json").write_text("{}")
    (made / "config.json").write_text('{"quantization_config": {"bits": 4}}')
    assert completing.complete(made, source, "gptq") == ("tokenizer.json",)
    assert (made / "x-1.safetensors").exists()
    (made / "tokenizer.json").unlink()
    (made / "m.gguf").write_bytes(b"GGUF")
    assert completing.complete(made, source, "gguf") == ()
