"""Ways of answering: what a kind of task asks of a model, and how it judges what comes back.

`CHOICES`    each item has choices; the most probable continuation is the answer.
`ANSWERS`    each item has a right answer; the model writes, and the answer is found in the text.
`PROGRAMS`   each item has a test; the model writes a function, which runs in a sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from typing import Protocol as Interface

import numpy as np

from pytest_quantgate.errors import ConfigError, ObservationError
from pytest_quantgate.interfaces import Choices, Decoding, Prompt
from pytest_quantgate.spec import digest
from pytest_quantgate.tasks import extraction
from pytest_quantgate.tasks.fitting import Fitting
from pytest_quantgate.tasks.plain import answering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Completion, Model, Progress
    from pytest_quantgate.spec import IntArray, Json
    from pytest_quantgate.tasks.items import Item

__all__ = ["ANSWERS", "CHOICES", "DECODING", "Answered", "Request", "Way", "decoding_of"]

Request = dict[str, Any]
"""Every setting of a task, resolved."""


class Answered(NamedTuple):
    """Answers to N items.

    Attributes:
        numbers: (N, …) arrays; "correct" (N,) in [0, 1] is always there.
        answers: the text of each, for people.
        facts: what a reader must know: "remarks".

    """

    numbers: Mapping[str, NDArray[Any]]
    answers: Sequence[str]
    facts: Mapping[str, Json]


class Way(Interface):
    """A way of answering."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """What can be asked beside the share of right items."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Its settings, all of which belong to the protocol."""

    def check(self, request: Request, place: str) -> None:
        """Refuse settings that cannot be used.

        Raises:
            ConfigError: says which.

        """

    def answer(
        self, model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress
    ) -> Answered:
        """Answer items and judge the answers.

        Raises:
            ObservationError: no usable answers came of it.
            NotMeasurableError: this machine cannot judge them.

        """


# --- choices


@dataclass(frozen=True, slots=True)
class _Choices:
    """Right where the right choice is the most probable; `norm` divides by a choice's characters, as acc_norm does."""

    statistics: tuple[str, ...] = ("norm",)

    @property
    def defaults(self) -> Mapping[str, Any]:
        return {}

    def check(self, request: Request, place: str) -> None:
        """Nothing can be set."""

    def answer(
        self, model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress
    ) -> Answered:
        """Score every choice of every item. Arrays: correct, norm (N,), logprob (N, C), of missing choices -1e30."""
        del request
        fitting = Fitting(model)
        asked = [_asked(fitting, item) for item in items]
        found = answering(model).likelihoods(asked, progress)
        widest = max(len(item.choices) for item in items)
        logprob = np.full((len(items), widest), -1e30)
        for line, values in zip(logprob, found, strict=True):
            line[: len(values)] = values
        sizes = np.ones_like(logprob)
        for line, item in zip(sizes, items, strict=True):
            line[: len(item.choices)] = [len(choice.lstrip()) or 1 for choice in item.choices]
        right = np.asarray([item.labels.index(item.expected) for item in items])
        picks = logprob.argmax(1)
        numbers = {
            "correct": (picks == right).astype(np.uint8),
            "norm": ((logprob / sizes).argmax(1) == right).astype(np.uint8),
            "logprob": logprob,
        }
        answers = [item.labels[pick] for item, pick in zip(items, picks, strict=True)]
        return Answered(numbers, answers, {"remarks": [*fitting.remarks(), *_remarks(model)]})


def _asked(fitting: Fitting, item: Item) -> Choices:
    endings = tuple(fitting.ending(item, choice) for choice in item.choices)
    if len({ids.tobytes() for ids in endings}) < len(endings):
        raise ObservationError(
            f"item {item.id!r}: the tokenizer writes two of its choices with the same tokens"
        )
    return Choices(fitting.ids(item, max(map(len, endings))), endings)


def _remarks(model: Model) -> list[Json]:
    return list(answering(model).remarks())


CHOICES: Way = _Choices()


# --- answers

DECODING: Mapping[str, Any] = {
    "chat": False,
    "system": "",
    "new_tokens": 256,
    "stops": ["Question:", "</s>", "<|im_end|>"],
}
_READINGS = ("strict", "flexible", "text")


def decoding_of(request: Mapping[str, Any]) -> Decoding:
    """Return how a task's answers are made."""
    return Decoding(
        new_tokens=request["new_tokens"],
        stops=tuple(request["stops"]),
        temperature=float(request.get("temperature", 0.0)),
        top_p=float(request.get("top_p", 1.0)),
        seed=int(request.get("seed", 0)),
    )


def written(
    model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress, samples: int = 1
) -> tuple[list[Completion], list[Json]]:
    """Return `samples` answers to each item, one item's after another, and what must be said of them."""
    fitting = Fitting(model, chat=request["chat"], system=request["system"])
    asked: list[IntArray] = [fitting.ids(item, request["new_tokens"]) for item in items]
    # the stream belongs to the item and not to its place, so that a part of a pass draws the same numbers
    streams = [int(digest(item.id)[:12], 16) * samples for item in items]
    prompts = [
        Prompt(ids, stream + number)
        for ids, stream in zip(asked, streams, strict=True)
        for number in range(samples)
    ]
    found = answering(model).complete(prompts, decoding_of(request), progress)
    return found, [*fitting.remarks(), *_remarks(model)]


def check_decoding(request: Request, place: str) -> None:
    """Refuse settings of the decoding that cannot be used.

    Raises:
        ConfigError: says which.

    """
    if request["new_tokens"] < 1:
        raise ConfigError(f"{place}: new_tokens = {request['new_tokens']}: it must be at least 1")
    if not all(isinstance(stop, str) and stop for stop in request["stops"]):
        raise ConfigError(f"{place}: stops = {request['stops']!r}: write a list of texts that are not empty")
    if request["system"] and not request["chat"]:
        raise ConfigError(f"{place}: system belongs to the chat form; set chat = true, too")


@dataclass(frozen=True, slots=True)
class _Answers:
    """Right where the answer that is found in the text is the expected one; see `extraction`."""

    statistics: tuple[str, ...] = (*_READINGS, "form")

    @property
    def defaults(self) -> Mapping[str, Any]:
        return {**DECODING, "extract": ""}

    def check(self, request: Request, place: str) -> None:
        """Resolve how an answer is read: by the form that the examples show, or any number in a conversation."""
        check_decoding(request, place)
        if request["extract"] not in ("", *_READINGS):
            raise ConfigError(f"{place}: extract = {request['extract']!r}: there are {', '.join(_READINGS)}")

    def answer(
        self, model: Model, items: Sequence[Item], request: Mapping[str, Any], progress: Progress
    ) -> Answered:
        """Write and read. Arrays: correct, strict, flexible, text, form (N,), tokens (N,)."""
        found, remarks = written(model, items, request, progress)
        columns = {name: np.zeros(len(items), dtype=np.uint8) for name in ("correct", *self.statistics)}
        for row, (item, answer) in enumerate(zip(items, found, strict=True)):
            expected = extraction.final(item.expected)
            is_worked = extraction.MARK in item.expected
            verdicts = {
                "strict": extraction.same_number(extraction.strict(answer.text), expected),
                "flexible": extraction.same_number(extraction.flexible(answer.text), expected),
                "text": extraction.same_text(answer.text.strip().partition("\n")[0], expected),
                "form": bool(extraction.strict(answer.text)) if is_worked else answer.ended != "length",
            }
            reading = request["extract"] or (
                "text" if not is_worked else "flexible" if request["chat"] else "strict"
            )
            for name, verdict in {**verdicts, "correct": verdicts[reading]}.items():
                columns[name][row] = verdict
        tokens = np.asarray([answer.tokens for answer in found], dtype=np.int32)
        return Answered({**columns, "tokens": tokens}, [one.text for one in found], {"remarks": remarks})


ANSWERS: Way = _Answers()
