"""Results that other tools have written, as values that gates can judge.

A format is a name for one tool's file: `FORMATS` says which function reads it, and `read` calls that. Nothing is run,
downloaded or followed: a file is read once, as a whole, up to `source.LARGEST` bytes.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from pytest_quantgate.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_quantgate.imports.values import Imported

    Reader: TypeAlias = Callable[[Path, tuple[Path, ...]], list[Imported]]

__all__ = ["FORMATS", "read"]

FORMATS: Mapping[str, str] = {
    "lm-eval": "pytest_quantgate.imports.lm_eval:read",
    "llama.cpp": "pytest_quantgate.imports.llama_cpp:read",
    "vllm": "pytest_quantgate.imports.vllm:read",
    "evalution": "pytest_quantgate.imports.evalution:read",
}
"""What can be read: the name of a format -> "module:function"."""


def read(format: str, path: Path, extra_files: Iterable[Path] = ()) -> list[Imported]:  # noqa: A002  what users write
    """Read a results file.

    Args:
        format: one of `FORMATS`.
        path: the file.
        extra_files: what belongs to it: lm-eval's samples, one file per task.

    Raises:
        UnknownNameError: there is no such format.
        UsageError: a file cannot be read, is cut short, or is another tool's; the message says what to do.

    """
    if format not in FORMATS:
        raise UnknownNameError("format of results", format, FORMATS)
    module, _, function = FORMATS[format].partition(":")
    reader = cast("Reader", getattr(import_module(module), function))
    return reader(Path(path), tuple(Path(extra) for extra in extra_files))
