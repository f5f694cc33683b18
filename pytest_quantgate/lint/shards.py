"""Weight files and their index: what is there, what the headers hold, and whether the index says the same."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.folder import checked, locate, parsed
from pytest_quantgate.checkpoint.headers import MAX_HEADER, TensorInfo, read_header
from pytest_quantgate.checkpoint.preflight import INDEX, MAX_INDEX, MAX_INDEXED, check_index
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.files import MalformedError, opened, read_all
from pytest_quantgate.lint.finding import Finding, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["PICKLES", "Weights", "read_weights"]

SINGLE = "model.safetensors"
MAX_HEADERS = 192 << 20
"""Bytes of all headers together: a 70B model has half a million."""

PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle)")
_NUMBERED = re.compile(r".*-(\d{1,6})-of-(\d{1,6})\.safetensors")
_GET_AGAIN = "download or export the checkpoint again"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of a folder.

    Attributes:
        tensors: what the headers list, by name; of a tensor that is there twice the first.
        files: bytes of the files that a loader reads, by name.
        complete: whether every file could be read, so that a tensor that is not found is missing.
        findings: what is wrong with files and index.

    """

    tensors: dict[str, TensorInfo]
    files: dict[str, int]
    complete: bool
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Reading:
    path: Path
    sizes: Mapping[str, int]
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    complete: bool = True
    left: int = field(default_factory=lambda: MAX_HEADERS)

    def say(self, rule: str, file: str, text: str, advice: str = _GET_AGAIN, subject: str = "") -> None:
        self.findings.append(Finding(rule, file, text, advice, subject))


def read_weights(path: Path, sizes: Mapping[str, int]) -> Weights:
    """Read the headers and the index of a folder whose regular files are `sizes`."""
    reading = _Reading(path, sizes)
    present = sorted(name for name in sizes if name.endswith(".safetensors") and not _is_adapter(name))
    index = _index(reading) if INDEX in sizes else None
    listed = sorted(set(index["weight_map"].values())) if index else None
    files = _chosen(reading, present, listed)
    for name in files:
        _read(reading, name)
    if index:
        _compare(reading, index)
    _check_names(reading, listed or [])
    chosen = {name: sizes[name] for name in files if name in sizes}
    return Weights(reading.tensors, chosen, reading.complete and bool(files), tuple(reading.findings))


def _is_adapter(name: str) -> bool:
    return name.startswith("adapter_")


def _index(reading: _Reading) -> dict[str, Any] | None:
    try:
        found = parsed(reading.path, INDEX, MAX_INDEX, check_index, MAX_INDEXED)
    except CheckpointError as error:
        reading.findings.append(unreadable("QG303", reading.path, INDEX, error))
        return None
    return dict(found)


def _chosen(reading: _Reading, present: list[str], listed: list[str] | None) -> list[str]:
    """Return the files that a loader would read; report those that it would not."""
    if listed is None:
        return _unindexed(reading, present)
    if SINGLE in present and SINGLE not in listed:
        reading.say("QG309", INDEX, f"stands beside {SINGLE}", "remove one of them")
    for name in sorted(set(present) - {*listed, SINGLE}):
        reading.say("QG308", name, "is not in the index", f"remove it, or list its tensors in {INDEX}")
    for name in listed:
        if name not in reading.sizes:
            reading.say("QG304", name, f"is missing, though {INDEX} lists it")
            reading.complete = False
    return [name for name in listed if name in reading.sizes]


def _unindexed(reading: _Reading, present: list[str]) -> list[str]:
    if SINGLE in present:
        for name in present:
            if name != SINGLE:
                reading.say("QG308", name, f"is read by no loader beside {SINGLE}", "remove it")
        return [SINGLE]
    if len(present) == 1:
        reading.say(
            "QG311", present[0], f"is not the name that loaders expect ({SINGLE})", f"rename it to {SINGLE}"
        )
    elif present and INDEX not in reading.sizes:
        reading.say("QG312", "", f"has {len(present)} safetensors files and no {INDEX}")
    elif not present:
        _say_none(reading)
    return present


def _say_none(reading: _Reading) -> None:
    pickles = [name for name in reading.sizes if PICKLES.fullmatch(name)]
    if pickles:
        reading.say(
            "QG601",
            pickles[0],
            "is a pickle, and there are no safetensors",
            "convert the model to safetensors",
        )
    elif "adapter_config.json" not in reading.sizes:
        reading.say("QG301", "", "has no weights (allowed: *.safetensors)")


def _read(reading: _Reading, name: str) -> None:
    if reading.left <= 0 or len(reading.tensors) > MAX_INDEXED:
        reading.say("QG302", name, "is not read: the headers before it were larger than those of any model")
        reading.complete = False
        return
    try:
        target = locate(reading.path, name)
        reading.left -= _header_bytes(target)
        found = checked(reading.path / name, partial(read_header, target, name))
    except CheckpointError as error:
        reading.findings.append(unreadable("QG302", reading.path, name, error))
        reading.complete = False
        return
    for tensor, info in found.items():
        first = reading.tensors.setdefault(tensor, info)
        if first is not info:
            reading.say("QG306", name, f"is also in {first.file}", subject=tensor)


def _header_bytes(target: Path) -> int:
    try:
        with opened(target) as (descriptor, status):
            said = int.from_bytes(read_all(descriptor, min(8, status.st_size)), "little")
            return min(said, MAX_HEADER)
    except (MalformedError, OSError):
        return 0


def _compare(reading: _Reading, index: dict[str, Any]) -> None:
    weight_map = index["weight_map"]
    for name, where in weight_map.items():
        info = reading.tensors.get(name)
        if info is None and reading.complete:
            reading.say("QG305", INDEX, f"is listed in {where} and in no file", subject=name)
        elif info is not None and info.file != where:
            reading.say("QG305", INDEX, f"is listed in {where} (found in {info.file})", subject=name)
    for name in reading.tensors.keys() - weight_map.keys():
        reading.say("QG305", INDEX, f"is in {reading.tensors[name].file} and not in the index", subject=name)
    total, stated = sum(info.nbytes for info in reading.tensors.values()), index["metadata"].get("total_size")
    if reading.complete and stated is not None and stated != total:
        text = f"total_size is {ascii(stated)[:40]} (the shards hold {total})"
        reading.say("QG307", INDEX, text, "correct that number, or export the checkpoint again")


def _check_names(reading: _Reading, listed: list[str]) -> None:
    for fault in _name_faults(listed):
        reading.say("QG310", INDEX, fault, "rename the shards and correct the index")


def _name_faults(listed: list[str]) -> Iterator[str]:
    matches = {name: _NUMBERED.fullmatch(name) for name in listed}
    odd = [name for name, found in matches.items() if found is None]
    if odd:
        if listed != [SINGLE]:
            yield f"lists {odd[0]} (expected model-00001-of-{len(listed):05}.safetensors …)"
        return
    numbers = sorted(int(found[1]) for found in matches.values() if found)
    totals = {int(found[2]) for found in matches.values() if found}
    if totals and (len(totals) > 1 or numbers != list(range(1, max(totals) + 1))):
        counted = f"{len(listed)} shards numbered {numbers[0]} to {numbers[-1]} of {sorted(totals)}"
        yield f"lists {counted[:120]} (expected every number from 1 to the total)"
