"""A model that lies in another process, to be used like one that lies here; and recipes that are carried out there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import NotMeasurableError, WorkerError
from pytest_quantgate.executors.process import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.interfaces import (
        Choices,
        Completion,
        Decoding,
        Model,
        Progress,
        Prompt,
        TokenScores,
        Trace,
        Window,
    )
    from pytest_quantgate.spec import FloatArray, IntArray, Json, ModelSpec, Recipe

__all__ = ["RemoteModel", "load", "quantize"]


def load(reference: str, spec: ModelSpec, limit: float, *, allow_code: bool, allow_pickle: bool) -> Model:
    """Load a model in a process of its own, by the backend "module:attribute".

    Args:
        reference: the backend.
        spec: the model; its `python` names the interpreter.
        limit: seconds without a sign of life after which the process is taken to hang.
        allow_code: let the checkpoint's own Python code run.
        allow_pickle: accept weights that are not safetensors.

    Raises:
        QuantgateError: what the backend raised.
        WorkerError: the process died or hung.

    """
    worker = Worker(spec.name, spec.python, limit, spec.device)
    try:
        about = worker.call(
            "loading",
            "load",
            reference=reference,
            spec=spec,
            allow_code=allow_code,
            allow_pickle=allow_pickle,
        )
    except BaseException:
        worker.close()
        raise
    answers = about.pop("answers")
    return (RemoteAnswering if answers else RemoteModel)(spec, worker, **about)


def quantize(
    reference: str,
    name: str,
    recipe: Recipe,
    baseline: ModelSpec,
    out: Path,
    *,
    limit: float,
    progress: Progress,
) -> None:
    """Carry out a recipe in a process of its own, by the quantizer "module:attribute".

    Raises:
        QuantgateError: what the quantizer raised.
        WorkerError: the process died or hung.

    """
    worker = Worker(name, recipe.python, limit, baseline.device)
    try:
        worker.call(
            "quantizing",
            "quantize",
            progress,
            reference=reference,
            recipe=recipe,
            baseline=baseline,
            out=str(out),
        )
    finally:
        worker.close()


@dataclass
class RemoteModel:
    """A `Model` in another process; see `interfaces.Model` for the contract of its methods.

    Every method raises `WorkerError` if the process died or hangs.
    """

    spec: ModelSpec
    worker: Worker
    vocab_size: int
    max_length: int
    load_seconds: float
    bos_id: int | None

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self.worker.ended

    @property
    def native(self) -> Any:
        """Nothing: an engine's model cannot leave its process."""
        raise self._elsewhere("the engine's own model")

    @property
    def tokenizer(self) -> Any:
        """Nothing: an engine's tokenizer cannot leave its process."""
        raise self._elsewhere("the engine's own tokenizer")

    def _elsewhere(self, what: str) -> NotMeasurableError:
        return NotMeasurableError(
            f"{self.spec.name} runs in a process of its own, and {what} cannot leave it;"
            " leave isolate, python and requirements out for a test that needs it"
        )

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text (N,)."""
        ids: IntArray = self.worker.call("tokenizing", "encode", text=text)
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,)."""
        listed = [dict(message) for message in messages]
        ids: IntArray = self.worker.call("tokenizing", "encode_chat", messages=listed)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self.worker.call("detokenizing", "decode", ids=[int(i) for i in ids]))

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[IntArray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield one `TokenScores` per window, in order."""
        listed = None if at is None else list(at)
        number = self.worker.call("scoring", "score", windows=list(windows), top_k=top_k, at=listed)
        for _ in windows:
            scores: TokenScores = self.worker.call("scoring", "next_score", number=number)
            yield scores

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue `ids` greedily; the times are those of the other process."""
        trace: Trace = self.worker.call(
            "generating",
            "generate",
            ids=[int(i) for i in ids],
            new_tokens=new_tokens,
            stop_at_end=stop_at_end,
        )
        return trace

    def findings(self) -> Mapping[str, Json]:
        """Return what is quantized, what is not, and what is not finite."""
        found: Mapping[str, Json] = self.worker.call("looking at its weights", "findings")
        return found

    def memory(self) -> Mapping[str, float]:
        """Return the peak bytes of its process."""
        found: Mapping[str, float] = self.worker.call("reading its memory", "memory")
        return found

    def close(self) -> None:
        """End the process; closing twice is harmless."""
        self.worker.close()


class RemoteAnswering(RemoteModel):
    """A `RemoteModel` whose backend answers many questions at once; see `interfaces.Answering`."""

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return the log-probability of each choice."""
        found: list[FloatArray] = self.worker.call("answering", "likelihoods", progress, asked=list(asked))
        return found

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return the answer to each prompt."""
        found: list[Completion] = self.worker.call(
            "answering", "complete", progress, prompts=list(prompts), decoding=decoding
        )
        return found

    def remarks(self) -> Sequence[str]:
        """Return what a reader must know of how that was done."""
        try:
            told: Sequence[str] = self.worker.call("answering", "remarks")
        except WorkerError:
            return ()
        return told
