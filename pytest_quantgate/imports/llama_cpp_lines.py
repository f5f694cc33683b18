"""What stands in a log of llama-perplexity, line by line.

Lines may begin with a time stamp and a level ("0.01.496.554 I "), hold colours, and have lost "±" and "Δ" to a wrong
code page: what is taken for them is listed here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pytest_quantgate.imports.source import Source

__all__ = ["Log", "Printed", "Section", "parsed"]


class Printed(NamedTuple):
    """A value, and the standard error printed beside it; either may be NaN."""

    value: float
    error: float | None = None


Section: TypeAlias = Mapping[str, Printed]
"""Label -> value."""

_NUMBER = r"([-+0-9a-zA-Z.#()]{1,40})"
_PLUS = r" {0,20}(?:±|Â±|┬▒|\+/-|\ufffd{1,3}) {0,20}"
_LONGEST = 400
_OTHER_TOOL = "compute_imatrix:"
_ONE_RUN = "give one log for each run"

_NOISE = re.compile(r"\x1b\[[0-9;]{0,20}m|^[0-9]+\.[0-9]{2}\.[0-9]{3}\.[0-9]{3} [A-Z] ")
_HEADER = re.compile(r"=+ ?(Perplexity|KL[- ]divergence|Token probability) statistics\b")
_VALUE = re.compile(rf"(.{{1,60}}?) {{0,40}}: {{0,20}}{_NUMBER} ?%?(?:{_PLUS}{_NUMBER})? ?%?")
_DELTA = re.compile(r"^(\S+) \S{1,6}p$")
_FINAL = re.compile(rf"Final estimate: PPL {{0,4}}= {{0,4}}{_NUMBER}(?:{_PLUS}{_NUMBER})?")
_CHUNK = re.compile(rf"\[([0-9]{{1,9}})\]{_NUMBER},")
_STARTED = re.compile(
    r"(?:perplexity ?: calculating perplexity|kl_divergence ?: computing) over ([0-9]{1,9}) chunks"
)
_N_CTX = re.compile(r"\bn_ctx=([0-9]{1,9})")
_ROW = re.compile(rf" *([0-9]{{1,9}}) +{_NUMBER}(?:{_PLUS}{_NUMBER})? +{_NUMBER}{_PLUS}{_NUMBER} .*")
_EARLY_ROW = re.compile(
    rf" *[0-9]{{1,9}} +{_NUMBER} +{_NUMBER}{_PLUS}{_NUMBER} +{_NUMBER}{_PLUS}{_NUMBER} +{_NUMBER}{_PLUS}{_NUMBER}"
)
_SAID: Mapping[str, re.Pattern[str]] = {
    "build": re.compile(r"\bbuild(?:_info)? ?[:=] b?([0-9]+)"),
    "model": re.compile(r"llama_model_loader: loaded meta data .* from (.+?)(?: \(version .*)?$"),
    "name": re.compile(r"\bgeneral\.name +(?:str +)?= (.+)"),
    "file_type": re.compile(r"\b(?:model ftype|file type) += (.+)"),
}


@dataclass(frozen=True, slots=True)
class Log:
    """What a log says.

    Attributes:
        said: build, model, name and file type, as far as they are printed.
        chunks: how many pieces of text there are; 0 where that is not said.
        n_ctx: how many tokens each has; 0 where that is not said.
        running: the perplexity up to each chunk, of a plain run.
        final: its "Final estimate".
        sections: title -> what stands under it, of a run with --kl-divergence.
        last_row: the last row of its table as it was in early 2024: "PPL", "ln ratio", "Same top".

    """

    said: Mapping[str, str]
    chunks: int
    n_ctx: int
    running: tuple[tuple[int, float], ...]
    final: Printed | None
    sections: Mapping[str, Section]
    last_row: Section


def parsed(source: Source, labels: Collection[str]) -> Log:
    """Read a log; of its sections, only these labels.

    Raises:
        UsageError: the file cannot be read, is of another tool, has the results of two runs, or a word where a number
            belongs.

    """
    text = source.text()
    if _OTHER_TOOL in text:
        raise source.foreign("it is of llama-imatrix, which scores other tokens")
    # the number at the end of a file that is cut short may have lost digits
    whole = text if text.endswith(("\n", "%")) else text[: text.rfind("\n") + 1]
    lines = [_NOISE.sub("", line).rstrip() for line in whole.splitlines() if len(line) <= _LONGEST]
    chunks, n_ctx = _size(source, lines)
    finals = [Printed(*_numbers(source, found)) for found in _FINAL.findall(whole)]
    if len(finals) > 1:
        raise source.broken(f"it has {len(finals)} final estimates", _ONE_RUN)
    return Log(
        said={key: found for key, pattern in _SAID.items() if (found := _first(pattern, lines))},
        chunks=chunks,
        n_ctx=n_ctx,
        running=tuple((int(at), _number(source, value)) for at, value in _CHUNK.findall(text)),
        final=finals[0] if finals else None,
        sections=_sections(source, lines, labels),
        last_row=_last_row(source, lines),
    )


def _size(source: Source, lines: Iterable[str]) -> tuple[int, int]:
    """Return the number of chunks and of tokens in each."""
    started = [(found[1], line) for line in lines if (found := _STARTED.search(line))]
    if len(started) > 1:
        raise source.broken(f"it has the logs of {len(started)} runs", _ONE_RUN)
    if started:
        size = _N_CTX.search(started[0][1])
        return int(started[0][0]), int(size[1]) if size else 0
    rows = [int(found[1]) for line in lines if (found := _ROW.fullmatch(line))]
    return (rows[-1] if rows else 0), 0


def _sections(source: Source, lines: Iterable[str], labels: Collection[str]) -> dict[str, Section]:
    found: dict[str, dict[str, Printed]] = {}
    current: dict[str, Printed] = {}
    for line in lines:
        if header := _HEADER.match(line):
            if header[1] in found:
                raise source.broken(f"it has the {header[1]} statistics of two runs", _ONE_RUN)
            current = found[header[1]] = {}
        elif value := _VALUE.fullmatch(line):
            label = _DELTA.sub(r"\1 dp", " ".join(value[1].split()))
            # a build of mid-2024 prints the 99th percentile twice
            if label in labels and label not in current:
                current[label] = Printed(*_numbers(source, value.groups()[1:]))
    return {**found}


def _last_row(source: Source, lines: Iterable[str]) -> Section:
    rows = [found for line in lines if (found := _EARLY_ROW.fullmatch(line))]
    if not rows:
        return {}
    ppl, ratio, ratio_error, _, _, top, top_error = (_number(source, text) for text in rows[-1].groups())
    return {"PPL": Printed(ppl), "ln ratio": Printed(ratio, ratio_error), "Same top": Printed(top, top_error)}


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str:
    return next((found[1].strip() for line in lines if (found := pattern.search(line))), "")


def _numbers(source: Source, found: Iterable[str | None]) -> Iterator[float]:
    return (_number(source, text) for text in found if text)


def _number(source: Source, text: str) -> float:
    """Return a number; NaN also as Windows writes it: -nan(ind), 1.#QNAN."""
    try:
        return float(text)
    except ValueError:
        if "nan" in text.lower() or "#" in text:
            return math.nan
        raise source.broken(
            f"{text!r} stands where a number belongs", "give the log as it was printed"
        ) from None
