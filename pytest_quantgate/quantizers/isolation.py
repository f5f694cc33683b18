"""Running a quantization library without letting it leave traces: what it prints, sets and draws at random.

Seen of gptqmodel 7.6.0: a banner and a thousand lines on stdout, cache folders redirected by environment
variables at import, the global random state moved on.
"""

from __future__ import annotations

import io
import logging
import os
import random
import warnings
from collections import deque
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging as _logging

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Tail", "isolated"]

KEPT_LINES = 4
TRANSFORMERS_LOGGING: Any = _logging


class Tail(io.TextIOBase):
    """A text stream that keeps its last lines, for the message of a failure."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, text: str, /) -> int:
        """Take a piece of output, which may hold several lines."""
        self._lines.extend(line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip())
        return len(text)

    def __str__(self) -> str:
        return " | ".join(self._lines)


@contextmanager
def isolated() -> Iterator[Tail]:
    """Keep output, environment, warnings and random state as they were; yield what collects the output.

    Inside, the random state is that of seed 0: what is made does not depend on what ran before.
    """
    output, environment = Tail(), dict(os.environ)
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(output))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # not by the argument, which Python 3.10 does not have
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  what libraries draw from
        stack.callback(_restore, environment)
        stack.callback(logging.disable, logging.root.manager.disable)
        stack.enter_context(_quiet_transformers())
        logging.disable(logging.WARNING)
        _seed()
        yield output


def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


def _restore(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    level, bars = TRANSFORMERS_LOGGING.get_verbosity(), TRANSFORMERS_LOGGING.is_progress_bar_enabled()
    TRANSFORMERS_LOGGING.set_verbosity_error()
    TRANSFORMERS_LOGGING.disable_progress_bar()
    try:
        yield
    finally:
        TRANSFORMERS_LOGGING.set_verbosity(level)
        if bars:
            TRANSFORMERS_LOGGING.enable_progress_bar()
