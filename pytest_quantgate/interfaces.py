"""The interfaces of the open sets, and what passes through them.

Metrics, backends and quantizers never import each other: an `Observer` looks at a `Model` that a backend gives, and a
`Quantizer` makes the checkpoint that a backend loads. They meet here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, runtime_checkable
from typing import Protocol as Interface

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.spec import (
        Estimate,
        FloatArray,
        IntArray,
        Json,
        ModelSpec,
        Observation,
        Protocol,
        Recipe,
        Scalar,
    )
    from pytest_quantgate.stats import Items

__all__ = [
    "Answering",
    "Choices",
    "Combining",
    "Completion",
    "Concurrent",
    "Decoding",
    "Divisible",
    "Model",
    "Observer",
    "Progress",
    "Prompt",
    "Quantizer",
    "Subject",
    "TokenScores",
    "Trace",
    "Window",
]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (done, total) items while a long pass runs."""


@dataclass(frozen=True, slots=True)
class Window:
    """Token ids that are fed at once, and which of them count.

    Attributes:
        ids: (T,) the tokens.
        start: index of the first scored token, >= 1; ids[start:] are scored, each from its left context.

    """

    ids: IntArray
    start: int = 1


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What one window yields, for its S = T - start scored tokens. Log-probabilities are natural, in float32.

    Attributes:
        logprob: (S,) log-probability of the token that is there.
        top1: (S,) the most probable token.
        ids: (S, K) the ids at which `at` was read: the model's own top K, or those that were asked for.
        at: (S, K) log-probabilities at `ids`; NaN where an endpoint does not tell them.
        floor: (S,) the smallest log-probability in the vocabulary: bounds what a truncated sum can miss. NaN where an
            endpoint does not tell it.

    """

    logprob: FloatArray
    top1: IntArray
    ids: IntArray
    at: FloatArray
    floor: FloatArray


@dataclass(frozen=True, slots=True)
class Trace:
    """One generation: its tokens and when each came.

    Attributes:
        ids: (N,) the new tokens.
        seconds: (N,) time from the call to each token: seconds[0] is the time to first token.

    """

    ids: IntArray
    seconds: FloatArray


@dataclass(frozen=True, slots=True)
class Choices:
    """A context, and what may follow it.

    Attributes:
        context: (T,) ids, T >= 1.
        continuations: the ids of each choice, one token or more.

    """

    context: IntArray
    continuations: tuple[IntArray, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued.

    Attributes:
        ids: (T,) ids, T >= 1.
        stream: which random numbers it draws, where it draws any: the same in whatever batch it runs.

    """

    ids: IntArray
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How prompts are continued.

    Attributes:
        new_tokens: at most so many.
        stops: texts that end an answer; neither they nor what follows belong to it.
        temperature: 0 for greedy.
        top_p: the share of probability that is drawn from (nucleus sampling, Holtzman et al., 2020).
        seed: of the random numbers.

    """

    new_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: up to the first stop, without special tokens.
        tokens: how many were made.
        ended: by a stop, by the model's end token, or by the limit.

    """

    text: str
    tokens: int
    ended: Literal["stop", "end", "length"]


class Model(Interface):
    """A loaded model, as a backend gives it.

    Attributes:
        spec: what was loaded.
        vocab_size: number of logits.
        max_length: longest context in tokens.
        load_seconds: time from nothing to ready.
        bos_id: the token that the tokenizer itself puts before a text; None if it puts none.

    """

    spec: ModelSpec
    vocab_size: int
    max_length: int
    load_seconds: float
    bos_id: int | None

    @property
    def native(self) -> Any:
        """The engine's own model, for tests that want it.

        Raises:
            NotMeasurableError: it cannot be handed out, since it lies in another process.

        """

    @property
    def tokenizer(self) -> Any:
        """The engine's own tokenizer.

        Raises:
            NotMeasurableError: as `native`.

        """

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text, without special tokens added."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation through the chat template, ready for the assistant's turn."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[IntArray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield one `TokenScores` per window, in order; `at[i]` (S, K) are the ids to read in window i.

        Raises:
            ObservationError: a logit is NaN or infinite.

        """

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue `ids` greedily by up to `new_tokens`; on a GPU every time stamp is synchronised."""

    def findings(self) -> Mapping[str, Json]:
        """Return {"quantized": {module: bits}, "dense": [linear modules left alone], "nonfinite": [tensor names]}.

        All are empty, and "unseen" is true, where the engine shows no layers.
        """

    def memory(self) -> Mapping[str, float]:
        """Return peak bytes since loading began.

        "vram" and "vram.reserved" on a GPU, "ram" on a CPU; in "others" what other processes hold on the device.
        """

    def close(self) -> None:
        """Free the model and its memory; closing twice is harmless."""


@runtime_checkable
class Answering(Interface):
    """A `Model` that answers many questions at once; any other answers one by one, through `score` and `generate`."""

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return for each question the log-probability (C,) of each choice: a sum over its tokens, in nats.

        Raises:
            ObservationError: a logit is NaN or infinite, or one question alone does not fit the memory.

        """

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return what the model makes of each prompt, in order.

        Raises:
            ObservationError: as `likelihoods`.

        """

    def remarks(self) -> Sequence[str]:
        """Return what a reader must know of how that was done: "the shared prompt was not cached, since …"."""


@runtime_checkable
class Concurrent(Interface):
    """A `Model` that continues several prompts at once, as a server does for its users."""

    def generate_many(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[Trace]:
        """Continue all prompts at once, greedily, each by `new_tokens`; seconds count from when the first was sent."""


class Subject(Interface):
    """What an observer looks at: the checkpoint's specification, and the loaded model for those that ask."""

    @property
    def spec(self) -> ModelSpec:
        """The checkpoint, with its folder."""

    @property
    def model(self) -> Model:
        """The loaded model; loaded on first access and shared by all steps of the model."""


class Observer(Interface):
    """One kind of observation and the metrics that are computed from it: one file in `metrics/`.

    Attributes:
        kind: short name, also the configuration table of its settings: "tokens" reads [tool.quantgate.tokens].
        device_bound: its numbers belong to a kind of device (speed, memory).
        paired: the variant's pass reads the baseline's observation (`Step.reference`).
        order: light and decisive kinds run first (sanity 0, footprint 1, generation 2, tokens 3).
        settings: names that its configuration table may set.

    """

    kind: str
    device_bound: bool
    paired: bool
    order: int
    settings: tuple[str, ...]

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve a metric's arguments over the configured settings to a complete protocol.

        Relative paths count from `root`. Reads data files to digest them, loads nothing else.

        Raises:
            UsageError: an argument or setting that cannot be used, a data file that does not exist or is empty.

        """

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Make the observation.

        Raises:
            ObservationError: no usable numbers came of it.
            NotMeasurableError: this machine cannot measure it.

        """

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a metric from stored observations; `metric.statistic` and `metric.relation` say what is asked.

        Raises:
            NotMeasurableError: the observation does not hold it (VRAM on a machine without a GPU).

        """


@runtime_checkable
class Combining(Interface):
    """An `Observer` of nothing: its metric is computed from those of all tasks that are measured."""

    def combined(self, found: Mapping[Metric, Estimate]) -> Estimate:
        """Return the metric, from the same relation of every task, of which there is at least one."""


class Quantizer(Interface):
    """A library that turns a recipe into a checkpoint: one file in `quantizers/`."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Progress) -> None:
        """Write a complete checkpoint (weights, configuration, tokenizer) into the empty folder `out`.

        Raises:
            UsageError: a parameter that the method does not have, or that does not fit the model.
            NotMeasurableError: the library cannot run here.

        """


@runtime_checkable
class Divisible(Interface):
    """An `Observer` whose pass can be made in parts, in a random order, and whose metrics are means of its items.

    Attributes:
        unit: what its items are called: "windows", "items".

    """

    unit: str

    def part(self, protocol: Protocol, seed: int, begin: int, end: int) -> Protocol:
        """Return the protocol of the items at places [begin, end) of the order that `seed` gives.

        It differs from the whole's by a parameter `part`; its observation is made against the whole reference.
        """

    def count(self, baseline: Observation) -> int:
        """Return how many items the whole pass has."""

    def seen(self, part: Observation) -> int:
        """Return how many items a part holds."""

    def joined(self, parts: Sequence[Observation]) -> Observation:
        """Return the observations of several parts as one."""

    def aligned(self, baseline: Observation, part: Observation) -> Observation:
        """Return of a whole observation what belongs to a part's items."""

    def is_mean(self, metric: Metric) -> bool:
        """Return whether a metric is an increasing function of a mean over items."""

    def items(
        self, metric: Metric, part: Observation, baseline: Observation, order: IntArray
    ) -> Items | None:
        """Return what a metric is the mean of, for the items of a part in the order (N,) in which they are visited.

        None for a metric that is no increasing function of a mean: a percentile.
        """

    def alone(self, metric: Metric, baseline: Observation, order: IntArray) -> Items | None:
        """Return the numbers behind a metric as far as the baseline alone knows them: unpaired, so too wide a spread.

        None where it knows nothing.
        """
