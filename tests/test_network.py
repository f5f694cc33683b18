"""Reaching the hub: a host that is not there is found out within seconds, one that is slow is not given up."""

from __future__ import annotations

import contextlib
import http.server
import importlib
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate import network

hub = pytest.importorskip("huggingface_hub")
constants = importlib.import_module("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test asks for itself, on a network that no variable of the machine changes."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    network.obstacle.cache_clear()
    yield
    network.obstacle.cache_clear()


@contextlib.contextmanager
def serving(status: int, *, after: float = 0.0) -> Iterator[str]:
    """Serve one answer to everything, after some seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            time.sleep(after)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """A port that takes no more connections and refuses none: what a firewall that drops packets looks like."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_answer_will_do(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A mirror may say anything about its front page: what matters is that somebody is there."""
    with serving(status) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert network.obstacle() == ""


def test_a_slow_answer_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that was connected to and thinks for longer than we wait is left to the library's patience."""
    monkeypatch.setattr(network, "PATIENCE", 1.0)
    with serving(200, after=3.0) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert network.obstacle() == ""


def test_nobody_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection, and a name that no server knows."""
    for endpoint in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        network.obstacle.cache_clear()
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        began = time.monotonic()
        assert network.obstacle().startswith(f"{endpoint}: ")
        assert time.monotonic() - began < network.PATIENCE


def test_silence_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped packets are waited for, within the limit."""
    monkeypatch.setattr(network, "PATIENCE", 1.0)
    with deaf() as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        began = time.monotonic()
        assert network.obstacle().startswith(endpoint)
        assert time.monotonic() - began < 2


def test_many_deaf_addresses_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds for all addresses of a host together, not for each."""
    monkeypatch.setattr(network, "PATIENCE", 0.2)
    endless = threading.Event()
    monkeypatch.setattr(hub, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: endless.wait(30)))
    assert network.obstacle() == f"no answer from {constants.ENDPOINT} in 0 s"
    endless.set()


def test_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under HF_HUB_OFFLINE nothing is sent."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("asked"))
    assert network.obstacle() == "HF_HUB_OFFLINE is set"


def test_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of many models waits once."""
    calls: list[Any] = []
    monkeypatch.setattr(hub, "get_session", lambda: SimpleNamespace(head=lambda *a, **_: calls.append(a)))
    assert network.obstacle() == network.obstacle() == ""
    assert len(calls) == 1
