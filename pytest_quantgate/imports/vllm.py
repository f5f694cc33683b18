"""Results of `vllm bench serve --save-result`.

ttft               the median over requests of the time to the first token; ours is the median over runs.
token_latency      the median over requests of (latency - ttft) / (tokens - 1), vLLM's TPOT; ours is that over runs;
                   `.median` and `.p99` over the gaps between what is streamed (ITL). One piece of a stream can hold
                   several tokens, where the server speculates.
tokens_per_second  the median over requests of tokens / latency, prompt included, where --save-detailed kept both; else,
                   with one request at a time, all tokens / the whole time, so idle time between requests counts. Else
                   none: the throughput of many requests at once is no speed of one, and would pass what one fails.

What differs from ours is in each note: times are a client's, over HTTP, from prompts and samplings of its choice, and
with more than one request at a time they include waiting for the others. Medians have an interval only with
--save-detailed; the standard deviations of a plain file are of means. `vllm bench latency` does not say how many tokens
a batch had, and matches none of our metrics: it is refused.

Shape: vllm/benchmarks/serve.py at 009e6d4, latency.py at 00cae07 (2026).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.imports.source import Node, Source
from pytest_quantgate.imports.values import LEVEL, Imported, without
from pytest_quantgate.spec import Estimate, Json
from pytest_quantgate.stats import ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read"]

_ADVICE = "give the file that `vllm bench serve --save-result` wrote, one result in each (no --append-result)"
_MILLI = 1000.0
_NO_STREAM = "0: the endpoint does not stream"


def read(path: Path, extra_files: tuple[Path, ...]) -> list[Imported]:
    """Read a result.

    Raises:
        UsageError: the file cannot be read, is no such result, or none of its requests succeeded.

    """
    source = Source(path, "result of vllm bench serve", _ADVICE)
    source.alone(extra_files)
    root = source.json()
    if root.get("avg_latency") is not None:
        raise source.foreign("it is of `vllm bench latency`, which does not say how many tokens a batch had")
    bench = _Bench(root, root.member("completed").count(), _requests(root))
    for key in ("duration", "output_throughput"):
        root.member(key).positive()
    if not bench.completed:
        raise source.broken("none of its requests succeeded", "run it again")
    skipped: list[str] = []
    found = [
        Imported(metric, figures, None, _made_by(root), bench.protocol())
        for metric, taken in (
            ("ttft", bench.first),
            ("token_latency", bench.gaps),
            ("tokens_per_second", bench.speed),
        )
        if (figures := taken(skipped))
    ]
    if not found:
        raise source.broken(f"it has no time that gates know ({'; '.join(skipped)})")
    return without(found, skipped)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, in seconds."""

    first: float
    gaps: Sequence[float]
    tokens: int

    @property
    def seconds(self) -> float:
        return self.first + sum(self.gaps)


def _requests(root: Node) -> list[_Request]:
    """Return the requests that --save-detailed kept; none if it was not given, or one of them failed."""
    columns = [root.get(key) for key in ("ttfts", "itls", "output_lens")]
    if any(column is None for column in columns):
        return []
    firsts, gaps, tokens = (column.rows() for column in columns if column is not None)
    if not len(firsts) == len(gaps) == len(tokens):
        raise root.source.broken("its ttfts, itls and output_lens are not of the same requests")
    if len(firsts) != root.member("completed").count():
        return []
    return [
        _Request(first.positive(), [gap.positive() for gap in row.rows()], count.count())
        for first, row, count in zip(firsts, gaps, tokens, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Bench:
    """A result of some requests."""

    root: Node
    completed: int
    requests: Sequence[_Request]

    def first(self, skipped: list[str]) -> dict[str, Estimate]:
        """Return the time to first token."""
        given = self._figure("ttft", "median_ttft_ms", lambda request: [request.first], skipped)
        return {"": given} if given else {}

    def gaps(self, skipped: list[str]) -> dict[str, Estimate]:
        """Return the time from one token to the next."""
        found = {
            "": self._figure(
                "token_latency",
                "median_tpot_ms",
                lambda request: [sum(request.gaps) / (request.tokens - 1)] if request.tokens > 1 else [],
                skipped,
            ),
            "median": self._figure("token_latency.median", "median_itl_ms", None, skipped),
            "p99": self._figure("token_latency.p99", "p99_itl_ms", None, skipped),
        }
        return {statistic: figure for statistic, figure in found.items() if figure}

    def speed(self, skipped: list[str]) -> dict[str, Estimate]:
        """Return the tokens per second of one request."""
        rates = [request.tokens / request.seconds for request in self.requests if request.seconds > 0]
        if rates:
            return {"": self._median(np.asarray(rates), "tok/s", self._note())}
        if self._at_a_time() != 1:
            skipped.append("output_throughput (of many requests at once: run with --max-concurrency 1)")
            return {}
        value = self.root.member("output_throughput").positive()
        note = f"{self._note()}; the time between requests counts"
        return {"": Estimate(value, "tok/s", n=self.completed, items="requests", note=note)}

    def _figure(
        self,
        name: str,
        key: str,
        of_request: Callable[[_Request], Sequence[float]] | None,
        skipped: list[str],
    ) -> Estimate | None:
        """Return a time: from the requests where they are kept, else from the summary."""
        values = [value for request in self.requests for value in (of_request(request) if of_request else ())]
        node = self.root.get(key)
        if node is None and not values:
            skipped.append(f"{name} (the file has no {key})")
            return None
        if node is not None and not node.positive():
            skipped.append(f"{name} ({_NO_STREAM})")
            return None
        if values and not any(values):
            skipped.append(f"{name} ({_NO_STREAM})")
            return None
        if values:
            return self._median(np.asarray(values), "s", self._note())
        assert node is not None
        return Estimate(node.positive() / _MILLI, "s", n=self.completed, items="requests", note=self._note())

    def _median(self, values: NDArray[np.float64], unit: str, note: str) -> Estimate:
        known = ranks(values)
        count = len(values)
        made = Estimate(
            known.median, unit, n=count, items="requests", clusters=count, note=note, sampling=known
        )
        return made.at(LEVEL)

    def _at_a_time(self) -> int | None:
        limit = self.root.get("max_concurrency")
        return limit.count() if limit else None

    def _note(self) -> str:
        limit, failed = self._at_a_time(), self.root.get("failed")
        load = f"up to {limit} requests at a time" if limit else "any number of requests at a time"
        parts = ["measured by a client over HTTP", *([] if limit == 1 else [f"{load}, ours one"])]
        if failed and failed.count():
            parts.append(f"{failed.count()} requests failed and are not in it")
        return "; ".join(parts)

    def protocol(self) -> dict[str, Json]:
        """Return how it was measured."""
        return self.root.scalars(
            "model_id",
            "tokenizer_id",
            "backend",
            "num_prompts",
            "request_rate",
            "burstiness",
            "max_concurrency",
            "duration",
            "completed",
            "failed",
            "total_input_tokens",
            "total_output_tokens",
            "date",
        )


def _made_by(root: Node) -> str:
    said: Mapping[str, Json] = root.scalars("backend", "endpoint_type")
    return f"vllm bench serve, backend {next(iter(said.values()))}" if said else "vllm bench serve"
