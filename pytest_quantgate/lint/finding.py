"""What lint found, and how many findings of one kind become one line. Pure."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate.escaping import plain
from pytest_quantgate.lint.rules import RULES, SEVERITIES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_quantgate.errors import CheckpointError

__all__ = ["Finding", "collapsed", "unreadable"]

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
FEW = 3
"""Modules that one thing is said of before they become one line."""

MOST = 40
"""Lines of one rule; the last one says how many more there are."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: id of the rule.
        file: the file's name in the folder; empty for the folder itself.
        text: what was found and what is allowed, without the file's name.
        advice: what to do.
        subject: the tensor or module that it is about; those that differ only in their numbers become one line.
        count: for how many subjects it stands.

    """

    rule: str
    file: str
    text: str
    advice: str
    subject: str = ""
    count: int = 1

    @property
    def about(self) -> Rule:
        """The rule with its name and severity."""
        return RULES[self.rule]

    def line(self) -> str:
        """Return it as one printable line."""
        return plain(f"{f'{self.file}: ' if self.file else ''}{self.sentence()}; {self.advice}")

    def sentence(self) -> str:
        """Return what was found, with the subject and how many more are like it."""
        others = f" (and {self.count - 1} more like it)" if self.count > 1 else ""
        return plain(f"{f'{self.subject} ' if self.subject else ''}{self.text}{others}")

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object of builtin types only."""
        return {
            "rule": self.rule,
            "name": self.about.name,
            "severity": self.about.severity,
            "file": self.file,
            "message": self.sentence(),
            "advice": plain(self.advice),
            "subject": self.subject,
            "count": self.count,
        }


def unreadable(rule: str, path: Path, file: str, error: CheckpointError) -> Finding:
    """Return what an error of reading becomes; its line is `<path>: <what>; <advice>`."""
    text, _, advice = str(error).removeprefix(plain(f"{path / file}: ")).rpartition("; ")
    return Finding(rule, file, text or str(error), advice)


def collapsed(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, the worst first; what is said of every layer, or of many modules alike, is one."""
    layers = _merged(findings, lambda found: _NUMBER.sub("*", found.subject) or found.file + found.text)
    alike = Counter((found.rule, found.text) for found in layers if found.subject)
    merged = _merged(
        layers,
        lambda found: (
            found.text if alike[found.rule, found.text] > FEW else found.subject or found.file + found.text
        ),
    )
    ranked = sorted(merged, key=lambda found: (SEVERITIES.index(found.about.severity), found.rule))
    return tuple(_at_most(ranked))


def _merged(findings: Iterable[Finding], key: Callable[[Finding], str]) -> list[Finding]:
    first: dict[tuple[str, str], Finding] = {}
    for found in findings:
        where = found.rule, key(found)
        known = first.get(where)
        first[where] = replace(known, count=known.count + found.count) if known else found
    return list(first.values())


def _at_most(findings: list[Finding]) -> Iterable[Finding]:
    total, seen = Counter(found.rule for found in findings), Counter[str]()
    for found in findings:
        seen[found.rule] += 1
        if seen[found.rule] < MOST or total[found.rule] <= MOST:
            yield found
        elif seen[found.rule] == MOST:
            yield replace(found, count=found.count + total[found.rule] - MOST)
