"""Logs of llama.cpp's llama-perplexity: of a plain run, and of one with --kl-divergence.

A log is what the tool prints, stdout and stderr together; either alone will do where it has the results. A plain run
gives `ppl`, the other `ppl` with its relations to the base model's, `kld`, `top1_agreement` and `delta_p`, percent made
shares. They are the quantities of `metrics.tokens` under the protocol "llama.cpp", its divergences from a base that is
kept in 16 bits.

Intervals are normal, from the tool's standard errors. Those take tokens to be independent, which tokens of one chunk
are not: ours, over windows, are wider. Identical models have "± -nan" or "± 0.000000", and so no interval.

Shapes: tools/perplexity/perplexity.cpp of ggml-org/llama.cpp at 050fc7f; LeafSpark/llama.cpp at 33f42ad (2024), which
has fewer percentiles; and of early 2024, when divergences stood alone ("KLD_99 :") below a table of running means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.imports.llama_cpp_lines import Log, Printed, Section, parsed
from pytest_quantgate.imports.source import Source
from pytest_quantgate.imports.values import Imported, figure, without
from pytest_quantgate.spec import Estimate, Json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.errors import UsageError

__all__ = ["read"]

_ADVICE = "give all that it printed: llama-perplexity ... > run.log 2>&1"
_AGAIN = "let it run to its end, and give the whole log"
_NOTE = "the error takes tokens to be independent"
_DIFFERENT = 1e-3
_PERCENT = 100.0

_NOW, _EARLY = "KL divergence", "KL-divergence"
_PPL = {
    "": "Mean PPL(Q)",
    "|delta": "Mean PPL(Q)-PPL(base)",
    "|ratio": "Mean PPL(Q)/PPL(base)",
    "|log_ratio": "Mean ln(PPL(Q)/PPL(base))",
}
_BASE = "Mean PPL(base)"
_KLD = {
    "mean": "Mean KLD",
    "median": "Median KLD",
    "p90": "90.0% KLD",
    "p99": "99.0% KLD",
    "p999": "99.9% KLD",
    "max": "Maximum KLD",
}
_DELTA_P = {"mean": "Mean dp", "rms": "RMS dp"}
_SAME_TOP = {"": "Same top p"}
_MAY_LACK = ("p90", "p999")
_EARLY_PPL = {"": "PPL", "|log_ratio": "ln ratio"}
_EARLY_KLD = {"mean": "Average", "median": "Median", "p90": "KLD_90", "p99": "KLD_99", "max": "Maximum"}
_EARLY_TOP = {"": "Same top"}
_EARLY_LAST = "KLD_10"
_TABLES = (_PPL, _KLD, _DELTA_P, _SAME_TOP, _EARLY_KLD)
_LABELS = frozenset((_BASE, _EARLY_LAST, *(label for table in _TABLES for label in table.values())))


def read(path: Path, extra_files: tuple[Path, ...]) -> list[Imported]:
    """Read a log.

    Raises:
        UsageError: the file cannot be read, is no such log or is cut short, or has the results of two runs.

    """
    source = Source(path, "log of llama-perplexity", _ADVICE)
    source.alone(extra_files)
    log = parsed(source, _LABELS)
    run = _Run(source, log)
    if _NOW in log.sections:
        found = _divergence(run)
    elif _EARLY in log.sections:
        found = _early(run)
    else:
        return [run.imported("ppl", {"": run.estimate(_perplexity(source, log))})]
    return without(found, ["Final estimate: PPL (of another run)"] if log.final else [])


@dataclass(frozen=True, slots=True)
class _Run:
    """A log, and how what it says is made values."""

    source: Source
    log: Log

    def imported(self, metric: str, figures: Mapping[str, Estimate]) -> Imported:
        """Return a metric."""
        build = self.log.said.get("build")
        base = self.log.sections.get("Perplexity", {}).get(_BASE)
        said: dict[str, Json] = {**self.log.said}
        numbers = {"n_ctx": self.log.n_ctx, "chunks": self.log.chunks, "base_ppl": base.value if base else 0}
        said |= {key: number for key, number in numbers.items() if number and math.isfinite(number)}
        return Imported(
            metric, figures, None, f"llama.cpp perplexity{f', build {build}' if build else ''}", said
        )

    def taken(
        self, section: Section, labels: Mapping[str, str], unit: str = "", scale: float = 1.0
    ) -> dict[str, Estimate]:
        """Return the values under some labels."""
        for key, label in labels.items():
            if label not in section and key not in _MAY_LACK:
                raise self.source.broken(f"it is cut short: it has no {label!r}", _AGAIN)
        return {
            key: self.estimate(section[label], unit, scale, label)
            for key, label in labels.items()
            if label in section
        }

    def estimate(self, printed: Printed, unit: str = "", scale: float = 1.0, label: str = "PPL") -> Estimate:
        """Return a value that is printed `scale` times as large."""
        if not math.isfinite(printed.value):
            raise self.source.broken(
                f"{label} is {printed.value}", "the model gave log-probabilities that are no numbers"
            )
        # of each chunk the second half is scored; its last token is only a target
        tokens = self.log.chunks * (self.log.n_ctx - 1 - self.log.n_ctx // 2) if self.log.n_ctx else 0
        error = None if printed.error is None else printed.error / scale
        plain = Estimate(
            printed.value / scale,
            unit,
            n=tokens or self.log.chunks or 1,
            items="tokens" if tokens else "chunks" if self.log.chunks else "",
            note=_NOTE if error is not None and error > 0 else "",
        )
        return figure(plain, error)


def _divergence(run: _Run) -> list[Imported]:
    """Return what has been printed since mid-2024."""
    sections = run.log.sections
    perplexity, probability = sections.get("Perplexity", {}), sections.get("Token probability", {})
    return [
        run.imported("ppl", run.taken(perplexity, _PPL)),
        run.imported("kld", run.taken(sections[_NOW], _KLD, "nat")),
        run.imported("top1_agreement", run.taken(probability, _SAME_TOP, scale=_PERCENT)),
        run.imported("delta_p", run.taken(probability, _DELTA_P, scale=_PERCENT)),
    ]


def _early(run: _Run) -> list[Imported]:
    """Return what was printed in early 2024, when only the table had perplexity and agreement."""
    section, row = run.log.sections[_EARLY], run.log.last_row
    if _EARLY_LAST not in section:
        raise run.source.broken(f"it is cut short: it has no {_EARLY_LAST!r}", _AGAIN)
    found = [run.imported("kld", run.taken(section, _EARLY_KLD, "nat"))]
    if row:
        found.insert(0, run.imported("ppl", run.taken(row, _EARLY_PPL)))
        found.append(run.imported("top1_agreement", run.taken(row, _EARLY_TOP)))
    return found


def _perplexity(source: Source, log: Log) -> Printed:
    """Return the result of a plain run: its final estimate, or, in versions without, that up to the last chunk."""
    at, last = log.running[-1] if log.running else (0, math.nan)
    if log.final is None:
        if at and at == log.chunks:
            return Printed(last)
        raise _without_result(source, log, at)
    if at and abs(last - log.final.value) > _DIFFERENT * abs(log.final.value):
        raise source.broken(
            f"its chunks come to {last:g}, its final estimate is {log.final.value:g}",
            "give one log for each run",
        )
    return log.final


def _without_result(source: Source, log: Log, at: int) -> UsageError:
    if log.sections:
        return source.broken(f"it is cut short: it has no {_KLD['mean']!r}", _AGAIN)
    if at or log.chunks:
        done = f"{at} of {log.chunks} chunks" if log.chunks and at else f"{at or log.chunks} chunks"
        return source.broken(
            f"it is cut short: {done}, and no result (there is none below 100 tokens)", _AGAIN
        )
    return source.foreign("it has neither 'Final estimate: PPL' nor 'KL divergence statistics'")
