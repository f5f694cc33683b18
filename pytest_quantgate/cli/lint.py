"""`quantgate lint`: judge a checkpoint by its headers and configuration, and print what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.errors import CheckpointError, UnknownNameError, UsageError
from pytest_quantgate.escaping import ascii_only
from pytest_quantgate.files import write_atomic
from pytest_quantgate.lint import RULES, lint
from pytest_quantgate.lint.output import FORMATS

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 if one of them is an error, or under --strict a warning."""
    path, baseline = Path(arguments.checkpoint), arguments.baseline
    _check_rules(arguments.ignore)
    linted = lint(_existing(path), _existing(Path(baseline)) if baseline else None).without(arguments.ignore)
    text = FORMATS[arguments.format](linted)
    if arguments.output:
        _write(Path(arguments.output), text)
    else:
        _print(text)
    counts = linted.counts()
    return int(counts["error"] > 0 or (arguments.strict and counts["warning"] > 0))


def _check_rules(given: list[str]) -> None:
    known = {*RULES, *(rule.name for rule in RULES.values())}
    for name in given:
        if name not in known:
            raise UnknownNameError("rule", name, known, "docs/lint.md lists all")


def _existing(path: Path) -> Path:
    if not os.path.lexists(path):
        raise CheckpointError(
            f"{path}: missing; give a model folder or a GGUF file that lies on this machine"
        )
    return path


def _print(text: str) -> None:
    try:
        print(text)
    except UnicodeEncodeError:
        print("\n".join(map(ascii_only, text.splitlines())))


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, [f"{text}\n".encode()])
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
