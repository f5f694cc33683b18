"""Token metrics: perplexity, KL divergence to the baseline, agreement of the most probable token.

One teacher-forced pass over a corpus, cut into windows by a named protocol (see `windows`), gives for every
scored token t with left context c the model's distribution. p is the baseline's, q the variant's, x_t the
token that is there.

ppl             exp(mean_t -log q(x_t | c)); lower is better; over tokens, not over words or bytes. `.delta` =
                PPL_q - PPL_p, `.ratio` = PPL_q / PPL_p, `.log_ratio` = log of that, all paired: the interval
                comes from per-token differences; `.within_expected` sets the ratio against what the format usually
                costs (see `expected`). Equals: protocol "gptq" the GPTQ and AWQ papers' number,
                "sliding" the transformers documentation's, "llama.cpp" llama-perplexity's. lm-eval's rolling
                log-likelihood over L positions is `sliding` with window L + 1 and stride L, from its prefix
                token on (except that its last window reaches back); `word_perplexity` divides by words.
kld             KL(p || q) = Σ_i p_i log(p_i / q_i) per token, in nats; `.mean`, `.median`, `.p90`, `.p99`,
                `.p999`, `.max` over tokens; lower is better; llama-perplexity --kl-divergence reports the
                same quantities, from 16-bit log-probabilities.
top1_agreement  share of tokens at which argmax p = argmax q; higher is better; llama.cpp's "same top p".
delta_p         q(x_t | c) - p(x_t | c); `.rms` and `.mean`; llama.cpp's "RMS Δp" and "Mean Δp", in percent.

The baseline is kept as its K most probable tokens and the mass P of the rest, not as the whole distribution.
With Q the variant's mass of the same rest, what is reported is

    KL_K = Σ_{i in top K} p_i log(p_i / q_i) + P log(P / Q)   <=   KL(p || q),

a lower bound by the log-sum inequality. Since no token of the rest has p_i > p_K or q_i < min q, it misses at
most P (log p_K - log min q) - P log(P / Q) per token; the mean of that stands in the estimate's note. K >=
vocabulary is exact. A server tells less of the variant: see `divergences`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import ObservationError
from pytest_quantgate.metrics import token_changes, token_estimates, token_items
from pytest_quantgate.metrics.corpus import WIKITEXT2, Corpus, corpus_at, digest_of
from pytest_quantgate.metrics.divergences import against, divergence
from pytest_quantgate.metrics.parts import aligned, joined
from pytest_quantgate.metrics.windows import cut, resolved, stream
from pytest_quantgate.parts import Part, part_of, with_part
from pytest_quantgate.spec import MetricDefinition, Observation, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress, Subject, TokenScores, Window
    from pytest_quantgate.metrics.token_changes import Pair
    from pytest_quantgate.spec import Estimate, IntArray, Scalar
    from pytest_quantgate.stats import Items

__all__ = ["DELTA_P", "KLD", "PPL", "TOKENS", "TOP1_AGREEMENT", "Tokens", "divergence"]

OBSERVER = "pytest_quantgate.metrics.tokens:TOKENS"
SETTINGS = ("protocol", "corpus", "window", "stride", "top_k", "limit", "bos")
ARGUMENTS = ("of", *SETTINGS)

PPL = MetricDefinition(
    name="ppl",
    summary="perplexity; lower is better",
    unit="",
    better="lower",
    observer=OBSERVER,
    relations=("delta", "ratio", "log_ratio", "over_floor", "within_expected"),
    arguments=ARGUMENTS,
)
KLD = MetricDefinition(
    name="kld",
    summary="KL divergence from the baseline per token, in nats",
    unit="nat",
    better="lower",
    observer=OBSERVER,
    statistics=("mean", "median", "p90", "p99", "p999", "max"),
    relations=("over_floor",),
    arguments=ARGUMENTS,
)
TOP1_AGREEMENT = MetricDefinition(
    name="top1_agreement",
    summary="share of tokens whose most probable successor is the baseline's",
    unit="",
    better="higher",
    observer=OBSERVER,
    arguments=ARGUMENTS,
)
DELTA_P = MetricDefinition(
    name="delta_p",
    summary="change of the correct token's probability",
    unit="",
    better="lower",
    observer=OBSERVER,
    statistics=("rms", "mean"),
    arguments=ARGUMENTS,
)


class Tokens:
    """Observes a model's distribution at every scored token of a corpus."""

    kind = "tokens"
    device_bound = False
    paired = True
    order = 3
    settings = SETTINGS
    unit = "windows"

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Resolve the windows and read the corpus to digest it; see `interfaces.Observer.protocol`.

        A metric's own arguments win over the settings; naming a protocol drops the settings' window and
        stride.
        """
        given = dict(arguments)
        if "of" in given:
            given["protocol"] = given.pop("of")
        configured = dict(settings)
        if "protocol" in given and given["protocol"] != configured.get("protocol"):
            configured = {key: configured[key] for key in configured if key not in ("window", "stride")}
        wanted = {**configured, **given}
        corpus = corpus_at(wanted.pop("corpus", WIKITEXT2), root)
        parameters = resolved(wanted)
        made = Protocol.of(self.kind, corpus=digest_of(corpus.read()), **parameters)
        return Protocol(made.kind, made.parameters, places=(("corpus", corpus.to_json()),))

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Score the corpus.

        With a reference (the baseline's observation of the same protocol) the divergences are computed, else
        the distributions are kept. Arrays, over S scored tokens:

            window (S,) int32, logprob (S,) float32, and
            kept:      ids (N,), top1 (S,), top_ids (S, K) of 2 or 4 bytes, top_logprob (S, K) float32
            compared:  kld, kld_excess, delta_p (S,) float32, agree (S,) uint8; of an endpoint also outside (S,)
                       float32, see `divergences`, and unranked (S,) uint8: it did not tell its most probable token
        """
        parameters: dict[str, Any] = dict(protocol.parameters)
        places: dict[str, Any] = dict(protocol.places)
        model = subject.model
        corpus = Corpus(**places["corpus"])
        ids = stream(model.encode(_checked(corpus, protocol["corpus"])), parameters["bos"], model.bos_id)
        windows, used = cut(ids, parameters, model.bos_id)
        part = part_of(protocol)
        numbers = range(len(windows)) if part is None else part.numbers(len(windows))
        _check_windows(windows, len(ids), parameters["window"], model.max_length, str(corpus))
        if reference is not None:
            _check_ids(ids[:used], reference.arrays["ids"], model)
        facts: dict[str, Any] = {
            "tokens": sum(len(windows[number].ids) - windows[number].start for number in numbers),
            "windows": len(numbers),
            "of": len(windows),
            "vocabulary": model.vocab_size,
            "top_k": min(parameters["top_k"], model.vocab_size),
            "corpus": str(corpus),
        }
        if reference is None:
            kept = _kept(model, windows, ids[:used], facts["top_k"], progress)
            return Observation(kept, {**facts, "top_k": kept["top_ids"].shape[1]})
        facts["top_k"] = reference.arrays["top_ids"].shape[1]
        return Observation(_compared(model, windows, numbers, reference, progress), facts)

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Compute a token metric; see `interfaces.Observer.estimate`."""
        return token_estimates.estimate(metric, variant, baseline)

    def is_mean(self, metric: Metric) -> bool:
        """Return whether a metric is a mean over windows."""
        return token_items.is_mean(metric)

    def items(
        self, metric: Metric, part: Observation, baseline: Observation, order: IntArray
    ) -> Items | None:
        """Return the metric as a mean over windows; see `interfaces.Divisible.items`."""
        return token_items.items(metric, part, baseline, order)

    def alone(self, metric: Metric, baseline: Observation, order: IntArray) -> Items | None:
        """Return the baseline's own spread; see `interfaces.Divisible.alone`."""
        return token_items.alone(metric, baseline, order)

    def part(self, protocol: Protocol, seed: int, begin: int, end: int) -> Protocol:
        """Return the protocol of some windows; see `interfaces.Divisible.part`."""
        return with_part(protocol, Part(seed, begin, end))

    def count(self, baseline: Observation) -> int:
        """Return the number of windows."""
        return int(baseline.arrays["window"][-1]) + 1

    def seen(self, part: Observation) -> int:
        """Return how many windows a part holds."""
        return len(np.unique(part.arrays["window"]))

    def joined(self, parts: Sequence[Observation]) -> Observation:
        """Return parts as one observation."""
        return joined(parts)

    def aligned(self, baseline: Observation, part: Observation) -> Observation:
        """Return the baseline's rows of a part's windows."""
        return aligned(baseline, part)

    def change(self, metric: Metric, now: Pair, earlier: Pair) -> Estimate:
        """Compare with an earlier run token by token; a pair is the variant's observation and its reference.

        Raises:
            NotMeasurableError: the two runs did not score the same tokens; the first that differs is named.

        """
        return token_changes.change(metric, now, earlier)


TOKENS = Tokens()


def _checked(corpus: Corpus, digest: str) -> str:
    text = corpus.read()
    if digest_of(text) != digest:
        raise ObservationError(f"{corpus} has changed since this run was planned; start it again")
    return text


def _check_windows(windows: Sequence[Window], tokens: int, size: int, longest: int, corpus: str) -> None:
    if not windows:
        raise ObservationError(
            f"{corpus}: its {tokens} tokens are fewer than one window of {size}; set window or give more text"
        )
    if len(windows[0].ids) > longest:
        raise ObservationError(
            f"a window of {size} tokens does not fit the model's {longest} positions; set window"
        )


def _check_ids(ids: IntArray, expected: NDArray[Any], model: Model) -> None:
    """Refuse another tokenizer: two models can only be compared on the same tokens."""
    common = min(len(ids), len(expected))
    if len(ids) == len(expected) and np.array_equal(ids, expected):
        return
    differs = np.flatnonzero(ids[:common] != expected[:common])
    if not len(differs):
        raise ObservationError(
            f"the tokenizer of {model.spec.name} differs from the baseline's: {len(ids)} tokens for "
            f"{len(expected)}; copy the baseline's tokenizer files"
        )
    at = int(differs[0])
    ours, theirs = int(ids[at]), int(expected[at])
    raise ObservationError(
        f"the tokenizer of {model.spec.name} differs from the baseline's: token {at} is {ours}"
        f" ({model.decode([ours])!r}), the baseline's {theirs}; copy the baseline's tokenizer files"
    )


def _followed(scores: Iterator[TokenScores], total: int, progress: Progress) -> Iterator[TokenScores]:
    for number, window in enumerate(scores, 1):
        yield window
        progress(number, total)


def _kept(
    model: Model, windows: Sequence[Window], ids: IntArray, top_k: int, progress: Progress
) -> dict[str, NDArray[Any]]:
    kind = np.uint16 if model.vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32
    columns: dict[str, list[NDArray[Any]]] = {"logprob": [], "top1": [], "top_ids": [], "top_logprob": []}
    for scores in _followed(model.score(windows, top_k=top_k), len(windows), progress):
        columns["logprob"].append(scores.logprob)
        columns["top1"].append(scores.top1.astype(kind))
        columns["top_ids"].append(scores.ids.astype(kind))
        columns["top_logprob"].append(scores.at)
    return {"ids": ids.astype(kind), **_joined(columns)}


def _compared(
    model: Model,
    windows: Sequence[Window],
    numbers: Sequence[int],
    reference: Observation,
    progress: Progress,
) -> dict[str, NDArray[Any]]:
    kept = reference.arrays
    at = _Rows(kept["top_ids"], windows, numbers)
    columns: dict[str, list[NDArray[Any]]] = {
        "logprob": [],
        "kld": [],
        "kld_excess": [],
        "outside": [],
        "unranked": [],
        "delta_p": [],
        "agree": [],
    }
    chosen = [windows[number] for number in numbers]
    for index, scores in enumerate(_followed(model.score(chosen, at=at), len(chosen), progress)):
        rows = at.span(index)
        columns["logprob"].append(scores.logprob)
        for name, column in against(kept["top_logprob"][rows], scores, model.vocab_size).items():
            columns[name].append(column)
        columns["delta_p"].append(np.exp(scores.logprob) - np.exp(kept["logprob"][rows]))
        columns["agree"].append((scores.top1 == kept["top1"][rows]).astype(np.uint8))
        columns["unranked"].append((scores.top1 < 0).astype(np.uint8))
    for name in ("outside", "unranked"):
        # an engine here tells all; of an endpoint all parts of a pass have the column
        if model.spec.backend != "server" and not any(part.any() for part in columns[name]):
            del columns[name]
    return _joined(columns, numbers)


def _joined(
    columns: Mapping[str, list[NDArray[Any]]], numbers: Sequence[int] | None = None
) -> dict[str, NDArray[Any]]:
    sizes = [len(part) for part in columns["logprob"]]
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    named = np.asarray(range(len(sizes)) if numbers is None else numbers, dtype=np.int32)
    return {"window": np.repeat(named, sizes), **joined}


class _Rows(Sequence["IntArray"]):
    """Rows of the kept ids of some windows, widened only when they are asked for."""

    def __init__(self, rows: NDArray[Any], windows: Sequence[Window], numbers: Sequence[int]) -> None:
        self._rows = rows
        self._ends = np.cumsum([len(window.ids) - window.start for window in windows])
        self._numbers = numbers

    def span(self, index: int) -> slice:
        """Return where the rows of a window are."""
        number = self._numbers[index]
        return slice(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[self.span(index)].astype(np.int64)
