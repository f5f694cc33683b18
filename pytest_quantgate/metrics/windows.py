"""How a stream of tokens is cut into windows: the named protocols of perplexity.

`gptq`       windows of 2048 that do not overlap; 2047 tokens of each are scored; what is left at the end is
             dropped. The number of the GPTQ, AWQ and SmoothQuant papers.
`sliding`    windows of 1024, each starting 512 after the one before; every token but the first is scored
             exactly once, in the window that gives it the longest left context. The number of the
             transformers documentation ("Perplexity of fixed-length models") as corrected there: averaged
             over tokens, not over windows.
`llama.cpp`  windows of 512 that do not overlap; the last 255 tokens of each are scored, so that each has at
             least 256 tokens of context. The number of `llama-perplexity`.

Where the tokenizer itself puts a BOS token before a text, the stream gets one (`bos = "auto"`), and under
`llama.cpp` it replaces the first token of every window, as that tool does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import ConfigError, ObservationError, UnknownNameError
from pytest_quantgate.interfaces import Window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.spec import IntArray, Json

__all__ = ["PROTOCOLS", "cut", "resolved", "stream"]

PROTOCOLS: Mapping[str, Mapping[str, int]] = {
    "gptq": {"window": 2048},
    "sliding": {"window": 1024, "stride": 512},
    "llama.cpp": {"window": 512},
}
DEFAULTS: Mapping[str, Any] = {"protocol": "gptq", "top_k": 64, "limit": 0, "bos": "auto"}
BOS = ("auto", "always", "never")


def resolved(wanted: Mapping[str, Any]) -> dict[str, Json]:
    """Return every parameter of the windows: `wanted` over the named protocol's own.

    Raises:
        UnknownNameError: no such protocol.
        ConfigError: a number out of range, or a stride where windows do not overlap.

    """
    name = str(wanted.get("protocol", DEFAULTS["protocol"]))
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol of tokens", name, PROTOCOLS)
    own = dict(PROTOCOLS[name])
    if "stride" in own and "window" in wanted:
        own["stride"] = max(1, _whole("window", wanted["window"], 2) // 2)
    if "stride" not in own and "stride" in wanted:
        raise ConfigError(f"stride: the windows of protocol {name!r} do not overlap; use protocol 'sliding'")
    found = {**DEFAULTS, **own, **wanted, "protocol": name}
    for key, least in (("window", 2), ("stride", 1), ("top_k", 1), ("limit", 0)):
        if key in found:
            found[key] = _whole(key, found[key], least)
    if found.get("stride", 1) > found["window"]:
        raise ConfigError(
            f"stride {found['stride']} is longer than the window of {found['window']}: tokens are lost"
        )
    if found["bos"] not in BOS:
        raise UnknownNameError("setting of bos", str(found["bos"]), BOS)
    return found


def _whole(key: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key} = {value!r}: it must be a whole number of at least {least}")
    return value


def stream(ids: IntArray, bos: str, bos_id: int | None) -> IntArray:
    """Return `ids`, with the BOS token before them if the setting and the tokenizer want it.

    Raises:
        ObservationError: `bos = "always"`, and the tokenizer puts none.

    """
    if bos == "always" and bos_id is None:
        raise ObservationError(
            'bos = "always", but this tokenizer puts no BOS token before a text; use "auto"'
        )
    return ids if bos == "never" or bos_id is None else np.concatenate([[bos_id], ids])


def cut(ids: IntArray, parameters: Mapping[str, Any], bos_id: int | None) -> tuple[list[Window], int]:
    """Cut a stream into windows; return them and how many tokens of the stream they use."""
    size, limit = parameters["window"], parameters["limit"]
    if parameters["protocol"] == "sliding":
        windows, ends = _sliding(ids, size, parameters["stride"])
    else:
        starts = range(0, len(ids) - size + 1, size)
        windows = [Window(ids[begin : begin + size]) for begin in starts]
        ends = [begin + size for begin in starts]
    if parameters["protocol"] == "llama.cpp":
        bos = None if parameters["bos"] == "never" else bos_id
        windows = [_second_half(window, bos) for window in windows]
    kept = limit or len(windows)
    return windows[:kept], ends[:kept][-1] if ends else 0


def _sliding(ids: IntArray, size: int, stride: int) -> tuple[list[Window], list[int]]:
    windows, ends, done = [], list[int](), 0
    while done < len(ids) and len(ids) > 1:
        begin = len(ends) * stride
        end = min(begin + size, len(ids))
        first = max(1, done - begin)
        if begin + first < end:
            windows.append(Window(ids[begin:end], first))
        ends.append(end)
        done = end
    return windows, ends


def _second_half(window: Window, bos: int | None) -> Window:
    ids = window.ids if bos is None else np.concatenate([[bos], window.ids[1:]])
    return Window(ids, len(ids) // 2 + 1)
