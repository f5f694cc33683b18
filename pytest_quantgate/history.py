"""The history: which runs judged which variants, in `history.sqlite` beside the store's observations.

A run is one row with its report, and a row per variant and observation behind its figures (key, `Step.to_json()`), so
that an earlier variant's observations are found in the store again. One transaction writes a run: another process that
writes at the same time waits, and what a killed one left is rolled back by the next that opens the file. The rollback
journal is used and not the write-ahead log, which does not work on network file systems.

`PRAGMA user_version` is the schema's version. A file of a newer version, a damaged one, and one that is none of ours is
refused with one line; nothing is ever repaired or overwritten.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import ConfigError, StoreError, UsageError
from pytest_quantgate.escaping import plain
from pytest_quantgate.spec import Step

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.spec import Json

__all__ = ["FILE", "VERSION", "History", "Run", "check_tag", "new_id"]

FILE = "history.sqlite"
VERSION = 1
PATIENCE = 30.0
"""Seconds to wait for another process that writes; a transaction takes milliseconds."""

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
_SHOWN = 12
_LONGEST_TAG = 100
_SCHEMA = (
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY, created TEXT NOT NULL, tag TEXT NOT NULL, status TEXT NOT NULL,
        verdicts TEXT NOT NULL, report TEXT NOT NULL)""",
    "CREATE INDEX runs_by_tag ON runs (tag, id)",
    """CREATE TABLE steps (
        run TEXT NOT NULL REFERENCES runs (id), variant TEXT NOT NULL, key TEXT NOT NULL, step TEXT NOT NULL,
        PRIMARY KEY (run, variant, key))""",
    f"PRAGMA user_version = {VERSION}",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run that judged something.

    Attributes:
        id: when it began (UTC) and four random digits: sorts by time.
        created: ISO 8601 time.
        tag: the name that it was given; may be empty, and several runs may share one.
        status: the standing of all its results together.
        verdicts: the standing of each variant, by name.

    """

    id: str
    created: str = ""
    tag: str = ""
    status: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What people call it: the tag if it has one, else the id."""
        return self.tag or self.id


def new_id(now: datetime | None = None) -> str:
    """Return an id for a run that begins now: "20261121-041500-3f2a"."""
    return f"{(now or datetime.now(UTC)).astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_tag(tag: str, place: str = "--quantgate-tag") -> str:
    """Return a tag that can name a run.

    Raises:
        ConfigError: it cannot: blank at an end, not printable, too long, or it looks like an id or an option.

    """
    if tag and (
        not tag.isprintable() or tag != tag.strip() or len(tag) > _LONGEST_TAG or tag.startswith("-")
    ):
        raise ConfigError(f"{place} {tag[:_LONGEST_TAG]!r}: write a short printable name such as v1.2")
    if _ID.fullmatch(tag):
        raise ConfigError(f"{place} {tag!r} looks like the id of a run; write a name such as v1.2")
    return tag


class History:
    """The runs of one store. The file is made when the first run is added; reading makes nothing.

    Args:
        store: the store's folder.

    """

    def __init__(self, store: Path) -> None:
        self.file = store / FILE

    def add(self, run: Run, report: Mapping[str, Json], steps: Mapping[str, Sequence[Step]]) -> None:
        """Keep a run: all of it or nothing.

        Args:
            run: the run; its id is new.
            report: `Report.to_json()`.
            steps: of each variant, by name: what its figures rest on.

        Raises:
            StoreError: it cannot be kept: the file is damaged, of a newer version, or cannot be written.

        """
        with self._opened("rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            if not self._version(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)",
                (run.id, run.created, run.tag, run.status, _text(dict(run.verdicts)), _text(report)),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO steps VALUES (?, ?, ?, ?)",
                [
                    (run.id, variant, step.key, _text(step.to_json()))
                    for variant, known in steps.items()
                    for step in known
                ],
            )
            connection.execute("COMMIT")

    def runs(self, limit: int | None = None) -> tuple[Run, ...]:
        """Return the runs, the latest first; all of them without a limit.

        Raises:
            StoreError: the file cannot be read.

        """
        rows = self._rows(
            "SELECT id, created, tag, status, verdicts FROM runs"
            " ORDER BY substr(id, 1, 15) DESC, rowid DESC LIMIT ?",
            (-1 if limit is None else limit,),
        )
        return tuple(self._run(row) for row in rows)

    def find(self, ref: str) -> Run:
        """Return the run of an id, the latest run with a tag, or the run of a unique beginning of an id.

        Raises:
            UsageError: there is none, or several ids begin so; the message lists what there is.
            StoreError: the file cannot be read.

        """
        known = self.runs()
        for found in (
            [run for run in known if run.id == ref],
            [run for run in known if ref and run.tag == ref][:1],
            [run for run in known if ref and run.id.startswith(ref)],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(run.id for run in found[:_SHOWN])
                raise UsageError(f"run {ref!r}: {len(found)} ids begin so ({names}); write more of it")
        raise UsageError(self._unknown(ref, known))

    def _unknown(self, ref: str, known: Sequence[Run]) -> str:
        if not known:
            return (
                f"unknown run {ref!r}: {self.file} holds no run yet;"
                " run the tests first, with --quantgate-tag to name the run"
            )
        tags = list(dict.fromkeys(run.tag for run in known if run.tag))
        ids = [run.id for run in known[:_SHOWN]]
        close = difflib.get_close_matches(ref, [*tags, *ids], n=1)
        guess = f"; did you mean {plain(close[0])!r}?" if close else ";"
        told = f"tags: {', '.join(map(plain, tags[:_SHOWN])) or 'none'}; latest runs: {', '.join(ids)}"
        return f"unknown run {ref!r}{guess} {told} (quantgate history lists all)"

    def report(self, run: Run) -> Mapping[str, Any]:
        """Return the report that a run was kept with, as JSON.

        Raises:
            StoreError: the file cannot be read.

        """
        rows = self._rows("SELECT report FROM runs WHERE id = ?", (run.id,))
        if not rows:
            raise StoreError(f"{self.file}: the run {run.id} is not there any more")
        report: Mapping[str, Any] = self._json(rows[0][0])
        return report

    def steps(self, run: Run) -> dict[str, tuple[Step, ...]]:
        """Return what the figures of each variant rested on, by its name.

        Raises:
            StoreError: the file cannot be read.

        """
        rows = self._rows("SELECT variant, step FROM steps WHERE run = ? ORDER BY rowid", (run.id,))
        found: dict[str, tuple[Step, ...]] = {}
        for variant, text in rows:
            try:
                step = Step.from_json(self._json(text))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise self._damaged(error) from error
            found[variant] = (*found.get(variant, ()), step)
        return found

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if not self.file.exists():
            return []
        with self._opened("rw") as connection:
            # an empty file: a process was killed before it wrote the first run
            return connection.execute(query, values).fetchall() if self._version(connection) else []

    @contextlib.contextmanager
    def _opened(self, mode: str) -> Iterator[sqlite3.Connection]:
        """Connect; "rw" also for reading, since a journal that a killed process left must be rolled back."""
        try:
            connection = sqlite3.connect(
                f"{self.file.absolute().as_uri()}?mode={mode}",
                timeout=PATIENCE,
                isolation_level=None,
                uri=True,
            )
            with contextlib.closing(connection):
                yield connection
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(
                f"{self.file}: the history cannot be used ({plain(str(error))});"
                " see that the folder can be written and is not locked"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the schema's version, 0 for an empty file; refuse a newer one, and another program's file."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version > VERSION:
            raise StoreError(
                f"{self.file} was written by a newer version (schema {version}, this one reads {VERSION});"
                " run pip install --upgrade pytest-quantgate"
            )
        if bool(version) != bool(tables):
            raise StoreError(f"{self.file} is no history of quantgate; move it away, and a new one is begun")
        return int(version)

    def _run(self, row: tuple[Any, ...]) -> Run:
        verdicts = self._json(row[4])
        if not isinstance(verdicts, dict) or not all(isinstance(text, str) for text in row[:4]):
            raise self._damaged("a run that is none")
        run, created, tag, status = row[:4]
        return Run(run, created, tag, status, {str(name): str(known) for name, known in verdicts.items()})

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> StoreError:
        return StoreError(
            f"{self.file}: the history is damaged ({plain(str(why))});"
            " move it away, and a new one is begun: observations are kept apart and stay"
        )


def _text(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
