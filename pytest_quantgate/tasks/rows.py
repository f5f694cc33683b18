"""Rows of a data set: a local CSV, JSON-lines or Parquet file, or a data set of the hub.

Nothing is downloaded that the local cache has, and nothing at all when the session is offline or the hub is out of
reach: a data set that is then missing is an error that says so.
"""

from __future__ import annotations

import csv
import functools
import gzip
import importlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pytest_quantgate import network
from pytest_quantgate.errors import MissingExtraError, UsageError
from pytest_quantgate.escaping import plain

__all__ = ["Row", "dataset", "file_rows", "library", "text_of"]

Row = Mapping[str, Any]


def file_rows(path: Path, columns: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a file by its ending: .csv, .json, .jsonl, .jsonl.gz or .parquet.

    Args:
        path: the file.
        columns: names of a CSV file's columns, for one without a header.

    Raises:
        UsageError: it does not exist, or is not of that kind.
        MissingExtraError: a Parquet file, and pyarrow is not installed.

    """
    try:
        if not path.is_file():
            raise UsageError(f"{path} does not exist")
        return _read(path, tuple(columns), path.stat().st_mtime_ns)
    except (ValueError, csv.Error, zlib.error, OSError, EOFError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as {path.suffix or 'text'}: {plain(str(error))}") from error


@functools.lru_cache(maxsize=256)
def _read(path: Path, columns: tuple[str, ...], _modified: int) -> list[Row]:
    if path.suffix == ".parquet":
        rows: list[Row] = library("pyarrow.parquet", str(path)).read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return _csv_rows(lines, columns)
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return _json_rows(data.decode("utf-8-sig"), path.suffix)


def _csv_rows(lines: Any, columns: tuple[str, ...]) -> list[Row]:
    reader = csv.DictReader(lines, fieldnames=columns or None, restkey="", strict=True)
    found: list[Row] = [row for row in reader if any(row.values())]
    for number, row in enumerate(found, 1):
        wrong = None in row.values() or "" in row
        if wrong:
            raise ValueError(f"row {number} has not the columns {', '.join(reader.fieldnames or ())}")
    return found


def _json_rows(text: str, suffix: str) -> list[Row]:
    if suffix == ".json" and text.lstrip().startswith("["):
        found: list[Row] = json.loads(text)
    else:
        # by "\n" alone: a string may hold other line ends
        found = [json.loads(line) for line in text.split("\n") if line.strip()]
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is no JSON object")  # noqa: TRY004  caught with the others
    return found


def text_of(row: Row, name: str, place: str) -> str:
    """Return a column's text.

    Raises:
        UsageError: the row has no such column, or another type is in it.

    """
    if name not in row:
        raise UsageError(f"{place} has no column {name!r}; it has: {', '.join(map(str, row))}")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{place}: {name} is {type(value).__name__}, not text")
    text = str(value)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{place}: {name} holds half a character, which has no UTF-8")
    return text


def dataset(name: str, configuration: str, split: str, place: str, what: str = "") -> Any:
    """Return a data set of the hub, from the local cache where the hub may not or cannot be asked.

    Args:
        name: its id on the hub.
        configuration: its configuration; empty for the only one.
        split: its split.
        place: which setting named it, for the message.
        what: how the message calls it.

    Raises:
        UsageError: it cannot be had.
        MissingExtraError: `datasets` is not installed.

    """
    datasets = library("datasets", f"the data set {name}")
    obstacle = "--quantgate-offline" if network.LOCAL_ONLY.get() else network.obstacle()
    try:
        with _cache_alone(datasets) if obstacle else nullcontext():
            return datasets.load_dataset(name, configuration or None, split=split)
    except network.connection_errors(ValueError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = f"{obstacle}, and the local cache lacks it" if obstacle else said[:150]
        called = what or " ".join(filter(None, (name, configuration, split)))
        raise UsageError(
            f"{called} cannot be had ({plain(reason)}); fetch it while the hub is reachable, "
            f"or set {place} to a local file"
        ) from error


@contextmanager
def _cache_alone(datasets: Any) -> Iterator[None]:
    """Let `datasets` look only at what it fetched before: its environment variable is read at import."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def library(name: str, purpose: str, extra: str = "hf") -> Any:
    """Import a library that only some data need.

    Raises:
        MissingExtraError: it is not installed.

    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{purpose} ({name.partition('.')[0]})", extra) from error
