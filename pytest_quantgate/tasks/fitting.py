"""Prompts as ids, and what is done with one that is longer than the model's context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.interfaces import Model
    from pytest_quantgate.spec import IntArray
    from pytest_quantgate.tasks.items import Item

__all__ = ["Fitting"]

NAMED = 3


class Fitting:
    """Makes ids of prompts, and notes which did not fit.

    An item that is too long gives up its last examples, one by one; if the bare question is still too long, its
    beginning is cut off.

    Args:
        model: whose tokenizer and context count.
        chat: put each prompt through the chat template, as the user's turn.
        system: the system's turn before it; empty for none.

    """

    def __init__(self, model: Model, *, chat: bool = False, system: str = "") -> None:
        self._model, self._chat, self._system = model, chat, system
        self._bos = np.asarray([] if model.bos_id is None else [model.bos_id], dtype=np.int64)
        self._endings: dict[tuple[str, str], IntArray] = {}
        self._fewer: list[str] = []
        self._cut: list[str] = []

    def ids(self, item: Item, room: int) -> IntArray:
        """Return the ids of an item's prompt, `room` places left free behind them.

        Raises:
            ObservationError: no place is left, or the prompt has no token.

        """
        most = self._model.max_length - room
        if most < 1:
            raise ObservationError(
                f"{room} tokens of answer do not fit the model's {self._model.max_length} positions; set new_tokens"
            )
        for shots in range(len(item.shots), -1, -1):
            ids = self._encoded(item.prompt(shots))
            if len(ids) <= most:
                break
        if shots < len(item.shots):
            self._fewer.append(item.id)
        if len(ids) > most:
            self._cut.append(item.id)
            ids = ids[-most:]
        if not len(ids):
            raise ObservationError(f"the prompt of item {item.id!r} has no token")
        return ids

    def _encoded(self, text: str) -> IntArray:
        if not self._chat:
            return np.concatenate([self._bos, self._model.encode(text)])
        turns = [("system", self._system)] if self._system else []
        return self._model.encode_chat(
            [{"role": role, "content": content} for role, content in [*turns, ("user", text)]]
        )

    def ending(self, item: Item, choice: str) -> IntArray:
        """Return the ids that a choice adds to an item's prompt: those of both together, less the prompt's own.

        Taken from the last line alone: no tokenizer joins what stands before a line's end with what stands behind.
        """
        line = item.tail.rpartition("\n")[2]
        if (line, choice) not in self._endings:
            before, both = self._model.encode(line), self._model.encode(line + choice)
            added = both[len(before) :] if len(both) > len(before) else self._model.encode(choice)
            if not len(added):
                raise ObservationError(f"the choice {choice!r} of item {item.id!r} has no token")
            self._endings[line, choice] = added
        return self._endings[line, choice]

    def remarks(self) -> list[str]:
        """Return what was done with items that were too long."""
        told = []
        if self._fewer:
            told.append(f"{_named(self._fewer)}: asked with fewer examples")
        if self._cut:
            told.append(f"{_named(self._cut)}: cut at the beginning")
        return told


def _named(ids: Sequence[str]) -> str:
    names = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
    return f"{len(ids)} {'item is' if len(ids) == 1 else 'items are'} longer than the context ({names})"
