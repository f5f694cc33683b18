"""Keeping the libraries' output off the terminal, and making one line of their errors."""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from transformers.utils import logging as _logging

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["first_line", "quiet"]

LIBRARY: Any = _logging
LONGEST = 300


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, banners and warnings of the libraries off the terminal; errors still raise."""
    verbosity, bars = LIBRARY.get_verbosity(), LIBRARY.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    environment = dict(os.environ)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        warnings.simplefilter("ignore")
        LIBRARY.set_verbosity_error()
        LIBRARY.disable_progress_bar()
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            # gptqmodel turns HF_HOME and its kin to a folder of its own when it is imported
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)
            logging.disable(disabled)
            LIBRARY.set_verbosity(verbosity)
            if bars:
                LIBRARY.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return kind and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:LONGEST]
