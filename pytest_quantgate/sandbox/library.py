"""The standard library in memory, for processes that can open no file.

Pure modules lie in one block that processes share, as the code that Python compiled (or as text where an installation
ships none); extension modules cannot be loaded later, so the useful ones are imported before the door closes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import marshal
import mmap
import os
import sys
import warnings
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec
from types import CodeType, ModuleType
from typing import Any, NamedTuple

__all__ = ["Library", "preload"]

# one text each: a list of forty strings would be forty lines
_EXTENSIONS = """
    _bisect _blake2 _contextvars _csv _datetime _decimal _heapq _json _md5 _opcode _pickle _posixsubprocess _random
    _sha1 _sha2 _sha256 _sha512 _socket _statistics _struct array binascii cmath fcntl math select unicodedata zlib
"""
_PURE = """
    abc array base64 bisect calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions
    functools hashlib heapq inspect io itertools json math numbers operator random re statistics string struct sys
    textwrap time traceback types typing unicodedata
"""
_LEFT_OUT = {
    "__pycache__", "config", "distutils", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data",
    "site-packages", "test", "tests", "tkinter", "turtledemo", "venv",
}  # fmt: skip
_PYC_HEADER = 16


class _Place(NamedTuple):
    start: int
    end: int
    package: bool
    compiled: bool


class Library:
    """Finds and loads the standard library's pure modules from memory; for `sys.meta_path`."""

    def __init__(self, folder: str) -> None:
        self._places: dict[str, _Place] = {}
        # not in this process's own memory, not even for a moment: what a heap has grown by, every fork copies
        file = os.memfd_create("library") if hasattr(os, "memfd_create") else -1
        self._pieces = io.BytesIO() if file < 0 else io.FileIO(file, "wb")
        self._take(folder, "")
        if isinstance(self._pieces, io.BytesIO):
            self._memory: Any = self._pieces.getvalue()
        else:
            # private: whoever makes its pages writable writes to a copy of its own
            self._memory = mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        self._pieces.close()

    def move_in(self) -> None:
        """Make this the only place from which modules are imported, beside the interpreter itself."""
        sys.meta_path[:] = [BuiltinImporter, FrozenImporter, self]
        sys.path.clear()
        sys.path_hooks.clear()
        sys.path_importer_cache.clear()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """Return how a module is loaded; None for one that is not in the library."""
        place = self._places.get(name)
        return ModuleSpec(name, self, origin="memory", is_package=place.package) if place else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave making the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code in it."""
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102  this is what importing is

    def get_code(self, name: str) -> CodeType:
        """Return a module's code; `runpy` and `pkgutil` ask for it too.

        Raises:
            ImportError: it is not in the library.

        """
        if name not in self._places:
            raise ImportError(f"{name} is not in the library")
        place = self._places[name]
        body = self._memory[place.start : place.end]
        if place.compiled:
            code: CodeType = marshal.loads(body)  # noqa: S302  written by this interpreter's installation
            return code
        return compile(body, f"<{name}>", "exec", dont_inherit=True)

    def _take(self, folder: str, prefix: str) -> None:
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            name, dot, suffix = entry.name.partition(".")
            if name in _LEFT_OUT or name.startswith("config-"):
                continue
            inside = f"{entry.path}/__init__.py"
            if not dot and os.path.isfile(inside):  # noqa: PTH113  pathlib is slow to import
                self._add(prefix + name, inside, package=True)
                self._take(entry.path, f"{prefix}{name}.")
            elif suffix == "py" and name != "__init__":
                self._add(prefix + name, entry.path, package=False)

    def _add(self, name: str, file: str, *, package: bool) -> None:
        body = _compiled(file)
        compiled = body is not None
        if body is None:
            with open(file, "rb") as source:  # noqa: PTH123
                body = source.read()
        start = self._pieces.tell()
        self._pieces.write(body)
        self._places[name] = _Place(start, start + len(body), package, compiled)


def preload() -> None:
    """Import what programs and their checks import most, so that one import serves all."""
    warnings.simplefilter("ignore")
    # OpenSSL: Python's own hashes are smaller to fork
    sys.modules["_hashlib"] = None  # type: ignore[assignment]
    for name in (*_EXTENSIONS.split(), *_PURE.split()):
        with contextlib.suppress(
            ImportError
        ):  # which extensions there are depends on version and installation
            importlib.import_module(name)
    del sys.modules["_hashlib"]


def _compiled(file: str) -> bytes | None:
    """Return the code that Python keeps beside a source, if it belongs to this version and this source."""
    try:
        with open(importlib.util.cache_from_source(file), "rb") as cache:  # noqa: PTH123
            body = cache.read()
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    written = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
    size = (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    head = importlib.util.MAGIC_NUMBER + bytes(4) + written + size
    return body[_PYC_HEADER:] if body[:_PYC_HEADER] == head else None
