"""The judge: the process that runs a program's check. It alone can send the verdict.

The check sees a stand-in for the function under test, which sends each call to the guest; what comes back are values
of Python's own types. The check's code comes from a data set and is trusted; what the guest answers is not.
"""

from __future__ import annotations

import binascii
import builtins
import contextlib
import importlib
import marshal
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import MAGIC_NUMBER
from types import CodeType
from typing import Any, NoReturn

from pytest_quantgate.sandbox import protocol

__all__ = ["LOST", "compiled", "run", "work"]

LOST = "the program ended before its check"
"""The reason where the guest is gone; the parent knows more, by its exit status."""

_LONGEST = 1000
_JOB = 64 * 2**20
_SHORT = 64 * 1024


class _Broken(BaseException):
    """The guest is gone, or does not keep to the protocol: no check can go on, nor catch this as an answer."""


class _Guest:
    """The other end of the wire."""

    def __init__(self, calls: int) -> None:
        self._wire = protocol.Wire(calls)
        self.names: dict[str, str] = {}
        self.fault = ""

    def wait(self) -> None:
        """Wait until the program has defined what it defines.

        Raises:
            Exception: what the program raised.

        """
        kind, *rest = self._received()
        if kind != "ready":
            raise _exception(kind, *rest)
        known = rest[0] if rest and type(rest[0]) is dict else {}
        self.names = {name: what for name, what in known.items() if type(what) is str}

    def function(self, name: str) -> Callable[..., Any]:
        """Return a stand-in for a function of the program."""

        def candidate(*arguments: object, **keywords: object) -> Any:
            return self._called(name, list(arguments), keywords)

        candidate.__name__ = candidate.__qualname__ = name
        return candidate

    def _called(self, name: str, arguments: list[object], keywords: dict[str, object]) -> Any:
        try:
            asked = ["call", name, protocol.encode(arguments), protocol.encode(keywords)]
        except protocol.ProtocolError as error:
            raise TypeError(f"an argument of the check: {error}") from None
        try:
            self._wire.send(asked)
        except OSError:
            raise self._broken(LOST) from None
        kind, *rest = self._received()
        if kind == "refused":
            # no exception of the program's: a check that expects one must not take it for that
            said = rest[0][:_LONGEST] if rest and type(rest[0]) is str else ""
            raise self._broken(f"the program's answer: {said}")
        if kind != "returned" or len(rest) != 1:
            raise _exception(kind, *rest)
        try:
            return protocol.decode(rest[0])
        except (protocol.ProtocolError, RecursionError) as error:
            raise self._broken(f"the program's answer: {error}") from None

    def _received(self) -> list[Any]:
        try:
            found = self._wire.receive()
        except (EOFError, OSError):
            raise self._broken(LOST) from None
        except protocol.ProtocolError as error:
            raise self._broken(f"the program's answer: {error}") from None
        if type(found) is not list or not found:
            raise self._broken("the program's answer: not one that the guest gives")
        return found

    def _broken(self, fault: str) -> _Broken:
        self.fault = self.fault or fault
        return _Broken(fault)


def run(verdict: int, calls: int) -> NoReturn:
    """Take one check from `verdict`, run it against the guest behind `calls`, and answer; never return."""
    work(verdict, calls)
    os._exit(0)


def work(verdict: int, calls: int) -> None:
    """Do what `run` says, without ending the process."""
    wire = protocol.Wire(verdict, _JOB)
    job = wire.receive()
    nonce, guest = job.pop("nonce"), _Guest(calls)
    reason = _judged(guest, **job)
    if guest.fault:  # whatever the check made of it: a bare except must not turn it into a pass
        reason = guest.fault
    wire.send({"nonce": nonce, "reason": reason[:_LONGEST]})


def compiled(check: str) -> str:
    """Return a check's code, for processes of this version of Python, as text; "" where it is left to them.

    The parent does it once for all programs of a task, where each judge would fill pages with a parser's memory.
    """
    if len(check) > _SHORT:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(check, "<check>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return ""  # the judge says what is wrong with it
    return binascii.b2a_base64(MAGIC_NUMBER + marshal.dumps(code), newline=False).decode("ascii")


def _loaded(check: str, code: str) -> CodeType:
    body = binascii.a2b_base64(code)
    if not body.startswith(MAGIC_NUMBER):
        return compile(check, "<check>", "exec", dont_inherit=True)
    found: CodeType = marshal.loads(body[len(MAGIC_NUMBER) :])  # noqa: S302  written by the parent
    return found


def _judged(guest: _Guest, check: str, code: str, entry_point: str, helpers: str) -> str:
    """Return "" for a program that passes, else why it does not."""
    names: dict[str, Any] = {"__name__": "check"}
    try:
        guest.wait()
        random.seed(0)
        body = _loaded(check, code)
        if entry_point not in guest.names:
            return f"NameError: the program defines no {entry_point}"
        names |= _beside(guest, body, helpers)
        names[entry_point] = candidate = guest.function(entry_point)
        exec(body, names)  # noqa: S102  the check is trusted
        names["check"](candidate)
    except BaseException as error:  # noqa: BLE001  SystemExit in a check is no pass either
        return _described(error, check)
    return ""


def _beside(guest: _Guest, code: CodeType, helpers: str) -> dict[str, Any]:
    """Return what the check needs beside the candidate: from the helpers if they have it, else from the program."""
    needed = {name for name in _names(code) if not hasattr(builtins, name)}
    names: dict[str, Any] = {"__name__": "helpers"}
    if any(name in helpers for name in needed):
        exec(_compiled(helpers), names)  # noqa: S102  from the data set
    for name in needed - names.keys():
        kind = guest.names.get(name, "")
        if kind == "()":
            names[name] = guest.function(name)
        elif kind.partition(".")[0] in sys.stdlib_module_names:
            with contextlib.suppress(ImportError):
                names[name] = importlib.import_module(kind)
    return {name: value for name, value in names.items() if name in needed}


def _compiled(helpers: str) -> CodeType:
    """Return the helpers' code; a prompt may end before its function has a body."""
    try:
        return compile(helpers, "<helpers>", "exec", dont_inherit=True)
    except SyntaxError:
        return compile(f"{helpers}\n    pass\n", "<helpers>", "exec", dont_inherit=True)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _exception(kind: object, *rest: object) -> BaseException:
    """Return what the guest says that the program raised, as one of Python's own exceptions."""
    name, text = rest if kind == "raised" and len(rest) == 2 else ("", "")  # noqa: PLR2004
    found = getattr(builtins, name, None) if type(name) is str else None
    text = text[:_LONGEST] if type(text) is str else ""
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        return RuntimeError("an answer that the guest does not give")
    # these would end a loop of the check, which would then find nothing wrong
    if not issubclass(found, Exception) or issubclass(found, StopIteration | StopAsyncIteration):
        return RuntimeError(f"{name}: {text}")
    try:
        return found(text)
    except TypeError:  # UnicodeDecodeError and the groups take more than a text
        return RuntimeError(f"{name}: {text}")


def _described(error: BaseException, check: str) -> str:
    try:
        text = str(error)[:_LONGEST]
    except Exception:  # noqa: BLE001  the text of an int may be too long for Python
        text = ""
    if isinstance(error, AssertionError) and not text:
        text = _line(error, check)
    return f"{type(error).__name__}: {text}".rstrip(": ")


def _line(error: BaseException, check: str) -> str:
    """Return the line of the check at which it ended."""
    found, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<check>":
            found = trace.tb_lineno
        trace = trace.tb_next
    lines = check.splitlines()
    return lines[found - 1].strip() if 0 < found <= len(lines) else ""
