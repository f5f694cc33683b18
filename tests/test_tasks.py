"""Tasks end to end with the fake backend: gates, table, answers, flips, early stopping, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_data
from fakes import FakeModel
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.cli import main
from pytest_quantgate.errors import UsageError
from pytest_quantgate.interfaces import Choices
from pytest_quantgate.metrics import ceval, gsm8k, mmlu, own
from pytest_quantgate.spec import ModelSpec
from pytest_quantgate.tasks.fitting import Fitting
from pytest_quantgate.tasks.items import Item
from pytest_quantgate.tasks.plain import answering
from pytest_quantgate.tasks.task import Task


def words(count: int) -> list[dict[str, Any]]:
    """Return questions whose right answer is what the undamaged fake finds most probable, but for every fifth."""
    fake = answering(FakeModel(ModelSpec("x", "x", "sha256:0")))
    encode = FakeModel(ModelSpec("x", "x", "sha256:0")).encode
    rng = np.random.default_rng(7)
    rows = []
    for number in range(count):
        choices = ["".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(4)]
        asked = Choices(
            encode(f"Question: word {number}\nAnswer:"), tuple(encode(f" {one}") for one in choices)
        )
        ((*scores,),) = fake.likelihoods([asked], lambda *_: None)
        best = int(np.argmax(scores))
        answer = (best + 1) % 4 if number % 5 == 0 else best
        rows.append({"id": f"w{number}", "question": f"word {number}", "choices": choices, "answer": answer})
    return rows


@pytest.fixture
def tasks(study: Any) -> Any:
    """A study with a multiple-choice and a question-answer task of the user's own."""
    rows = words(60)
    task_data.write_lines(study.path / "words.jsonl", rows)
    fake = FakeModel(ModelSpec("x", "x", "sha256:0"))
    said = fake.decode(fake.generate([1], 8).ids.tolist())
    sums = [{"question": f"What is {n}?", "answer": said if n % 2 else "something else"} for n in range(6)]
    task_data.write_lines(study.path / "sums.jsonl", sums)
    study.tables["tasks.words"] = 'kind = "multiple-choice"\ndata = "words.jsonl"'
    study.tables["tasks.sums"] = (
        'kind = "question-answer"\ndata = "sums.jsonl"\ncapability = "mathematics"\nnew_tokens = 8'
    )
    study.log()
    return study


def report(study: Any, *arguments: str) -> dict[str, Any]:
    """Run, and return what report.json says."""
    study.result = study.run("--quantgate-report", "out", *arguments)
    found: dict[str, Any] = json.loads((study.path / "out" / "report.json").read_text())
    return found


def test_own_tasks_are_metrics(tasks: Any) -> None:
    """Three lines of configuration make a gate: the same model drops nothing, a damaged one flips."""
    tasks.variant("same", seed=4, damage=0.0)
    tasks.gates(
        words="words.drop <= 0 and words.flips <= 0 and words.norm > -1", worst="worst_capability.drop <= 0"
    )
    found = report(tasks)
    status = {row["name"]: row["status"] for row in found["variants"]}
    assert status["same"] == "PASS"
    assert status["bad"] == "FAIL"
    verdict = next(
        result for result in found["results"] if result["variant"] == "bad" and "worst" in result["nodeid"]
    )
    assert "words" in json.dumps(verdict)


def test_worst_is_the_largest_of_all(tasks: Any) -> None:
    """It takes tasks of gates and of `measure`, and its interval holds for whichever is worst."""
    tasks.tables[""] += '\nmeasure = ["sums"]'
    tasks.gates(words="words.drop < 1", worst="worst_capability.drop < 0.9")
    found = report(tasks)
    figures = {row["name"]: row["figures"] for row in found["variants"]}["bad"]
    worst = figures["worst_capability.drop"]
    assert worst["value"] == figures["words.drop"]["value"] > 0
    assert worst["high"] >= figures["words.drop"]["high"]
    assert "the largest of 2 drops" in worst["note"]


def test_the_table_says_what_broke(tasks: Any) -> None:
    """Each capability has a row in terminal, JSON and Markdown, the worst of a variant first."""
    tasks.gates(words="words.drop < 1 and sums.drop < 1 and ppl.ratio < 1e9")
    found = report(tasks)
    rows = [row for row in found["capabilities"] if row["variant"] == "bad"]
    assert {row["capability"] for row in rows} == {"knowledge", "mathematics", "text"} | (
        {"instruction form"} if any(row["metric"] == "sums.form" for row in rows) else set()
    )
    words = next(row for row in rows if row["metric"] == "words")
    answers = {one["model"]: one for one in found["answers"] if one["metric"] == "words"}
    pairs = list(zip(answers["baseline"]["correct"], answers["bad"]["correct"], strict=True))
    assert words["lost"] == sum(before > after for before, after in pairs) > 0
    assert words["won"] == sum(before < after for before, after in pairs)
    flipped = {i for i, pair in zip(answers["bad"]["ids"], pairs, strict=True) if pair[0] != pair[1]}
    assert set(answers["bad"]["questions"]) == flipped
    text = tasks.result.stdout.str()
    assert text.index("what broke") < text.index("bad: knowledge")
    assert "### What broke" in (tasks.path / "out" / "report.md").read_text()


def test_flips_prints_both_answers(tasks: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The command shows question, right answer and what both models said, from the report alone."""
    monkeypatch.setenv("COLUMNS", "100")
    tasks.gates(words="words.drop < 1 and sums.drop < 1")
    found = report(tasks)
    file = str(tasks.path / "out" / "report.json")
    answers = {one["model"]: one for one in found["answers"] if one["metric"] == "words"}
    capsys.readouterr()
    assert main(["flips", file, "--task", "words", "--variant", "bad", "--limit", "0"]) == 0
    out = capsys.readouterr().out
    lost = [i for i, q in answers["bad"]["questions"].items()]
    assert all(f" {name}\n" in out for name in lost)
    assert "expected: " in out
    assert "question: word" in out
    assert main(["flips", file, "--task", "nothing"]) == 4
    assert "unknown task 'nothing'" in capsys.readouterr().err
    assert main(["flips", file, "--variant", "nobody"]) == 4


def test_a_report_is_judged_again(tasks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By the stored answers, without the study: each task by its own observation, also where two have one kind."""
    more = words(50)
    task_data.write_lines(tasks.path / "more.jsonl", more)
    tasks.tables["tasks.more"] = 'kind = "multiple-choice"\ndata = "more.jsonl"'
    tasks.gates(words="words.drop < 1 and more.drop < 1")
    found = report(tasks)
    figures = {row["name"]: row["figures"] for row in found["variants"]}["bad"]
    file, store = str(tasks.path / "out" / "report.json"), str(tasks.path / ".quantgate")
    capsys.readouterr()
    for name in ("words", "more"):
        drop = figures[f"{name}.drop"]["value"]
        gates = ["--gate", f"{name}.drop > {drop - 1e-6}", "--gate", f"{name}.drop < {drop + 1e-6}"]
        assert main(["rejudge", file, "--store", store, "--variant", "bad", *gates]) == 0, (
            capsys.readouterr().out
        )


def test_answers_are_taken_from_the_store(tasks: Any) -> None:
    """A second run loads no model, and judges another gate on the same answers."""
    tasks.gates(words="words.drop < 1")
    tasks.run()
    tasks.log()
    tasks.gates(words="words.flips < 1 and words.recovery > -1")
    tasks.run()
    assert not [line for line in tasks.log() if line.startswith("load")]


def test_other_data_are_another_observation(tasks: Any) -> None:
    """One changed answer in the file, and the task is asked again."""
    tasks.gates(words="words.drop < 1")
    tasks.run()
    tasks.log()
    file = tasks.path / "words.jsonl"
    file.write_text(file.read_text().replace('"answer": 0', '"answer": 1', 1))
    tasks.run()
    assert [line for line in tasks.log() if line.startswith("score")]


def test_a_task_stops_early(tasks: Any) -> None:
    """A hopeless variant is refuted after some of the items; the note names items, not windows."""
    rows = words(600)
    task_data.write_lines(tasks.path / "words.jsonl", rows)
    tasks.variant("hopeless", seed=6, damage=1.5)
    tasks.gates(words="words.flips < 0.01")
    tasks.tables = {k: v for k, v in tasks.tables.items() if k not in ("variants.good", "variants.bad")}
    found = report(tasks, "--quantgate-stop-early")
    assert any("of the items" in note for note in found["notes"])
    assert found["variants"][0]["status"] == "FAIL"


def test_a_plan_says_what_a_task_sees(tasks: Any) -> None:
    """Power is told in items, from the stored answers."""
    tasks.gates(words="words.drop < 0.2")
    tasks.run()
    result = tasks.run("--quantgate-plan")
    result.stdout.fnmatch_lines(["*bad: words.drop < 0.2: sees a change of *60 items*"])


def test_a_task_is_compared_with_an_earlier_run(tasks: Any) -> None:
    """Item by item: nothing changed."""
    tasks.gates(words="words.drop < 1")
    tasks.run("--quantgate-tag", "one")
    tasks.gates(words="since('one').words.delta > -0.001 and since('one').words.delta < 0.001")
    tasks.run().assert_outcomes(passed=2)


def test_native_tasks_run(study: Any) -> None:
    """MMLU, C-Eval and GSM8K from local files, HumanEval from a file in the sandbox."""
    task_data.write(study)
    task_data.write_ceval(study.path / "ceval")
    study.tables["ceval"] = 'data = "ceval"\nsubjects = ["logic"]'
    study.gates(
        knowledge="mmlu('stem').drop < 1 and mmlu.macro.drop < 1 and ceval.flips < 1",
        rest="gsm8k.strict > -1 and gsm8k.flexible > -1 and humaneval > -1",
    )
    found = report(study, "-k", "good")
    assert {row["capability"] for row in found["capabilities"]} >= {"knowledge", "Chinese"}
    row = next(row for row in found["variants"] if row["name"] == "good")
    assert {"gsm8k.strict", "gsm8k.flexible", "gsm8k.form", "mmlu.norm", "mmlu.macro"} <= set(row["figures"])
    said = next(one for one in found["answers"] if one["metric"] == "humaneval")
    assert all("\n# " in answer for answer in said["answers"])


# --- what is refused

BAD_TABLES = [
    ('kind = "quiz"\ndata = "words.jsonl"', "kind = 'quiz': there are multiple-choice, question-answer, code"),
    ('kind = "multiple-choice"', 'it needs data = "...", a JSON-lines file'),
    ('kind = "multiple-choice"\ndata = "no.jsonl"', "no.jsonl does not exist"),
    ('kind = "multiple-choice"\ndata = "words.jsonl"\nlimt = 3', "unknown key 'limt'; did you mean 'limit'?"),
    ('kind = "multiple-choice"\ndata = "words.jsonl"\nlimit = -1', "limit = -1"),
    ('kind = "multiple-choice"\ndata = "words.jsonl"\nlimit = "3"', "limit = '3': write a value like 0"),
    ('kind = "question-answer"\ndata = "words.jsonl"\nsystem = "Be brief."', "set chat = true, too"),
    ('kind = "question-answer"\ndata = "sums.jsonl"\nshots = 3\nexamples = "few.jsonl"', "shots = 3, and there are"),
    ('kind = "question-answer"\ndata = "sums.jsonl"\nprompt = "{questio}"', "has no column 'questio'; it has: question, answer"),
    ('kind = "question-answer"\ndata = "sums.jsonl"\nprompt = "{question"', "double other braces"),
    ('kind = "question-answer"\ndata = "sums.jsonl"\nextract = "regex"', "there are strict, flexible, text"),
    ('kind = "code"\ndata = "sums.jsonl"', "has no column 'prompt'"),
    ('kind = "code"\ndata = "sums.jsonl"\nsamples = 5', "greedy samples are all alike; set temperature"),
    ('kind = "multiple-choice"\ndata = "words.jsonl"\ncapability = ""', "write what it asks for"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "said"), BAD_TABLES)
def test_a_mistake_in_a_task_is_one_line(tasks: Any, table: str, said: str) -> None:
    """Exit code 4 before anything is measured, and no traceback."""
    task_data.write_lines(tasks.path / "few.jsonl", task_data.sums(2))
    tasks.tables["tasks.words"] = table
    tasks.gates(words="words.drop < 1")
    result = tasks.run()
    assert result.ret == 4, result.stdout.str()
    (line,) = [line for line in result.stderr.lines if said in line] or [result.stderr.str()]
    assert said in line
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert not tasks.log()


BAD_ROWS = [
    ('{"question": "a", "choices": ["x", "y"], "answer": "C"}', "row 1: answer is 'C'; it must be"),
    ('{"question": "a", "choices": ["x"], "answer": "A"}', "row 1: choices must be a list of 2 to 26 texts"),
    ('{"question": "a", "choices": ["x", "y"]}', "row 1 has no column 'answer'"),
    ('{"choices": ["x", "y"], "answer": 0}', "has no column 'question'"),
    ('{"question": null, "choices": ["x", "y"], "answer": 0}', "question is NoneType, not text"),
    ('["question"]', "row 1 is no JSON object"),
    ('{"question": "a", "choi', "cannot be read as .jsonl"),
    ("", "no item is left"),
    ('{"id": 7, "question": "a", "choices": ["x", "y"], "answer": 0}\n' * 2, "the id '7' stands there twice"),
]


@pytest.mark.parametrize(("rows", "said"), BAD_ROWS)
def test_a_row_that_cannot_be_used_is_named(tasks: Any, rows: str, said: str) -> None:
    """File and row, in one line."""
    (tasks.path / "words.jsonl").write_text(rows)
    tasks.gates(words="words.drop < 1")
    result = tasks.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])


@pytest.mark.parametrize("name", ["mmlu", "ppl", "tokens-2", "_x", "class"])
def test_a_task_needs_a_name_of_its_own(tasks: Any, name: str) -> None:
    """Built-in metrics cannot be replaced by accident, and a name must be one in a gate."""
    tasks.tables[f"tasks.{name}"] = 'kind = "multiple-choice"\ndata = "words.jsonl"'
    tasks.gates(words="words.drop < 1")
    result = tasks.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*cannot be a metric's name*"])


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("mmlu('algebra').drop < 1", "unknown subject of mmlu 'algebra'; did you mean 'abstract_algebra'?"),
        (
            "mmlu(subjects='abstract_algebra,stam').drop < 1",
            "unknown subject in [tool.quantgate.mmlu] 'stam'",
        ),
        ("mmlu(split='test2').drop < 1", "abstract_algebra_test2.csv does not exist"),
        ("mmlu(shots=6).drop < 1", "shots = 6: the data have 5 examples a subject"),
        ("mmlu(subjects='law').drop < 1", "unknown subject in [tool.quantgate.mmlu] 'law'"),
        ("mmlu.flips.drop < 1", "compares with the baseline itself"),
        ("worst_capability < 1", "write worst_capability.drop"),
        ("worst_capability.drop < 1", "has no task; name one in a gate"),
        ("humaneval(pass_at=5) > 0", "pass_at = 5: it takes at least as many samples"),
        ("gsm8k(limit=1.5) > 0", "limit = 1.5: write a value like 0"),
        ("mmlu.drop < 5ms", "is a pure number"),
    ],
)
def test_a_mistake_in_a_gate_of_a_task_is_one_line(study: Any, gate: str, said: str) -> None:
    """Subjects, splits and settings are checked at collection."""
    task_data.write(study)
    study.gates(one=gate)
    result = study.run()
    assert result.ret == 4, result.stdout.str()
    assert said in result.stderr.str(), result.stderr.str()


def test_an_answer_outside_the_letters_is_named(tmp_path: Path) -> None:
    """The file of the row, its number, and what may stand there."""
    task_data.write_csv(tmp_path / "test" / "anatomy_test.csv", [["q", "a", "b", "c", "d", "E"]])
    settings = {"data": str(tmp_path), "subjects": "anatomy", "shots": 0}
    with pytest.raises(
        UsageError, match=r"anatomy_test.csv row 1: answer is 'E'; it must be one of A, B, C, D"
    ):
        mmlu.TASK.protocol({}, settings, tmp_path)
    task_data.write_csv(tmp_path / "test" / "anatomy_test.csv", [["q", "a", "b", "c", "A"]])
    with pytest.raises(UsageError, match="row 1 has not the columns question, A, B, C, D, answer"):
        mmlu.TASK.protocol({}, settings, tmp_path)


def test_offline_says_what_is_missing(study: Any) -> None:
    """A data set of the hub, not in the cache: one line, and which setting helps."""
    study.gates(one="gsm8k.drop < 1")
    result = study.run("--quantgate-offline")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*openai/gsm8k main test cannot be had (*set *gsm8k* data to a local file*"])


def test_a_conversation_needs_a_template(study: Any) -> None:
    """The fake has none: the gate fails with the reason instead of asking in another form."""
    task_data.write(study)
    study.tables["gsm8k"] += "\nchat = true"
    study.variant("mute", seed=8, no_template=True)
    study.gates(one="gsm8k > -1")
    result = study.run("-k", "mute")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*its tokenizer has no chat template*"])


# --- prompts


def contents(task: Task, **request: Any) -> list[Item]:
    root = Path(request.pop("root"))
    protocol = task.protocol(request, {}, root)
    places: dict[str, Any] = dict(protocol.places)
    return task.source.read(places["request"], root, "here").items


def test_the_prompt_of_mmlu(tmp_path: Path) -> None:
    """Byte for byte, with the examples and the subject's name."""
    task_data.write_mmlu(tmp_path, ("high_school_physics",))
    (item, *_) = contents(
        mmlu.TASK, root=tmp_path, data=str(tmp_path), subjects="high_school_physics", shots=1
    )
    assert item.prompt() == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Which word has number 50?\nA. cloud\nB. ember\nC. glass\nD. moss\nAnswer: C\n\n"
        "Which word has number 0?\nA. stone\nB. river\nC. cloud\nD. ember\nAnswer:"
    )
    assert item.choices == (" A", " B", " C", " D")
    assert item.expected == "A"


def test_the_prompt_of_ceval(tmp_path: Path) -> None:
    """The first line names the subject in Chinese."""
    task_data.write_ceval(tmp_path)
    (item, *_) = contents(ceval.TASK, root=tmp_path, data=str(tmp_path), subjects="logic", shots=0)
    assert item.prompt() == (
        "以下是中国关于逻辑学的单项选择题，请选出其中的正确答案。\n\n"  # noqa: RUF001
        "Which word has number 0?\nA. stone\nB. river\nC. cloud\nD. ember\n答案："  # noqa: RUF001
    )


def test_the_prompts_of_gsm8k(tmp_path: Path) -> None:
    """Worked examples in the plain form, a wish for the last line in a conversation."""
    task_data.write_lines(tmp_path / "test.jsonl", task_data.sums(2))
    task_data.write_lines(tmp_path / "train.jsonl", task_data.sums(9, seed=100))
    (item, *_) = contents(gsm8k.TASK, root=tmp_path, data=str(tmp_path))
    assert item.prompt(1) == (
        "Question: What is 100 and 101 together?\nAnswer: 100 + 101 = 201\n#### 201\n\n"
        "Question: What is 0 and 1 together?\nAnswer:"
    )
    assert len(item.shots) == 8
    (item, *_) = contents(gsm8k.TASK, root=tmp_path, data=str(tmp_path), chat=True)
    assert item.prompt().startswith("What is 0 and 1 together?\nThink step by step.")
    assert not item.shots


def model(longest: int) -> FakeModel:
    made = FakeModel(ModelSpec("x", "x", "sha256:0"))
    made.max_length = longest
    return made


def test_an_item_that_is_too_long_gives_up_examples() -> None:
    """The last examples go first; a bare question that is still too long loses its beginning; both are said."""
    item = Item("q1", "?", tail="T" * 10, head="H" * 10, shots=("a" * 20, "b" * 20))
    fitting = Fitting(model(64))
    assert len(fitting.ids(item, 4)) == 60
    assert fitting.remarks() == []
    assert len(fitting.ids(item, 10)) == 40
    assert len(fitting.ids(item, 30)) == 20
    assert len(fitting.ids(item, 50)) == 14
    assert fitting.remarks() == [
        "3 items are longer than the context (q1, q1, q1): asked with fewer examples",
        "1 item is longer than the context (q1): cut at the beginning",
    ]


@given(st.text(alphabet="abc \n", min_size=1, max_size=30), st.text(alphabet="abc", min_size=1, max_size=5))
def test_a_choice_is_what_it_adds(tail: str, choice: str) -> None:
    """For a tokenizer that joins nothing, a choice's ids are its own."""
    fake = model(4096)
    found = Fitting(fake).ending(Item("q", "?", tail=tail), choice)
    assert found.tolist() == fake.encode(choice).tolist()


# --- where no sandbox can be built

NO_BOX = """
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.sandbox import Outcome
from pytest_quantgate.tasks import programs

class NoBox:
    def __init__(self, limits, *, unsafe=False):
        if not unsafe:
            raise NotMeasurableError("no sandbox for programs can be built here: no seccomp")
        self.facts = {"sandbox": "UNSANDBOXED", "python": "3.11"}
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def judge(self, asked):
        return [Outcome(True, "passed", 0.0) for _ in asked]

programs.Box = NoBox
"""


@pytest.fixture
def boxless(study: Any) -> Any:
    """A study with a code task, on a machine without a sandbox."""
    task_data.write(study)
    conftest = study.path / "conftest.py"
    conftest.write_text(conftest.read_text() + NO_BOX)
    study.gates(code="humaneval.drop < 0.1")
    study.tables = {name: body for name, body in study.tables.items() if name != "variants.bad"}
    return study


def test_without_a_sandbox_no_program_runs(boxless: Any) -> None:
    """The gate is skipped with the reason; it fails when strict; it never passes."""
    result = boxless.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no sandbox for programs can be built here: no seccomp*"])
    boxless.run("--quantgate-strict").assert_outcomes(failed=1)


def test_the_user_may_run_programs_all_the_same(boxless: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command line, or by the environment; the report says what that means."""
    result = boxless.run("--quantgate-allow-unsafe-code")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*UNSANDBOXED: programs that a model wrote ran with this user's rights*"])
    monkeypatch.setenv("QUANTGATE_ALLOW_UNSAFE_CODE", "1")
    boxless.run("--quantgate-refresh").assert_outcomes(passed=1)


def test_no_file_can_allow_it(boxless: Any) -> None:
    """A pull request writes files: the key is unknown in TOML and in an ini file."""
    boxless.tables[""] += "\nallow_unsafe_code = true"
    result = boxless.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*unknown key 'allow_unsafe_code'*"])
    boxless.tables[""] = boxless.tables[""].replace("\nallow_unsafe_code = true", "")
    (boxless.path / "pytest.ini").write_text("[pytest]\nquantgate_allow_unsafe_code = true\n")
    boxless.run("--quantgate-offline", "--strict-config").assert_outcomes(passed=0)


# --- what a review found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"subjects": [1]}, r"subjects = \[1\]: write a list of texts"),
        ({"data": "x" * 5000}, "there is no folder|cannot be read|File name too long"),
        ({"data": "data/nosuch"}, "there is no folder .*data/nosuch, and it is no id of the hub"),
    ],
)
def test_odd_settings_of_an_exam(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """One line for each, no traceback."""
    with pytest.raises((UsageError, OSError), match=said):
        mmlu.TASK.protocol({}, {"data": str(tmp_path), **settings}, tmp_path)


@pytest.mark.parametrize(
    "prompt",
    ["{question:d}", "{question!r}", "{question:{answer}}", "{question.__class__}", "{0}", "{}", "{a.b}"],
)
def test_a_template_takes_names_alone(tmp_path: Path, prompt: str) -> None:
    """Format strings can do more than is wanted here."""
    file = task_data.write_lines(tmp_path / "q.jsonl", task_data.sums(1))
    with pytest.raises(UsageError, match="only names of columns stand in braces"):
        gsm8k.TASK.protocol({}, {"data": str(file), "prompt": prompt, "shots": 0}, tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["B", "A"], "answer": "A"}, "is a choice and names another"),
        ({"choices": ["1", "2"], "answer": 1}, "is a choice and names another"),
        ({"choices": ["a", "a"], "answer": 0}, "choices must be texts that differ"),
        ({"choices": ["a", ""], "answer": 0}, "none of them empty"),
        ({"choices": ["a", None], "answer": 0}, "choice is NoneType, not text"),
        ({"choices": ["a", "b"], "answer": 0, "group": None}, "group is NoneType, not text"),
        ({"choices": ["a", "b"], "answer": 0, "id": ["x"]}, "id is list, not text"),
        ({"choices": ["a", "\ud800"], "answer": 0}, "holds half a character"),
        ({"choices": ["a", "b"], "answer": True}, "answer is True"),
    ],
)
def test_what_could_mean_two_things_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    """Rather than guessed."""
    file = task_data.write_lines(tmp_path / "q.jsonl", [{"question": "q", **row}])
    with pytest.raises(UsageError, match=said):
        own.CHOICE.protocol({}, {"data": str(file), "task": "t"}, tmp_path)


def test_a_place_may_be_written_as_text(tmp_path: Path) -> None:
    """As a CSV file writes it."""
    file = tmp_path / "q.csv"
    task_data.write_csv(file, [["question", "A", "B", "answer"], ["q", "x", "y", "1"]])
    (item,) = contents(own.CHOICE, root=tmp_path, data=str(file))
    assert item.expected == "B"


def test_a_stop_may_be_one_text(tmp_path: Path) -> None:
    """A line end is a stop, not an empty list."""
    file = task_data.write_lines(tmp_path / "q.jsonl", task_data.sums(1))
    protocol = own.QUESTION.protocol({}, {"data": str(file), "task": "t", "stops": "\n"}, tmp_path)
    assert protocol["stops"] == ["\n"]


def test_no_item_is_its_own_example(tmp_path: Path) -> None:
    """Where the examples are the task's own file."""
    file = task_data.write_lines(tmp_path / "q.jsonl", task_data.sums(3))
    found = contents(own.QUESTION, root=tmp_path, data=str(file), examples="q.jsonl", shots=3)
    assert [len(item.shots) for item in found] == [2, 2, 2]
    assert all(item.tail not in "".join(item.shots) for item in found)


def test_examples_of_programs_show_the_solution(tmp_path: Path) -> None:
    """A prompt without its body would teach to write nothing."""
    file = task_data.write_lines(tmp_path / "c.jsonl", task_data.programs(3))
    (item, *_) = contents(own.PROGRAM, root=tmp_path, data=str(file), examples="c.jsonl", shots=2)
    assert item.shots == ('def add_1(x):\n    """Return x plus 1."""\n    return x + 1\n\n\n',)


@pytest.mark.parametrize(
    "settings",
    [
        {"seconds": float("nan")},
        {"seconds": 1e300},
        {"temperature": float("nan")},
        {"temperature": 1e-45},
        {"seed": -1},
    ],
)
def test_numbers_that_no_program_can_take(tmp_path: Path, settings: dict[str, Any]) -> None:
    """At collection, in one line."""
    file = task_data.write_lines(tmp_path / "c.jsonl", task_data.programs(1))
    with pytest.raises(UsageError):
        own.PROGRAM.protocol(
            {}, {"data": str(file), "task": "t", "samples": 2, "temperature": 1.0, **settings}, tmp_path
        )


@pytest.mark.parametrize("content", [b"\x1f\x8b" + b"x" * 40, b"[" * 100_000])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever is wrong inside."""
    file = tmp_path / ("q.jsonl.gz" if content[:1] == b"\x1f" else "q.jsonl")
    file.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as"):
        own.QUESTION.protocol({}, {"data": str(file), "task": "t"}, tmp_path)
