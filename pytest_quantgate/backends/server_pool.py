"""Several requests under way at once, and their answers in order.

The threads are daemons: a server that hangs delays neither Ctrl-C nor the end of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

__all__ = ["in_order"]

_T = TypeVar("_T")
_R = TypeVar("_R")
AHEAD = 4  # answers per thread that may wait to be taken


class _Answer(Generic[_R]):
    """What one item gave, once it is there."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._value: list[_R] = []
        self._error: BaseException | None = None

    def fill(self, work: Callable[[], _R]) -> None:
        try:
            self._value.append(work())
        except BaseException as error:  # noqa: BLE001  raised again where it is taken
            self._error = error
        self._there.set()

    def take(self) -> _R:
        self._there.wait()
        if self._error is not None:
            raise self._error
        return self._value[0]


def in_order(work: Callable[[_T], _R], items: Sequence[_T], threads: int) -> Iterator[_R]:
    """Yield `work(item)` for each item, in order, with up to `threads` of them at work.

    What one raises is raised at its place; nothing new is begun after that, or once nobody takes the answers.
    """
    answers: list[_Answer[_R]] = [_Answer() for _ in items]
    room = threading.Semaphore(AHEAD * threads)
    left, lock, stopped = iter(range(len(items))), threading.Lock(), threading.Event()

    def serve() -> None:
        while True:
            room.acquire()
            with lock:
                number = next(left, None)
            if number is None or stopped.is_set():
                return
            answers[number].fill(partial(work, items[number]))

    crew = [threading.Thread(target=serve, daemon=True) for _ in range(min(threads, len(items)))]
    try:
        for thread in crew:
            thread.start()
        for answer in answers:
            yield answer.take()
            room.release()
    finally:
        stopped.set()
        for _ in crew:
            room.release()
