"""What a calibration file holds, and how far its text is from the text that a model is judged on.

The file is read as quantizers read it (JSON lines, a JSON list, paragraphs, lines), but without a tokenizer: lengths
are in bytes. The distance of two texts is the Jensen-Shannon divergence of their pairs of bytes in bits, from 0 to 1
(Lin, 1991), less that of a piece of the corpus as long as the calibration text, since short texts differ from long ones
by chance alone. Bytes need no tokenizer and know every language. Measured: halves of one corpus 0.00, conversations
and documents of one world 0.22, English pages on one subject 0.12 to 0.25, documentation and the example's world
0.26, Python and English 0.22 to 0.45, sums and documents 0.50, programs and documents 0.58, hexadecimal log lines and
documents 0.91.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Calibration", "distance", "read"]

LONGEST = 1 << 22
PIECES = 64
MARKERS = ("<|im_start|>", "[INST]", "<|start_header_id|>", "<start_of_turn>", "### Instruction:", "<|user|>")
_JSON = frozenset({".jsonl", ".ndjson", ".json"})
_TURNS = ("messages", "conversations", "conversation")
_WORDS = ("content", "value", "text")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a quantizer saw.

    Attributes:
        name: of the file.
        kind: whether its samples are conversations or plain text.
        samples: how many of them count.
        middle: median length of one in bytes.
        text: all of them, up to 4 MiB.
        markers: turn markers of chat templates that stand in the text itself.

    """

    name: str
    kind: Literal["conversations", "text"]
    samples: int
    middle: int
    text: bytes
    markers: tuple[str, ...] = ()


def read(path: Path, samples: int) -> Calibration | None:
    """Return what the first `samples` samples of a file are; None if it cannot be read."""
    try:
        return _read(path, samples, path.stat().st_mtime_ns)
    except (OSError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=16)
def _read(path: Path, samples: int, _modified: int) -> Calibration | None:
    with path.open("rb") as stream:
        text = stream.read(4 * LONGEST).decode("utf-8-sig", errors="replace")
    rows = _json(text) if path.suffix.lower() in _JSON else _plain(text)
    found = [row for row in rows if row[1].strip()][:samples]
    if not found:
        return None
    texts = [sample for _, sample in found]
    chats = sum(chat for chat, _ in found)
    joined = "\n".join(texts)
    return Calibration(
        path.name,
        "conversations" if 2 * chats > len(found) else "text",
        len(found),
        int(median(len(sample.encode()) for sample in texts)),
        joined.encode()[:LONGEST],
        tuple(marker for marker in MARKERS if marker in joined),
    )


def _json(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (is a conversation, its words) of each sample."""
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    for row in rows:
        turns = next((row[key] for key in _TURNS if key in row), None) if isinstance(row, Mapping) else row
        if isinstance(turns, Sequence) and not isinstance(turns, str):
            yield True, "\n".join(_said(turn) for turn in turns)
        elif isinstance(row, Mapping):
            yield False, _said(row)
        else:
            yield False, str(row)


def _said(turn: Any) -> str:
    words = (turn[key] for key in _WORDS if key in turn) if isinstance(turn, Mapping) else ()
    return str(next(iter(words), ""))


def _plain(text: str) -> Iterator[tuple[bool, str]]:
    parts = re.split(r"\n\s*\n", text.strip())
    for part in parts if parts[1:] else text.split("\n"):
        if part.strip():
            yield False, part.strip()


def distance(calibration: bytes, corpus: bytes) -> float:
    """Return how far a text is from a corpus beyond chance, in bits: 0 for the same kind of text, 1 at most."""
    whole = _pairs(corpus[: 4 * LONGEST])
    found = _divergence(_pairs(calibration), whole)
    return max(0.0, found - _divergence(_pairs(_piece(corpus, len(calibration))), whole))


def _piece(text: bytes, size: int) -> bytes:
    """Return about `size` bytes of a text, taken at equal steps."""
    if size >= len(text):
        return text
    starts = np.linspace(0, len(text), PIECES, endpoint=False).astype(int)
    return b"".join(text[start : start + max(2, size // PIECES)] for start in starts)


def _pairs(text: bytes) -> NDArray[np.float64]:
    """Return how often each pair of bytes stands in a text (65536,)."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    return np.bincount(codes[:-1] * 256 + codes[1:], minlength=1 << 16).astype(np.float64)


def _divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if not one.sum() or not other.sum():
        return 0.0
    p, q = one / one.sum(), other / other.sum()
    middle = (p + q) / 2
    return float(
        sum((part[part > 0] * np.log2(part[part > 0] / middle[part > 0])).sum() / 2 for part in (p, q))
    )
