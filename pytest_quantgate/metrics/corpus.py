"""Texts to score: a local text, JSON-lines or Parquet file, or a data set of the hub.

Rows are joined by `join` (default: a blank line, as the GPTQ papers join WikiText-2). The text is known by
its digest: the same text under another name gives the same observations.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.errors import ConfigError, UsageError
from pytest_quantgate.tasks.rows import dataset, library

__all__ = ["WIKITEXT2", "Corpus", "corpus_at", "digest_of"]

WIKITEXT2 = {
    "dataset": "Salesforce/wikitext",
    "name": "wikitext-2-raw-v1",
    "split": "test",
    "field": "text",
    "join": "\n\n",
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where a text lies.

    Attributes:
        path: a local .txt, .jsonl or .parquet file; empty for a data set of the hub.
        dataset: the data set's id on the hub.
        name: its configuration.
        split: its split.
        field: which field of a row is the text.
        join: what goes between rows.

    """

    path: str = ""
    dataset: str = ""
    name: str = ""
    split: str = "test"
    field: str = "text"
    join: str = "\n\n"

    def __str__(self) -> str:
        return f"corpus {self.path}" if self.path else f"corpus {self.dataset} {self.name} {self.split}"

    def to_json(self) -> dict[str, str]:
        """Return it as a JSON object."""
        return asdict(self)

    def read(self) -> str:
        """Return the whole text.

        Raises:
            UsageError: it is not there, holds no text, or has no such field.

        """
        text = _read_file(self, Path(self.path).stat().st_mtime_ns) if _exists(self) else _read_dataset(self)
        if not text.strip():
            raise UsageError(f"{self} is empty; give [tool.quantgate.tokens] corpus a file with text")
        return text


def corpus_at(value: object, root: Path) -> Corpus:
    """Return the corpus that a setting names: a path counted from `root`, or a table of `Corpus` fields.

    Raises:
        ConfigError: it is neither, or the table has other fields.

    """
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"corpus {value!r} is neither a path nor a table with path= or dataset=")
    fields = set(Corpus.__dataclass_fields__)
    if unknown := sorted(set(value) - fields):
        raise ConfigError(f"corpus has no field {unknown[0]!r}; there are: {', '.join(sorted(fields))}")
    corpus = Corpus(**{str(key): str(item) for key, item in value.items()})
    if bool(corpus.path) == bool(corpus.dataset):
        raise ConfigError("corpus needs either path= or dataset=")
    return Corpus(**{**corpus.to_json(), "path": str(root / corpus.path)}) if corpus.path else corpus


def digest_of(text: str) -> str:
    """Return the identity of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _exists(corpus: Corpus) -> bool:
    if corpus.path and not Path(corpus.path).is_file():
        raise UsageError(f"{corpus} does not exist; set [tool.quantgate.tokens] corpus to a file")
    return bool(corpus.path)


@functools.lru_cache(maxsize=4)
def _read_file(corpus: Corpus, _modified: int) -> str:
    path = Path(corpus.path)
    readers = {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
    try:
        if path.suffix not in readers:
            return path.read_text(encoding="utf-8")
        return corpus.join.join(readers[path.suffix](path, corpus.field))
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{corpus} cannot be read as {path.suffix or 'text'}: {error}") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"{corpus} has rows without the text field {corpus.field!r}; set field=") from error


def _json_lines(path: Path, field: str) -> Iterable[str]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)[field] for line in lines if line.strip()]


def _parquet(path: Path, field: str) -> Iterable[str]:
    rows: Any = library("pyarrow.parquet", "reading this corpus").read_table(path, columns=[field])
    found: list[str] = rows[field].to_pylist()
    return found


@functools.lru_cache(maxsize=2)
def _read_dataset(corpus: Corpus) -> str:
    place = "[tool.quantgate.tokens] corpus"
    rows = dataset(corpus.dataset, corpus.name, corpus.split, place, str(corpus))
    try:
        return corpus.join.join(rows[corpus.field])
    except KeyError as error:
        raise UsageError(f"{corpus} has no field {corpus.field!r}; set field=") from error
