"""MMLU, C-Eval and GSM8K, against lm-evaluation-harness and against plain transformers: prompts, numbers, verdicts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import task_data  # noqa: E402
import tiny_models as tiny  # noqa: E402

from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.interfaces import Choices, Completion, Decoding, Prompt  # noqa: E402
from pytest_quantgate.metrics import ceval, gsm8k, mmlu  # noqa: E402
from pytest_quantgate.spec import Observation  # noqa: E402
from pytest_quantgate.tasks import rows, sheet  # noqa: E402
from pytest_quantgate.tasks.items import Item  # noqa: E402
from pytest_quantgate.tasks.task import Task  # noqa: E402
from pytest_quantgate.tasks.ways import ANSWERS  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "example_project"
DATA = Path(__file__).parents[2] / "shared" / "data"
GPT2 = DATA / "tokenizers" / "gpt2"
SUBJECTS = ("abstract_algebra", "college_biology", "high_school_world_history")
CHINESE = ("computer_network", "logic")
LETTERS = "ABCD"
LIMIT, SHOTS, WORKED = 8, 5, 8
PLACES = 8192
TOLERANCE = 1e-4
KINDS = ("llama", "qwen2", "mistral", "gemma2", "gemma3", "neox")
NETWORKS = ("example", *KINDS, "tiny vocabulary", "tiny vocabulary, bos")

needs_data = pytest.mark.skipif(not (DATA / "mmlu").is_dir(), reason=f"{DATA} is not there")


def quiet(_done: int, _total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Return a function from the name of a network to its loaded model; each is made once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = _made(name, tmp_path_factory.mktemp("network"))
        return made[name]

    return get


def _made(name: str, folder: Path) -> Any:
    """Load the example's model, a random one with GPT-2's vocabulary, or one with a tokenizer of 320 tokens."""
    if name == "example":
        if not (EXAMPLE / "model" / "model.safetensors").exists():
            pytest.skip("the example's model is not there")
        model = load(tiny.spec(EXAMPLE / "model"))
        model.max_length = PLACES  # rotary positions go on
        return model
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.SHAPE, "max_position_embeddings", PLACES)
        if name not in KINDS:
            return load(tiny.spec(tiny.save(folder, "qwen2", bos="bos" in name)))
        if not GPT2.is_dir():
            pytest.skip(f"{GPT2} is not there")
        tokenizer = transformers.AutoTokenizer.from_pretrained(GPT2)
        patch.setitem(tiny.SHAPE, "vocab_size", len(tokenizer))
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            patch.setitem(tiny.SHAPE, key, tokenizer.eos_token_id)
        network = tiny.network(name)
    assert 2e6 < sum(weight.numel() for weight in network.parameters()) < 10e6
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(tiny.spec(folder))


@dataclass
class Asked:
    """A task as this package asks it, and its items."""

    task: Task
    items: list[Item]
    observation: Observation


def ask(model: Any, task: Task, data: Path, **settings: Any) -> Asked:
    """Run a task as the engine does."""
    protocol = task.protocol({}, {"data": str(data), **settings}, Path())
    places: dict[str, Any] = dict(protocol.places)
    items = task.source.read(places["request"], Path(), task.kind).items
    return Asked(task, items, task.observe(tiny.Subject(model), protocol, None, quiet))


# --- lm-evaluation-harness


@dataclass
class Harness:
    """lm-eval's own tasks, over rows of local files instead of the hub's."""

    folder: Path
    tasks: Path

    def task(self, place: str, splits: dict[str, Sequence[Any]], **changes: Any) -> Any:
        """Return the task of a file of lm-eval's, and of the file that it includes."""
        yaml = pytest.importorskip("yaml")
        from lm_eval.api.task import ConfigurableTask

        file = self.tasks / place
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        if included := config.pop("include", ""):
            shared = yaml.safe_load((file.parent / included).read_text(encoding="utf-8"))
            config = {**shared, **config}
        for name in ("tag", "task_alias"):
            config.pop(name, None)
        files = {}
        for split, found in splits.items():
            target = self.folder / f"{file.stem}_{split}.jsonl"
            files[split] = str(task_data.write_lines(target, [dict(row) for row in found]))
        source = {"data_files": files, "cache_dir": str(self.folder / "cache")}
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": source, **changes}
        made = ConfigurableTask(config=config)
        made.build_all_requests(limit=LIMIT, rank=0, world_size=1)
        return made

    @staticmethod
    def model(model: Any, batch: int = 1) -> Any:
        """Return the same network as lm-eval drives it."""
        from lm_eval.models.huggingface import HFLM

        model.native.generation_config.max_new_tokens = None  # it would win over lm-eval's own limit
        return HFLM(
            pretrained=model.native,
            tokenizer=model.tokenizer,
            max_length=model.max_length,
            batch_size=batch,
        )


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """lm-eval, out of reach of the hub."""
    lm_eval = pytest.importorskip("lm_eval")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield Harness(tmp_path / "harness", Path(lm_eval.__file__).parent / "tasks")
    datasets.enable_progress_bars()


def same_choices(asked: Asked, tasks: Sequence[Any], model: Any) -> None:
    """Prompts byte for byte, log-probabilities to 1e-4, the same choice and the same accuracy."""
    theirs = Harness.model(model)
    logprob, right = asked.observation.arrays["logprob"], asked.observation.arrays["correct"]
    answers = sheet.texts(asked.observation, "answer")
    row = 0
    for task in tasks:
        found = theirs.loglikelihood(task.instances, disable_tqdm=True)
        for first in range(0, len(found), len(LETTERS)):
            requests = task.instances[first : first + len(LETTERS)]
            scores = [score for score, _ in found[first : first + len(LETTERS)]]
            item = asked.items[row]
            assert [request.args for request in requests] == [
                (item.prompt(), choice) for choice in item.choices
            ]
            assert logprob[row] == pytest.approx(scores, abs=TOLERANCE), item.id
            assert answers[row] == LETTERS[int(np.argmax(scores))]
            doc = requests[0].doc
            assert right[row] == task.process_results(doc, found[first : first + len(LETTERS)])["acc"]
            row += 1
    assert row == len(asked.items) == len(tasks) * LIMIT


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_mmlu_is_that_of_lm_eval(loaded: Callable[[str], Any], harness: Harness, name: str) -> None:
    """Five shots of three subjects, one of which has long prompts, on networks of every kind of attention."""
    model = loaded(name)
    subjects = SUBJECTS if name in KINDS else SUBJECTS[:2]  # few tokens in the vocabulary: long prompts
    asked = ask(
        model, mmlu.TASK, DATA / "mmlu", split="val", subjects=list(subjects), limit=LIMIT, shots=SHOTS
    )
    tasks = [
        harness.task(
            f"mmlu/default/mmlu_{subject}.yaml",
            {"test": _listed(subject, "val"), "dev": _listed(subject, "dev")},
            num_fewshot=SHOTS,
        )
        for subject in subjects
    ]
    same_choices(asked, tasks, model)
    assert not asked.observation.facts["remarks"]


def _listed(subject: str, split: str) -> list[dict[str, Any]]:
    """Return MMLU's rows as the hub has them: choices in a list, the answer as a number."""
    file = DATA / "mmlu" / split / f"{subject}_{split}.csv"
    return [
        {
            "question": row["question"],
            "choices": [row[letter] for letter in LETTERS],
            "answer": LETTERS.index(row["answer"]),
        }
        for row in rows.file_rows(file, ("question", *LETTERS, "answer"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["own", pytest.param("published", marks=needs_data)])
def test_ceval_is_that_of_lm_eval(
    loaded: Callable[[str], Any], harness: Harness, tmp_path: Path, source: str
) -> None:
    """Prompts in Chinese; the validation split of the published questions is made of rows of other subjects' dev."""
    data = tmp_path / "ceval"
    if source == "own":
        task_data.write_ceval(data, CHINESE, LIMIT)
    else:
        _write_published(data)
    model = loaded("qwen2" if source == "published" else "tiny vocabulary")
    asked = ask(model, ceval.TASK, data, subjects=list(CHINESE), limit=LIMIT, shots=SHOTS)
    tasks = [
        harness.task(
            f"ceval/ceval-valid_{subject}.yaml",
            {split: _chinese(data, subject, split) for split in ("val", "dev")},
            num_fewshot=SHOTS,
        )
        for subject in CHINESE
    ]
    same_choices(asked, tasks, model)


def _chinese(folder: Path, subject: str, split: str) -> list[dict[str, str]]:
    """Return C-Eval's rows with the same columns in both splits."""
    found = rows.file_rows(folder / split / f"{subject}_{split}.csv")
    return [{name: row[name] for name in ("question", *LETTERS, "answer")} for row in found]


def _write_published(folder: Path) -> None:
    """Write the examples of two subjects, and rows of others as their questions."""
    files = sorted((DATA / "ceval" / "dev").glob("*_dev.csv"))
    header = ["id", "question", *LETTERS, "answer"]
    others = [
        [row[name] for name in header]
        for file in files
        for row in rows.file_rows(file)
        if file.name.removesuffix("_dev.csv") not in CHINESE
    ]
    for number, subject in enumerate(CHINESE):
        dev = (DATA / "ceval" / "dev" / f"{subject}_dev.csv").read_bytes()
        (folder / "dev").mkdir(parents=True, exist_ok=True)
        (folder / "dev" / f"{subject}_dev.csv").write_bytes(dev)
        questions = others[number :: len(CHINESE)][:LIMIT]
        task_data.write_csv(folder / "val" / f"{subject}_val.csv", [header, *questions])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        ("example", "example", 0),
        ("example", "own", WORKED),
        ("tiny vocabulary", "own", WORKED),
        ("tiny vocabulary, bos", "own", WORKED),
        pytest.param(("llama", "published", WORKED), marks=needs_data),
        pytest.param(("gemma3", "published", WORKED), marks=needs_data),
    ],
)
def test_gsm8k_is_that_of_lm_eval(
    loaded: Callable[[str], Any], harness: Harness, tmp_path: Path, case: tuple[str, str, int]
) -> None:
    """Greedy answers in the plain form: prompts and texts alike, and the verdict of both filters on each."""
    name, source, shots = case
    model, data = loaded(name), tmp_path / "gsm8k"
    test, train = _worked(source)
    task_data.write_lines(data / "test.jsonl", test)
    task_data.write_lines(data / "train.jsonl", train)
    asked = ask(model, gsm8k.TASK, data, limit=LIMIT, shots=shots, new_tokens=48)
    task = harness.task(
        "gsm8k/gsm8k.yaml",
        {"test": test, "train": train},
        num_fewshot=shots,
        fewshot_config={"sampler": "first_n"},
    )
    assert [request.args[0] for request in task.instances] == [item.prompt() for item in asked.items]
    for request in task.instances:
        assert sorted(request.args[1]["until"]) == sorted(ANSWERS.defaults["stops"])
        request.args[1]["max_gen_toks"] = 48
    texts = Harness.model(model).generate_until(task.instances, disable_tqdm=True)
    assert sheet.texts(asked.observation, "answer") == texts
    verdicts = judged(task, texts)
    for filtered, statistic in FILTERS.items():
        assert asked.observation.arrays[statistic].tolist() == verdicts[filtered], statistic
    if source == "example":
        assert 0 < asked.observation.arrays["strict"].mean() <= 1
        assert asked.observation.arrays["form"].all()


def _worked(source: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return questions, and worked examples."""
    if source == "own":
        return task_data.sums(LIMIT), task_data.sums(WORKED, seed=100)
    file = DATA / "gsm8k" / "train.jsonl" if source == "published" else EXAMPLE / "data" / "arithmetic.jsonl"
    found = [{key: row[key] for key in ("question", "answer")} for row in rows.file_rows(file)]
    return found[WORKED : WORKED + LIMIT], found[:WORKED]


FILTERS = {"strict-match": "strict", "flexible-extract": "flexible"}


def judged(task: Any, texts: Sequence[str]) -> dict[str, list[int]]:
    """Return what lm-eval's filters make of texts, and its metric of that."""
    for request, text in zip(task.instances, texts, strict=True):
        request.resps[:] = [text]
    task.apply_filters()
    return {
        name: [
            int(task.process_results(request.doc, [request.filtered_resps[name]])["exact_match"])
            for request in task.instances
        ]
        for name in FILTERS
    }


@dataclass
class Told:
    """A model that says what it is told."""

    answers: Sequence[str]
    spec: Any = None
    max_length: int = PLACES
    bos_id: int | None = None
    prompts: list[Prompt] = field(default_factory=list)

    def encode(self, text: str) -> Any:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def likelihoods(self, asked: Sequence[Choices], progress: Any) -> Any:
        """Never asked."""

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Any) -> list[Completion]:
        """Return the answers, in order."""
        return [Completion(text, 1, "end") for text in self.answers]

    def remarks(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()


ANSWERS_BY_HAND = (
    ("#### 18", "18"), ("so\n#### 18.", "18"), ("#### 1,018", "1018"), ("#### 1018", "1,018"), ("#### $18", "18"),
    ("$18", "18"), ("It is $18.00", "18.00"), ("18 dollars.", "18"), ("#### -3", "-3"), ("-3", "-3"), ("#### - 3", "-3"),
    ("####18", "18"), ("#### 18 #### 19", "18"), ("#### 18 #### 19", "19"), ("#### 18\n#### 19", "18"), ("", "18"),
    ("none", "18"), ("#### ", "18"), ("#### .", "."), ("3.5", "3.5"), ("1.", "1"), ("18%", "18"), ("x = 7, y = 8", "8"),
    ("#### 0.50", "0.5"), ("#### 007", "7"), ("... 5", "5"), ("5 ...", "5"), ("$", "$"), ("$5, $6,", "6"),
    ("\u0663 #### 3", "3"), ("#### 12\u00a0000", "12"),
)  # fmt: skip


@pytest.mark.slow
def test_filters_are_those_of_lm_eval(harness: Harness) -> None:
    """Texts by hand, and thousands of random characters that matter: the verdict of both filters is lm-eval's."""
    dice = random.Random(0)
    random_ones = [
        (
            "".join(dice.choices("#### 0123456789.,$-\nx", k=dice.randrange(24))),
            dice.choice(("1", "-2", "3.5", "4,0")),
        )
        for _ in range(1500)
    ]
    near = [
        (
            f"{dice.choice(('#### ', '####', '', '$', 'is '))}{value}{dice.choice(('', '.', ',', ' x', ' 2', '%'))}",
            value,
        )
        for value in (dice.choice(("7", "-2", "3.5", "1,000", "$5")) for _ in range(1500))
    ]
    pairs = [*ANSWERS_BY_HAND, *random_ones, *near]
    docs = [{"question": f"q{n}", "answer": f"work\n#### {right}"} for n, (_, right) in enumerate(pairs)]
    items = [Item(str(n), doc["question"], doc["question"], doc["answer"]) for n, doc in enumerate(docs)]
    texts = [text for text, _ in pairs]
    task = harness.task("gsm8k/gsm8k.yaml", {"test": docs, "train": docs[:1]}, num_fewshot=0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    theirs = judged(task, texts)
    ours = ANSWERS.answer(Told(texts), items, dict(ANSWERS.defaults), quiet)
    for filtered, statistic in FILTERS.items():
        found = ours.numbers[statistic].tolist()
        wrong = [
            (pair, one)
            for pair, one, other in zip(pairs, found, theirs[filtered], strict=True)
            if one != other
        ]
        assert not wrong, (statistic, wrong[:5])
        assert 100 < sum(found) < len(found) - 100


# --- plain transformers


@pytest.mark.parametrize("kind", ["example", "llama", "qwen2", "mistral", "gemma2", "gemma3", "neox", "gpt2"])
def test_likelihoods_are_those_of_plain_logits(tmp_path: Path, kind: str) -> None:
    """Whole texts, padded on the left by the tokenizer, and `log_softmax` of all their logits: the same numbers."""
    folder = EXAMPLE / "model" if kind == "example" else tiny.save(tmp_path / "network", kind)
    if not (folder / "model.safetensors").exists():
        pytest.skip("the example's model is not there")
    model = load(tiny.spec(folder))
    model.max_length = PLACES if kind != "gpt2" else model.max_length
    data = task_data.write_mmlu(tmp_path / "mmlu", ("anatomy", "virology"), 6)
    shots = 1 if kind == "gpt2" else SHOTS  # absolute positions end
    asked = ask(model, mmlu.TASK, data, subjects=["anatomy", "virology"], shots=shots)
    expected = plainly(model, asked.items)
    assert asked.observation.arrays["logprob"] == pytest.approx(expected, abs=TOLERANCE)
    picked = [LETTERS[place] for place in expected.argmax(1)]
    assert sheet.texts(asked.observation, "answer") == picked


def plainly(model: Any, items: Sequence[Item]) -> np.ndarray:
    """Return the log-probability of every choice of every item."""
    tokenizer, found = model.tokenizer, np.zeros((len(items), len(LETTERS)))
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    for row, item in enumerate(items):
        texts = [item.prompt() + choice for choice in item.choices] + [item.prompt()]
        fed = tokenizer(texts, return_tensors="pt", padding=True)
        positions = (fed["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        with torch.no_grad():
            logits = model.native(
                fed["input_ids"], attention_mask=fed["attention_mask"], position_ids=positions
            ).logits
        logs = logits.log_softmax(-1)
        prompt = int(fed["attention_mask"][-1].sum())
        for column in range(len(LETTERS)):
            ids = fed["input_ids"][column]
            begin = int((fed["attention_mask"][column] == 0).sum()) + prompt
            own = range(begin, len(ids))
            found[row, column] = sum(float(logs[column, place - 1, ids[place]]) for place in own)
    return found


def test_a_shared_prompt_is_read_once_and_right(loaded: Callable[[str], Any], tmp_path: Path) -> None:
    """The questions of a subject are found to begin alike: what the crosschecks compare is the shared way."""
    model = loaded("tiny vocabulary")
    data = task_data.write_mmlu(tmp_path, ("anatomy",), 6)
    asked = ask(model, mmlu.TASK, data, subjects=["anatomy"])
    assert model._likelihoods._shares
    assert json.dumps(asked.observation.facts["remarks"]) == "[]"
