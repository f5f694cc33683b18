"""The history of runs: kept whole, found by what people call a run, and never a reason for a run to fail."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from datetime import UTC, datetime

import pytest
import store_values
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import ConfigError, StoreError, UsageError
from pytest_quantgate.history import FILE, VERSION, History, Run, check_tag, new_id

GATE = "kld.mean < 99"


def add(history: History, number: int, tag: str = "", steps=()) -> Run:
    run = Run(f"20261121-0415{number:02d}-{number:04x}", "2026-11-21", tag, "PASS", {"good": "PASS"})
    history.add(run, {"number": number}, {"good": list(steps)})
    return run


def rows(file, query="SELECT count(*) FROM runs"):
    connection = sqlite3.connect(file)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


def test_what_is_kept_comes_back(tmp_path):
    """A run, its report and its steps are those that were added; the latest run comes first."""
    history = History(tmp_path)
    steps = [store_values.step(0), store_values.step(1)]
    first, second = add(history, 1, "v1", steps), add(history, 2)
    assert history.runs() == (second, first)
    assert history.runs(1) == (second,)
    assert history.report(first) == {"number": 1}
    assert history.steps(first) == {"good": tuple(steps)}
    assert history.steps(second) == {}


def test_reading_makes_nothing(tmp_path):
    """A store without runs has none, and no file."""
    assert History(tmp_path).runs() == ()
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), min_size=2))  # noqa: DTZ001
def test_ids_sort_by_time(times):
    """Ids of different seconds sort as these."""
    ids = [new_id(time.replace(tzinfo=UTC)) for time in sorted(times)]
    assert [text[:15] for text in ids] == sorted(text[:15] for text in ids)


@pytest.mark.parametrize(
    ("ref", "found"), [("20261121-041501-0001", 1), ("20261121-041502", 2), ("v1", 3), ("v2", 2)]
)
def test_names_of_a_run(tmp_path, ref, found):
    """A run is found by its id, by a beginning that only it has, and by its tag: the latest run with it."""
    history = History(tmp_path)
    made = [add(history, 1, "v1"), add(history, 2, "v2"), add(history, 3, "v1")]
    assert history.find(ref) == made[found - 1]


def test_a_beginning_of_several_ids(tmp_path):
    """What several ids begin with names none, and they are listed."""
    history = History(tmp_path)
    for number in (1, 2):
        add(history, number)
    with pytest.raises(UsageError, match=r"2 ids begin so \(20261121-041502-0002, 20261121-041501-0001\)"):
        history.find("2026")


def test_an_unknown_run_lists_the_known(tmp_path):
    """A run that is not there is refused with the tags and ids there are, and a suggestion."""
    history = History(tmp_path)
    with pytest.raises(UsageError, match="holds no run yet"):
        history.find("v1")
    add(history, 1, "release-1")
    with pytest.raises(
        UsageError, match=r"did you mean 'release-1'\? tags: release-1; latest runs: 20261121-0"
    ):
        history.find("release-2")
    with pytest.raises(UsageError, match="unknown run ''"):
        history.find("")


@pytest.mark.parametrize("tag", ["a\nb", " v1", "-v1", "x" * 101, "20261121-041500-3f2a", "\u202e"])
def test_tags_that_cannot_be(tag):
    """A tag is a short printable name that is not taken for an id or an option."""
    with pytest.raises(ConfigError, match="--quantgate-tag"):
        check_tag(tag)


def test_a_newer_file_is_refused_and_left_alone(tmp_path):
    """A file of a newer schema is refused in one line, for reading and for writing, and stays as it is."""
    history = History(tmp_path)
    add(history, 1)
    connection = sqlite3.connect(history.file)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = history.file.read_bytes()
    for use in (history.runs, lambda: add(history, 2)):
        with pytest.raises(
            StoreError, match=r"newer version \(schema 2, this one reads 1\); run pip install"
        ) as raised:
            use()
        assert "\n" not in str(raised.value)
    assert history.file.read_bytes() == before


def damage_first_page(data: bytes) -> bytes:
    return b"\0" * 200 + data[200:]


def damage_tables(data: bytes) -> bytes:
    return data[:4096] + b"\xff" * (len(data) - 4096)


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"not a database, but long enough to be taken for one" * 99, damage_first_page, damage_tables,
     lambda data: data[: len(data) // 2]],
)  # fmt: skip
def test_a_damaged_file_is_one_line(tmp_path, damage):
    """Whatever was done to the file, reading and writing it say so in one line that says what to do."""
    history = History(tmp_path)
    for number in range(20):
        add(history, number, "v1" * 30, [store_values.step(number)])
    run = history.runs(1)[0]
    history.file.write_bytes(damage(history.file.read_bytes()))
    said = []
    for use in (
        history.runs,
        lambda: history.find("v9"),
        lambda: history.steps(run),
        lambda: add(history, 30),
    ):
        try:
            use()
        except (StoreError, UsageError) as error:
            said.append(str(error))
    assert any("the history is damaged" in text and "move it away" in text for text in said)
    assert not any("\n" in text for text in said)


def test_rows_that_make_no_sense(tmp_path):
    """A sound file whose rows are not what was written is damaged as well."""
    history = History(tmp_path)
    run = add(history, 1, steps=[store_values.step()])
    connection = sqlite3.connect(history.file)
    connection.execute("UPDATE steps SET step = '{\"observe\": 3}'")
    connection.execute("UPDATE runs SET verdicts = '[1'")
    connection.commit()
    connection.close()
    for use in (history.runs, lambda: history.steps(run)):
        with pytest.raises(StoreError, match="the history is damaged"):
            use()


def test_a_file_of_another_program(tmp_path):
    """Somebody else's database is neither read nor written."""
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    for use in (History(tmp_path).runs, lambda: add(History(tmp_path), 1)):
        with pytest.raises(StoreError, match="is no history of quantgate"):
            use()
    assert rows(tmp_path / FILE, "SELECT name FROM sqlite_master") == [("theirs",)]


def test_many_processes_at_once(tmp_path):
    """Processes that write at the same time, also the very first run, all land."""
    children = []
    for writer in range(6):
        child = os.fork()
        if child == 0:
            try:
                for number in range(5):
                    run = Run(f"20261121-041500-{writer}{number}", status="PASS")
                    History(tmp_path).add(run, {}, {"good": [store_values.step(number)]})
            except BaseException:  # noqa: BLE001  the parent must see that it was something
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert len(History(tmp_path).runs()) == 30
    assert rows(tmp_path / FILE, "SELECT count(*) FROM steps") == [(30,)]


def test_killed_while_writing(tmp_path):
    """A process that is killed inside its transaction leaves the runs before it, and none of its own."""
    add(History(tmp_path), 1)

    def die_before_the_end():
        history = History(tmp_path)
        connection = sqlite3.connect(history.file, isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")  # pages reach the file before the end
        connection.execute("BEGIN IMMEDIATE")
        for number in range(2, 60):
            connection.execute(
                "INSERT INTO runs VALUES (?, '', '', '', '{}', ?)", (f"20261121-041500-{number}", "x" * 5000)
            )
        os.kill(os.getpid(), signal.SIGKILL)

    assert store_values.in_child(die_before_the_end) == -signal.SIGKILL
    assert (tmp_path / f"{FILE}-journal").exists()
    assert [run.id for run in History(tmp_path).runs()] == ["20261121-041501-0001"]
    add(History(tmp_path), 2)
    assert len(History(tmp_path).runs()) == 2


# --- what a session keeps


def test_a_run_is_kept_with_its_steps(study):
    """A run that judged something is one row: tag, verdicts, the report, and steps that the store has."""
    study.gates(release="kld.mean < 0.01 and disk < 1GiB")
    result = study.run("--quantgate-tag", "v1.2", "--quantgate-report", "out")
    history = History(study.path / ".quantgate")
    (run,) = history.runs()
    assert (run.tag, run.status) == ("v1.2", "FAIL")
    assert run.verdicts == {"good": "PASS", "bad": "FAIL"}
    result.stdout.fnmatch_lines([f"run: {run.id}, tag v1.2"])
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert (report["run"], report["tag"]) == (run.id, "v1.2")
    assert history.report(run) == report
    kinds = {
        name: sorted({step.protocol.kind for step in steps}) for name, steps in history.steps(run).items()
    }
    assert kinds == {"good": ["footprint", "tokens"], "bad": ["footprint", "tokens"]}
    assert all(step.model.name == name for name, steps in history.steps(run).items() for step in steps)


def test_nothing_judged_nothing_kept(study):
    """Neither a plan nor a run without gates is a run to come back to."""
    study.gates(release=GATE)
    study.run("--quantgate-plan")
    study.run("--collect-only")
    (study.path / "test_plain.py").write_text("def test_plain(quant_variant): pass\n")
    study.run("test_plain.py").assert_outcomes(passed=2)
    assert not (study.path / ".quantgate" / FILE).exists()


def test_kept_once_under_xdist(study):
    """The controller keeps the run, not each worker."""
    pytest.importorskip("xdist")
    study.gates(release=GATE, small="disk < 1GiB")
    study.run("-n", "3", "--quantgate-tag", "v1")
    (run,) = History(study.path / ".quantgate").runs()
    assert run.verdicts == {"good": "PASS", "bad": "PASS"}


@pytest.mark.parametrize("filters", ["default", "error"])
@pytest.mark.parametrize("content", [b"damaged" * 999, None])
def test_a_history_that_cannot_be_written_is_a_warning(study, content, filters):
    """A run whose history cannot be kept passes as it would, with one warning."""
    study.gates(release=GATE)
    folder = study.path / ".quantgate"
    folder.mkdir()
    if content is None:
        (folder / FILE).mkdir()
    else:
        (folder / FILE).write_bytes(content)
    result = study.run("-W", filters)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines([f"*StoreWarning: {folder / FILE}: *; this run is not kept"])
    result.stdout.no_fnmatch_line("run: *")


def test_two_variants_of_one_checkpoint(study):
    """Variants that share their observations each have their steps."""
    study.tables["variants.twin"] = study.tables["variants.good"]
    study.gates(release=GATE)
    study.run()
    history = History(study.path / ".quantgate")
    steps = history.steps(history.runs()[0])
    assert {step.key for step in steps["twin"]} == {step.key for step in steps["good"]}


def test_a_bad_tag_is_a_usage_error(study):
    """A tag that cannot be one ends the run at collection."""
    study.gates(release=GATE)
    result = study.run("--quantgate-tag", "20261121-041500-3f2a")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--quantgate-tag*looks like the id of a run*"])
