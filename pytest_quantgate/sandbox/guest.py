"""The guest: the process that runs a program, and answers calls of its functions with plain data.

Nothing it says is believed but as the answer to a call; it holds no test, no nonce and no way to the verdict.
"""

from __future__ import annotations

import builtins
import gc
import io
import os
import random
import sys
from types import ModuleType
from typing import Any, NoReturn

from pytest_quantgate.sandbox import protocol

__all__ = ["run", "silence", "work"]

_WORDS = 2000
_NAMES = 1000
_GARBAGE = 50_000


class _Silence(io.TextIOWrapper):
    """Standard output that goes nowhere, and that spends nothing on getting there."""

    def write(self, text: str) -> int:
        return len(text)


def silence() -> None:
    """Print into nothing from now on."""
    sys.stdout = _Silence(sys.stdout.buffer, encoding="utf-8")
    sys.stderr = _Silence(sys.stderr.buffer, encoding="utf-8")


def run(job: int, calls: int) -> NoReturn:
    """Take one program from `job`, run it, and serve `calls` until nobody calls any more; never return."""
    gc.enable()
    gc.set_threshold(_GARBAGE, 50, 50)
    work(job, calls)
    os._exit(0)


def work(job: int, calls: int) -> None:
    """Do what `run` says, without ending the process."""
    wire = protocol.Wire(calls)
    try:
        asked = protocol.Wire(job).receive()
        os.close(job)
        _serve(wire, _program(asked["source"]))
    except BaseException as error:  # noqa: BLE001  SystemExit of the program among them
        _say(wire, _raised(error))


def _program(source: str) -> dict[str, Any]:
    random.seed(0)
    module = ModuleType("program")
    sys.modules["program"] = module  # dataclasses and pickle look their module up
    exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102  its purpose
    return module.__dict__


def _serve(calls: protocol.Wire, names: dict[str, Any]) -> None:
    _say(calls, ["ready", {name: _kind(value) for name, value in list(names.items())[:_NAMES]}])
    while True:
        try:
            _, name, arguments, keywords = calls.receive()
        except (EOFError, OSError):
            return
        _answer(calls, names[name], protocol.decode(arguments), protocol.decode(keywords))


def _answer(calls: protocol.Wire, function: Any, arguments: list[Any], keywords: dict[str, Any]) -> None:
    try:
        found = function(*arguments, **keywords)
        try:
            answer = ["returned", protocol.encode(found)]
        except protocol.ProtocolError as error:
            answer = ["refused", str(error)]
    except Exception as error:  # noqa: BLE001  it belongs to whoever called
        answer = _raised(error)
    _say(calls, answer)


def _say(calls: protocol.Wire, message: list[Any]) -> None:
    try:
        calls.send(message)
    except protocol.ProtocolError as error:
        calls.send(["refused", str(error)])


def _kind(value: Any) -> str:
    """Return what the check can do with a name: call it, or import the module of that name."""
    if isinstance(value, ModuleType):
        return value.__name__
    return "()" if callable(value) else ""


def _raised(error: BaseException) -> list[Any]:
    """Return an exception as the nearest class that Python itself has, and a text."""
    kind = next(one for one in type(error).__mro__ if getattr(builtins, one.__name__, None) is one)
    try:
        text = str(error)[:_WORDS]
    except BaseException:  # noqa: BLE001  a text that cannot be made is none
        text = ""
    if isinstance(error, SyntaxError) and error.lineno:
        text = f"{str(error.msg)[:_WORDS]} (line {error.lineno})"
    own = "" if kind is type(error) else f"{type(error).__name__}: "[:_WORDS]
    return ["raised", kind.__name__, own + text]
