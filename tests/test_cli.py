"""The console script: thin, one line per mistake, and no engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import store_values

from pytest_quantgate.cli import main
from pytest_quantgate.errors import StoreError
from pytest_quantgate.history import History, Run, new_id
from pytest_quantgate.spec import ModelSpec, Protocol, Step
from pytest_quantgate.store import Store
from pytest_quantgate.store.archive import take_in

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "gptqmodel")


@pytest.fixture
def judged(study, monkeypatch):
    """A study that was judged once, as v1, with its report in `out`; commands run in its folder."""
    study.gates(release="kld.mean < 0.01")
    study.run("--quantgate-tag", "v1", "--quantgate-report", "out")
    study.log()
    monkeypatch.chdir(study.path)
    return study


def quantgate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUANTGATE")}
    return subprocess.run(
        [sys.executable, "-m", "pytest_quantgate.cli", *arguments],
        capture_output=True, text=True, cwd=folder, check=False, env=environment,
    )  # fmt: skip


def test_the_script_is_the_function():
    """`quantgate` of the package's metadata is `main`."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["quantgate"].partition(":")
    assert getattr(import_module(module), name) is main


def test_every_command_in_a_process_of_its_own(judged):
    """Each command does its work from the folder of the configuration, and exits as it should."""
    plan = quantgate("plan", "quantgate.toml", folder=judged.path)
    assert plan.returncode == 0
    assert "good tokens" in plan.stdout
    listed = quantgate("history", folder=judged.path)
    (run,) = History(judged.path / ".quantgate").runs()
    assert listed.stdout.splitlines()[1].split() == [run.id, "v1", "FAIL", "good", "PASS,", "bad", "FAIL"]
    found = quantgate("rejudge", "out/report.json", "--gate", "kld.mean < 99", folder=judged.path)
    assert (found.returncode, found.stdout.count("PASS")) == (0, 2)
    assert "baseline tokens" in quantgate("store", "ls", folder=judged.path).stdout
    assert "tokens" in quantgate("baseline", "show", folder=judged.path).stdout
    exported = quantgate("baseline", "export", "base.zip", folder=judged.path)
    assert exported.returncode == 0, exported.stderr
    taken = quantgate("baseline", "import", "base.zip", "--store", "new", folder=judged.path)
    assert taken.returncode == 0, taken.stderr
    pruned = quantgate("store", "prune", "--older-than", "0", "--store", "new", folder=judged.path)
    assert "removed" in pruned.stdout
    assert judged.log() == []


def test_no_engine_is_imported(judged, run_python):
    """Rejudging imports no engine: there is no model to load."""
    report, store = judged.path / "out" / "report.json", judged.path / ".quantgate"
    printed = run_python(
        "import sys\nfrom pytest_quantgate.cli import main\n"
        f"code = main(['rejudge', {str(report)!r}, '--store', {str(store)!r},"
        " '--gate', 'kld.p99 < 99 and ppl.ratio < 9 and disk.ratio < 2', '--confidence', '0.9'])\n"
        f"print(code, [name for name in {HEAVY} if name in sys.modules])"
    )
    assert printed.splitlines()[-1] == "0 []"


def test_history_imports_no_numpy(judged, run_python):
    """Listing runs needs neither arrays nor pytest."""
    printed = run_python(
        "import sys\nfrom pytest_quantgate.cli import main\n"
        f"main(['history', '--store', {str(judged.path / '.quantgate')!r}])\n"
        "print([name for name in ('numpy', 'scipy', 'pytest') if name in sys.modules])"
    )
    assert printed.splitlines()[-1] == "[]"


# --- rejudge


def test_rejudge_gives_the_sessions_verdicts(judged, capsys):
    """The same gate gets the same sentence as in the session; exit code 1 where it does not hold."""
    report = json.loads((judged.path / "out" / "report.json").read_text())
    assert main(["rejudge", "out/report.json", "--gate", "kld.mean < 0.01"]) == 1
    lines = capsys.readouterr().out.splitlines()
    outcomes = {result["variant"]: result["outcome"] for result in report["results"]}
    assert {line.split()[1].rstrip(":"): line.split()[0] for line in lines} == outcomes
    figures = {row["name"]: row["figures"]["kld.mean"]["value"] for row in report["variants"]}
    assert all(f"kld.mean = {figures[name]:.4g}"[:16] in lines[index] for index, name in enumerate(figures))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--gate", "top1_agreement > 0.1", "--variant", "good"],
            0,
            "PASS          good: top1_agreement = 0.",
        ),
        (["--gate", "disk.ratio < 1"], 0, "disk.ratio = 0.58"),
        (["--gate", "since('v1').ppl.delta <= 0"], 0, "since('v1').ppl.delta = 0"),
        (
            ["--gate", "ppl.within_expected <= 1", "--variant", "good"],
            0,
            "PASS          good: ppl.within_expected = 0.0",
        ),
        (["--gate", "vram < 1GiB"], 1, "the report names no observation that vram is computed from"),
        (["--gate", "ppl(window=128) < 99"], 1, "no observation that ppl(window=128) is computed from"),
        (["--gate", "ppl.delta < 6.9", "--variant", "bad", "--confidence", "0.99"], 1, "INCONCLUSIVE  bad: "),
    ],
)
def test_rejudge(judged, capsys, arguments, code, said):
    """Other gates, also on metrics that the session was not asked for; what is missing never passes."""
    assert main(["rejudge", "out/report.json", *arguments]) == code
    assert said in capsys.readouterr().out
    assert judged.log() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out/report.json", "--gate", "ppl <"], "expected a limit"),
        (["out/report.json", "--gate", "pppl < 1"], "unknown metric 'pppl'; did you mean 'ppl'?"),
        (["out/report.json", "--gate", "disk < 1"], "needs a unit"),
        (["out/report.json", "--gate", "since('v9').ppl.delta < 1"], "unknown run 'v9'; tags: v1"),
        (["out/report.json", "--gate", "ppl < 1", "--variant", "godo"], "did you mean 'good'?"),
        (["out/report.json", "--gate", "ppl < 1", "--confidence", "1"], "write a number between 0 and 1"),
        (["out/report.json", "--gate", "ppl < 1", "--store", "nowhere"], "there is no store"),
        (["nowhere.json", "--gate", "ppl < 1"], "cannot be read (No such file or directory)"),
        (["quantgate.toml", "--gate", "ppl < 1"], "quantgate.toml is no report: not JSON"),
        (["out/report.json"], "the following arguments are required: --gate"),
        (["out/report.json", "--gate", "ppl < 1", "--confidence", "x"], "invalid float value: 'x'"),
    ],
)
def test_rejudge_refuses(judged, capsys, arguments, said):
    """A mistake is exit code 4 and one line (a gate's with its caret), nothing on standard output."""
    try:
        code = main(["rejudge", *arguments])
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    assert code == 4
    assert said in printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == (3 if "expected a limit" in said else 1)


def test_rejudge_after_pruning(judged, capsys):
    """Observations that are gone leave the gate unmeasured."""
    assert main(["store", "prune", "--older-than", "0"]) == 0
    assert main(["rejudge", "out/report.json", "--gate", "ppl < 99"]) == 1
    assert "is not in the store" in capsys.readouterr().out


# --- the rest


def test_history_is_limited_and_harmless(judged, capsys):
    """--limit counts from the latest; what a tag holds cannot move a cursor."""
    History(judged.path / ".quantgate").add(Run(new_id(), tag="v2\x1b[2J\n"), {}, {})
    capsys.readouterr()
    main(["history", "--limit", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert r"v2\x1b[2J\n" in lines[1]


def test_nothing_yet(tmp_path, monkeypatch, capsys):
    """Without a store there is one line; with an empty one, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    assert main(["history"]) == 4
    assert (
        capsys.readouterr().err
        == f"quantgate: {tmp_path}/.quantgate: there is no store; name its folder with --store DIR\n"
    )
    (tmp_path / ".quantgate").mkdir()
    assert main(["history"]) == 0
    assert "no run yet" in capsys.readouterr().out
    assert main(["baseline", "show"]) == 4
    assert "no observation of the baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "expected"),
    [("", ".quantgate"), ('store = "cache"', "cache"), ("store = 3", None)],
)
def test_where_the_store_is(tmp_path, monkeypatch, capsys, written, expected):
    """The nearest configuration above says it, else it lies beside that."""
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    (tmp_path / "pyproject.toml").write_text(f"[tool.quantgate]\n{written}\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    main(["store", "ls"])
    said = capsys.readouterr().err
    assert (f"{tmp_path / expected}: there is no store" if expected else "store = 3: write a string") in said
    monkeypatch.setenv("QUANTGATE_STORE", "elsewhere")
    main(["store", "ls"])
    assert "elsewhere: there is no store" in capsys.readouterr().err


def test_prune(judged, capsys):
    """--dry-run removes nothing and names what the real one removes."""
    store = Store(judged.path / ".quantgate")
    known = {listing.key for listing in store.entries()}
    assert main(["store", "prune"]) == 0
    assert main(["store", "prune", "--older-than", "0", "--dry-run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "0 removed" in printed[0]
    assert {Path(line).stem for line in printed[1:]} == known == {listing.key for listing in store.entries()}
    main(["store", "prune", "--older-than", "0"])
    assert f"{len(known)} removed" in capsys.readouterr().out
    assert list(store.entries()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["store"], ["baseline", "export"], ["history", "--limit", "-1"]]
)
def test_mistakes_of_the_command_line(capsys, arguments):
    """argparse's own mistakes have pytest's exit code and one line that points to --help."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 4
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "--help" in said


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["plan"],
        ["history"],
        ["rejudge"],
        ["baseline"],
        ["baseline", "import"],
        ["store"],
        ["store", "prune"],
    ],
)
def test_help(capsys, arguments):
    """Every command explains itself."""
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--help"])
    assert raised.value.code == 0
    assert len(capsys.readouterr().out) > 100


# --- the archive


def base_step(number: int = 0, **changes) -> Step:
    return Step(
        "module:Observer", ModelSpec("baseline", "x", f"sha256:{number}"), Protocol.of("tokens"), **changes
    )


@pytest.fixture
def archive(tmp_path):
    """Return an exported baseline of two observations, and its keys."""
    store = Store(tmp_path / "from")
    for number in (0, 1):
        store.put(base_step(number), store_values.observation(number + 1))
    store.put(store_values.step(), store_values.observation())
    assert main(["baseline", "export", str(tmp_path / "a.zip"), "--store", str(tmp_path / "from")]) == 0
    return tmp_path / "a.zip"


def test_export_and_import(archive, tmp_path):
    """What is imported is what was exported, and nothing but the baseline's."""
    other = Store(tmp_path / "to")
    assert {step.key for step in take_in(other, archive)} == {base_step(0).key, base_step(1).key}
    assert {listing.key for listing in other.entries()} == {base_step(0).key, base_step(1).key}
    assert store_values.value_of(other.get(base_step(1).key)) == 2.0
    first = archive.read_bytes()
    main(["baseline", "export", str(archive), "--store", str(tmp_path / "to")])
    assert archive.read_bytes() == first
    assert not list(tmp_path.glob(".tmp-*"))


def rewritten(archive: Path, change) -> None:
    """Write an archive anew, with members and manifest as `change` leaves them."""
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    how = change(members, manifest) or zipfile.ZIP_STORED
    with zipfile.ZipFile(archive, "w", how) as new:
        for name, data in members.items():
            new.writestr(name, data)
        new.writestr("manifest.json", json.dumps(manifest))


def flip(members, manifest):
    name = next(iter(members))
    members[name] = members[name][:-40] + bytes([members[name][-40] ^ 1]) + members[name][-39:]


def flip_and_sign(members, manifest):
    import hashlib

    flip(members, manifest)
    manifest["entries"][0]["sha256"] = hashlib.sha256(next(iter(members.values()))).hexdigest()


def traverse(members, manifest):
    members["../../../evil.obs"] = next(iter(members.values()))


def traverse_by_key(members, manifest):
    name = next(iter(members))
    members["observations/../../evil.obs"] = members.pop(name)
    manifest["entries"][0]["key"] = "../../evil"


def swap(members, manifest):
    first, second = members
    members[first], members[second] = members[second], members[first]
    entries = manifest["entries"]
    entries[0]["sha256"], entries[1]["sha256"] = entries[1]["sha256"], entries[0]["sha256"]


def of_a_variant(members, manifest):
    import hashlib

    from pytest_quantgate.store.entry import encode

    step = store_values.step()
    data = b"".join(bytes(piece) for piece in encode(step, store_values.observation()))
    members[f"observations/{step.key}.obs"] = data
    manifest["entries"].append({"key": step.key, "sha256": hashlib.sha256(data).hexdigest()})


ATTACKS = {
    "changed": (flip, "has another digest than its manifest says"),
    "changed and signed": (flip_and_sign, "has the digest"),
    "a path": (traverse, "the member '../../../evil.obs' does not belong to it"),
    "a path as key": (traverse_by_key, "that of another step"),
    "two exchanged": (swap, "is that of another step"),
    "a variant's": (of_a_variant, "is not the baseline's"),
    "one missing": (lambda members, manifest: members.pop(next(iter(members))) and None, "or is missing"),
    "compressed": (lambda members, manifest: zipfile.ZIP_DEFLATED, "is compressed"),
    "another format": (
        lambda members, manifest: manifest.update(format="x"),
        "not that of an exported baseline",
    ),
    "newer": (lambda members, manifest: manifest.update(version=2), "a newer version wrote it"),
    "no entries": (lambda members, manifest: manifest.pop("entries") and None, "entries"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_archive_that_is_not_sound(archive, tmp_path, capsys, name):
    """Nothing of it is imported, nothing is written outside, and one line says why."""
    change, said = ATTACKS[name]
    rewritten(archive, change)
    before = set(tmp_path.rglob("evil*"))
    assert main(["baseline", "import", str(archive), "--store", str(tmp_path / "to")]) == 4
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert list(Store(tmp_path / "to").entries()) == []
    assert set(tmp_path.rglob("evil*")) == before == set()


@pytest.mark.parametrize("content", [b"", b"no archive" * 99, b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_no_archive(tmp_path, content):
    """Neither is a file that is no archive, or an empty one."""
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.zip: nothing was imported"):
        take_in(Store(tmp_path / "to"), tmp_path / "a.zip")
    with pytest.raises(StoreError, match="cannot be read"):
        take_in(Store(tmp_path / "to"), tmp_path / "missing.zip")


def test_an_archive_cut_short(archive, tmp_path):
    """Any beginning of an archive is refused, and imports nothing."""
    data = archive.read_bytes()
    for length in range(0, len(data), 997):
        (tmp_path / "cut.zip").write_bytes(data[:length])
        with pytest.raises(StoreError):
            take_in(Store(tmp_path / "to"), tmp_path / "cut.zip")
    assert list(Store(tmp_path / "to").entries()) == []
