"""The process that holds a model for another one: it loads, answers calls, and ends when the other end is gone.

Only this file, `wire`, the values and interfaces, and the backend or quantizer that is asked for are imported here, so
that they alone must run under an old interpreter beside old libraries (Python 3.10, transformers 4.44).
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pytest_quantgate import errors
from pytest_quantgate.errors import MissingExtraError, ObservationError, QuantgateError
from pytest_quantgate.executors.wire import Channel
from pytest_quantgate.interfaces import Answering

__all__ = ["BOOTSTRAP", "main"]

BOOTSTRAP: Final = """
import importlib.util, json, sys
place, descriptor, parent, paths = sys.argv[1:]
sys.path[:] = json.loads(paths) or sys.path
found = importlib.util.spec_from_file_location(
    "pytest_quantgate", place + "/__init__.py", submodule_search_locations=[place])
module = importlib.util.module_from_spec(found)
sys.modules["pytest_quantgate"] = module
found.loader.exec_module(module)
from pytest_quantgate.executors.worker import main
main(int(descriptor), int(parent))
"""
"""Imports this package, and it alone, from where the other process has it: what lies beside it there stays there."""

_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)
_LONG: Final = frozenset({"score", "generate", "likelihoods", "complete"})
_ATTRIBUTES: Final = ("vocab_size", "max_length", "load_seconds", "bos_id")


def main(descriptor: int, parent: int) -> None:
    """Serve the process at the other end of a socket until it hangs up."""
    _end_with(parent)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    channel = Channel(socket.socket(fileno=descriptor))
    server = Server(channel)
    with suppress(EOFError, ConnectionError):
        channel.send({"result": list(sys.version_info[:3])})
        while True:
            request = channel.receive()
            channel.send(server.answer(request["call"], request["with"]))
    # threads of an engine may hang on: there is nothing left to save
    sys.stderr.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.stderr.write(
            "it was not started by the process that asks; python must be an interpreter, no script\n"
        )
        sys.stderr.flush()
        os._exit(1)


class Server:
    """Answers the calls of the other process on the one model that it holds."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._model: Any = None
        self._scores: Iterator[Any] = iter(())
        self._passes = 0

    def answer(self, call: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return {"result": ...} of a call, or {"error": kind, "text": ...}; no kind for what nobody expects."""
        try:
            if call in _LONG:
                # one that was left midway would keep what it holds beside what comes now
                self._scores, self._passes = iter(()), self._passes + 1
            own = getattr(self, f"_do_{call}", None)
            made = own(**arguments) if own else getattr(self._model, call)(**arguments)
        except QuantgateError as error:
            extra = {"extra": error.extra} if isinstance(error, MissingExtraError) else {}
            return {"error": _known(error), "text": str(error), **extra}
        except Exception as error:  # noqa: BLE001  the other process is to live on, and to know
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            return {"error": "", "text": f"{type(error).__name__}: {lines[0]}"}
        return {"result": made}

    def _do_load(self, reference: str, spec: Any, **allowed: bool) -> dict[str, Any]:
        self._model = _found(reference)(spec, **allowed)
        about = {name: getattr(self._model, name) for name in _ATTRIBUTES}
        return {**about, "answers": isinstance(self._model, Answering)}

    def _do_quantize(self, reference: str, recipe: Any, baseline: Any, out: str) -> None:
        _found(reference).quantize(recipe, baseline, Path(out), self._progress)

    def _do_score(self, **arguments: Any) -> int:
        self._scores = self._model.score(**arguments)
        return self._passes

    def _do_next_score(self, number: int) -> Any:
        if number != self._passes:
            raise ObservationError("a pass was continued after another had begun; finish one before the next")
        return next(self._scores)

    def _do_likelihoods(self, asked: Any) -> Any:
        return self._model.likelihoods(asked, self._progress)

    def _do_complete(self, prompts: Any, decoding: Any) -> Any:
        return self._model.complete(prompts, decoding, self._progress)

    def _progress(self, done: int, total: int) -> None:
        self._channel.send({"progress": [int(done), int(total)]})


def _known(error: QuantgateError) -> str:
    """Return the name of an error's nearest class that the other process knows: a backend may have its own."""
    names: list[str] = [
        kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind
    ]
    return names[0]


def _found(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
