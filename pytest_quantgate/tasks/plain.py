"""Answers from a model that has no fast way: one question after another, through `score` and `generate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.interfaces import Answering, Completion, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.interfaces import Choices, Decoding, Model, Progress, Prompt
    from pytest_quantgate.spec import FloatArray

__all__ = ["answering"]


def answering(model: Model) -> Answering:
    """Return the model itself if it answers many questions at once; else a way round it."""
    return model if isinstance(model, Answering) else _OneByOne(model)


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """An `Answering` over any `Model`."""

    model: Model

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Score each choice in a window of its own."""
        found: list[FloatArray] = []
        for number, one in enumerate(asked, 1):
            windows = [
                Window(np.concatenate([one.context, ids]), len(one.context)) for ids in one.continuations
            ]
            sums = [float(scores.logprob.sum(dtype=np.float64)) for scores in self.model.score(windows)]
            found.append(np.asarray(sums))
            progress(number, len(asked))
        return found

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Generate one answer after another.

        Raises:
            NotMeasurableError: random answers are asked for.

        """
        if decoding.temperature:
            raise NotMeasurableError(
                f"the backend {self.model.spec.backend!r} generates greedily; leave temperature out"
            )
        found: list[Completion] = []
        for number, prompt in enumerate(prompts, 1):
            trace = self.model.generate(prompt.ids.tolist(), decoding.new_tokens, stop_at_end=True)
            text = self.model.decode(trace.ids.tolist())
            cuts = [text.index(stop) for stop in decoding.stops if stop in text]
            whole = len(trace.ids) >= decoding.new_tokens
            answer = Completion(text, len(trace.ids), "length" if whole else "end")
            found.append(replace(answer, text=text[: min(cuts)], ended="stop") if cuts else answer)
            progress(number, len(prompts))
        return found

    def remarks(self) -> Sequence[str]:
        """Say that it was slow."""
        return (f"the backend {self.model.spec.backend!r} answers one question at a time",)
