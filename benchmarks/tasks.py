"""How fast tasks are answered, against lm-evaluation-harness: one network, the same prompts, in one run, in turn.

Choices are five-shot MMLU questions of two subjects, ours by `CHOICES` from the text to the log-probabilities,
theirs by `HFLM.loglikelihood`. Answers are up to 128 greedy tokens behind eight worked examples of GSM8K, ours by
`written`, theirs by `HFLM.generate_until`. The ratio is their seconds over ours; beside it stands how far both agree.

Without ../shared/data the prompts are numbers, with as many tokens that are shared and as many of each question's own.
A random network would never end an answer, so one direction of its states is made to mean the end: answers of it end at
different lengths, and some at the limit.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from table import Row
from timing import Timing, alternate
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from pytest_quantgate.backends.transformers import TransformersModel
from pytest_quantgate.metrics import gsm8k, mmlu
from pytest_quantgate.tasks.items import Item
from pytest_quantgate.tasks.task import Task
from pytest_quantgate.tasks.ways import CHOICES, DECODING, written

__all__ = ["measure"]

DATA = Path(__file__).parents[2] / "shared" / "data"
SUBJECTS = ["professional_accounting", "professional_psychology"]
QUESTIONS = 24  # of each subject
PROMPTS = 16
NEW_TOKENS = 128
PLACES = 4096
VOCABULARY = 50_257
SHARED, OWN, WORKED = 530, 100, 900  # tokens of prompts that are made up
END = 2.1  # how much longer the end token's row of the head is than others
CHOICE_BATCHES, ANSWER_BATCHES = (1, 8), (1, 8, 16)
UNITS = {"choices": "questions", "answers": "prompts"}
AIMS = {"choices": "at least 6", "answers": "at least 2"}


@dataclass(slots=True)
class Kept:
    """A way of answering, and what it found the last time."""

    way: Callable[[], Any]
    found: Any = None

    def __call__(self) -> None:
        """Answer once more."""
        self.found = self.way()


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and what it is asked."""

    name: str
    model: TransformersModel
    choices: list[Item]
    answers: list[Item]


def measure(repetitions: int = 5) -> list[Row]:
    """Return questions and answers per second, and the ratios to lm-eval."""
    if importlib.util.find_spec("lm_eval") is None:
        return [Row("tasks", "", "lm-eval is not installed")]
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return [row for make in (_random, _example) for row in _rows(make(), repetitions)]


def _rows(case: Case, repetitions: int) -> list[Row]:
    return [
        *(_choices(case, batch, repetitions) for batch in CHOICE_BATCHES),
        *(_answers(case, batch, repetitions) for batch in ANSWER_BATCHES),
    ]


# --- what is asked


def _random() -> Case:
    """Return a random decoder of 24 M parameters with GPT-2's vocabulary, or as many numbers."""
    folder = DATA / "tokenizers" / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(folder) if folder.is_dir() else _numbers()
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=PLACES,
        tie_word_embeddings=False,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        initializer_range=0.06,  # or else every state is nearly the same
    )
    network: Any = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight[end] *= END
    millions = sum(weight.numel() for weight in network.get_decoder().layers.parameters()) / 1e6
    model = networks.in_memory(network, tokenizer)
    real = folder.is_dir() and (DATA / "mmlu").is_dir() and (DATA / "gsm8k").is_dir()
    asked = _published() if real else _made_up()
    return Case(f"random Qwen2, {millions:.0f} M decoder, vocabulary {VOCABULARY:,}", model, *asked)


def _numbers() -> Any:
    """Return a tokenizer of numbers whose end is none of them: lm-eval stops where the end's text occurs."""
    tokenizer = networks.numbers(VOCABULARY - 1)
    tokenizer.add_special_tokens({"eos_token": "<end>", "pad_token": "<end>"})
    return tokenizer


def _example() -> Case:
    """Return the example's model, which answers its own sums, its context made longer than it has learned."""
    model = networks.example()
    model.max_length = PLACES
    model.native.generation_config.max_new_tokens = None  # or it would win over lm-eval's own limit
    file = networks.EXAMPLE / "data" / "arithmetic.jsonl"
    choices = _published()[0] if (DATA / "mmlu").is_dir() else _made_up(shared=60, own=12)[0]
    return Case(
        "example model", model, choices, _items(gsm8k.TASK, str(file), examples=str(file), limit=PROMPTS)
    )


def _published() -> tuple[list[Item], list[Item]]:
    """Return questions of MMLU and of GSM8K."""
    train = str(DATA / "gsm8k" / "train.jsonl")
    sums = _items(gsm8k.TASK, train, examples=train, limit=PROMPTS + 8)[8:]
    return _items(mmlu.TASK, str(DATA / "mmlu"), split="val", subjects=SUBJECTS, limit=QUESTIONS), sums


def _items(task: Task, data: str, **settings: Any) -> list[Item]:
    protocol = task.protocol({}, {"data": data, **settings}, Path())
    places: dict[str, Any] = dict(protocol.places)
    return task.source.read(places["request"], Path(), task.kind).items


def _made_up(shared: int = SHARED, own: int = OWN) -> tuple[list[Item], list[Item]]:
    """Return prompts of numbers."""
    rng = np.random.default_rng(0)
    whole = [
        number for number in range(10, VOCABULARY - 1) if "0" not in str(number)
    ]  # "0" is a special token

    def numbers(count: int) -> str:
        return " ".join(map(str, rng.choice(whole, count)))

    heads = [f"{numbers(shared)}\n" for _ in SUBJECTS]
    choices = [
        Item(
            f"{place}/{number}",
            "",
            numbers(own),
            "A",
            head=head,
            choices=(" 1", " 2", " 3", " 4"),
            labels=tuple("ABCD"),
        )
        for place, head in enumerate(heads)
        for number in range(QUESTIONS)
    ]
    head = f"{numbers(WORKED)}\n"
    return choices, [Item(str(number), "", numbers(own), head=head) for number in range(PROMPTS)]


# --- choices


def _choices(case: Case, batch: int, repetitions: int) -> Row:
    requests = [
        ("loglikelihood", (item.prompt(), choice)) for item in case.choices for choice in item.choices
    ]
    theirs = _harness(case, batch, "loglikelihood", requests)

    ours = Kept(lambda: CHOICES.answer(case.model, case.choices, {}, _quiet).numbers["logprob"])
    timing = alternate(ours, theirs, repetitions)
    found = ours.found
    expected = np.asarray([score for score, _ in theirs.found]).reshape(found.shape)
    off = float(np.abs(found - expected).max())
    same = float((found.argmax(1) == expected.argmax(1)).mean())
    agreed = f"log-likelihoods to {off:.1g}, {same:.0%} of the answers the same"
    return _row(f"{case.name}: choices ({agreed})", batch, timing, len(case.choices))


# --- answers


def _answers(case: Case, batch: int, repetitions: int) -> Row:
    request = {**DECODING, "new_tokens": NEW_TOKENS}
    settings = {"until": request["stops"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    requests = [("generate_until", (item.prompt(), dict(settings))) for item in case.answers]
    theirs = _harness(case, batch, "generate_until", requests)

    ours = Kept(lambda: written(case.model, case.answers, request, _quiet)[0])
    timing = alternate(ours, theirs, repetitions)
    found = ours.found
    same = np.mean([one.text == other for one, other in zip(found, theirs.found, strict=True)])
    lengths = sorted(one.tokens for one in found)
    spread = f"{lengths[0]} to {lengths[-1]} tokens, mean {np.mean(lengths):.0f}"
    agreed = f"{spread}; {same:.0%} of the texts the same"
    return _row(f"{case.name}: answers ({agreed})", batch, timing, len(found))


def _harness(case: Case, batch: int, kind: str, requests: Sequence[tuple[str, tuple[Any, ...]]]) -> Kept:
    """Return lm-eval's answers to requests, by the same network."""
    instance: Any = importlib.import_module("lm_eval.api.instance").Instance
    huggingface: Any = importlib.import_module("lm_eval.models.huggingface")
    harness = huggingface.HFLM(
        pretrained=case.model.native,
        tokenizer=case.model.tokenizer,
        max_length=case.model.max_length,
        batch_size=batch,
    )
    asked = [instance(name, {}, arguments, 0) for name, arguments in requests]

    def answer() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar per batch, whatever it is told
            return getattr(harness, kind)(asked, disable_tqdm=True)

    return Kept(answer)


def _row(what: str, batch: int, timing: Timing, count: int) -> Row:
    kind = "choices" if ": choices" in what else "answers"
    return Row(
        f"tasks, {what}, to lm-eval at batch size {batch}",
        f"{count / timing.our_median:.3g} {UNITS[kind]}/s",
        f"{count / timing.their_median:.3g} {UNITS[kind]}/s",
        timing.share,
        timing.share_spread,
        AIMS[kind],
    )


def _quiet(_done: int, _total: int) -> None:
    """Report nothing."""
