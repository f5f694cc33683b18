"""Chat templates of transformers tokenizers, on a day that stands still."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from transformers.utils import chat_template_utils

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_day"]


class _NewYear(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> _NewYear:
        """Return the first of January 2025."""
        return cls(2025, 1, 1, tzinfo=tz)


@contextmanager
def one_day() -> Iterator[None]:
    """Let templates print one date: two models that are asked on two days would else get two prompts."""
    if not hasattr(chat_template_utils, "datetime"):  # before transformers 4.46 templates had no clock
        yield
        return
    before = chat_template_utils.datetime  # not exported, and no argument reaches it
    chat_template_utils.datetime = _NewYear
    try:
        yield
    finally:
        chat_template_utils.datetime = before
