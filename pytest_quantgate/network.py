"""Whether the Hugging Face hub can be reached, found out once and within seconds.

`datasets` and `huggingface_hub` retry a host that is not there for half a minute, and each of its addresses in turn.
One question before, through the client that they use (its proxies, its endpoint), tells them to use their caches alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from contextvars import ContextVar
from typing import Final

from pytest_quantgate.escaping import plain

__all__ = ["LOCAL_ONLY", "OFFLINE_VARIABLE", "PATIENCE", "connection_errors", "obstacle"]

LOCAL_ONLY: Final[ContextVar[bool]] = ContextVar("quantgate_local_only", default=False)
"""Set under --quantgate-offline: what has no options of its own (a corpus) must not ask the network either."""

OFFLINE_VARIABLE: Final = "HF_HUB_OFFLINE"

PATIENCE: Final = 8.0
"""Seconds for looking the host up, connecting and its first answer: a satellite link takes three or four."""


@functools.cache
def obstacle() -> str:
    """Return why the hub cannot be reached, or "" if its host answers, whatever it says.

    Asked once per process. A host that was connected to but is slow to answer counts as reachable.
    """
    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return f"{OFFLINE_VARIABLE} is set"
    endpoint: str = constants.ENDPOINT
    found: list[str] = []
    # a thread, since the time limit of a connection counts for each address of the host anew
    asking = threading.Thread(target=lambda: found.append(_ask(endpoint)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return found[0] if found else f"no answer from {endpoint} in {PATIENCE:.0f} s"


def _ask(endpoint: str) -> str:
    hub = importlib.import_module("huggingface_hub")
    try:
        # half of it for each stage: one that was reached and is slow to answer is told apart in time
        hub.get_session().head(endpoint, timeout=PATIENCE / 2)
    except connection_errors() as error:
        slow = type(error).__name__ == "ReadTimeout"
        return "" if slow else plain(f"{endpoint}: {str(error) or type(error).__name__}")[:160]
    return ""


@functools.cache
def connection_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what the hub's client raises for a connection that fails or breaks, and others: for `except`."""
    # huggingface_hub 1 speaks httpx, later ones httpx2
    names = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    clients = [importlib.import_module(name).TransportError for name in names]
    return (OSError, *clients, *others)
