"""A server that is started here: ready or dead, and gone afterwards, whatever becomes of this process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2")
pytest.importorskip("transformers")

import tiny_models as tiny

from pytest_quantgate.backends import launching
from pytest_quantgate.backends.server import load
from pytest_quantgate.errors import ConfigError, NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import Window
from pytest_quantgate.spec import ModelSpec

COMMAND = f"{sys.executable} {Path(__file__).with_name('server_command.py')}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, and a blank in its name."""
    made = tmp_path_factory.mktemp("a tokenizer")
    tiny.tokenizer().save_pretrained(made)
    return made


@pytest.fixture(autouse=True)
def _logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of servers that fail go where the test's files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def spec(folder: Path, what: str = "", **options: Any) -> ModelSpec:
    """Return an endpoint that is launched."""
    given = {"launch": f"{COMMAND} {{port}} vllm {what}", "start_limit": 30, "request_limit": 10, **options}
    return ModelSpec("v", "", "w", path=str(folder), backend="server", options=tuple(given.items()))


def is_alive(process: int) -> bool:
    """Return whether a process runs; one that waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def gone(processes: list[int], seconds: float = 15) -> bool:
    """Return whether all processes end in time."""
    until = time.monotonic() + seconds
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(is_alive, processes))


def processes_of(log: str) -> list[int]:
    """Return the server's process and its children, as it wrote them down."""
    return [int(number) for number in re.findall(r"(?:child|ready) (\d+)", log)]


def test_started_measured_and_ended(folder: Path) -> None:
    """The port goes in, the log is kept, the time of the start is known, and nothing is left."""
    model = load(spec(folder))
    try:
        (scores,) = model.score([Window(np.arange(1, 20))], top_k=4)
        assert np.isfinite(scores.logprob).all()
        assert 0 < model.load_seconds < 30
        log = model._launched.log
        found = processes_of(log.read_text())
        assert len(found) == 1
        assert is_alive(found[0])
    finally:
        model.close()
    assert gone(found, 0.1)
    model.close()


@pytest.mark.parametrize("what", ["children", "children stubborn"])
def test_what_it_started_is_ended_too(folder: Path, what: str) -> None:
    """Children, also one that left the session; and a server that ignores the request to end."""
    patience = launching.GRACE
    launching.GRACE = 1.0
    try:
        model = load(spec(folder, what))
        found = processes_of(model._launched.log.read_text())
        assert len(found) == 3
        model.close()
    finally:
        launching.GRACE = patience
    assert gone(found, 0.2)


def test_one_that_dies(folder: Path) -> None:
    """Its last lines are the message, at once."""
    began = time.monotonic()
    with pytest.raises(
        ObservationError, match=r"ended with status 3: .*ValueError: no such model \(log: "
    ) as error:
        load(spec(folder, "dies", start_limit=600))
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 15


def test_one_that_never_gets_ready(folder: Path) -> None:
    """After its limit it is ended, and its last line shown."""
    before = {entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    with pytest.raises(ObservationError, match=r"was not ready in 1 s .*its log ends: starting with no key"):
        load(spec(folder, "silent", start_limit=1))
    left = {entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()} - before
    commands = [Path(f"/proc/{name}/cmdline") for name in left]
    assert not [path for path in commands if path.exists() and b"server_command" in path.read_bytes()]


def test_one_that_dies_later(folder: Path) -> None:
    """A request to a server that is gone says what became of it."""
    model = load(spec(folder))
    try:
        (server,) = processes_of(model._launched.log.read_text())
        os.kill(server, signal.SIGKILL)
        assert gone([server])
        for ask in (lambda: list(model.score([Window(np.arange(1, 20))])), lambda: model.generate([3], 4)):
            with pytest.raises(
                ObservationError, match=r"the server ended by signal SIGKILL: .*ready \d+ \(log: "
            ):
                ask()
    finally:
        model.close()


def test_a_port_that_is_taken(folder: Path) -> None:
    """Nothing is started, and the server that is there is not asked."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        launch = f"{COMMAND} {port} vllm"
        with pytest.raises(
            ObservationError, match=rf"port {port} is taken by another process; write \{{port\}}"
        ):
            load(spec(folder, launch=launch, server=f"http://127.0.0.1:{port}"))


def test_a_port_of_the_users_own(folder: Path) -> None:
    """Given by the address, where the command has no place for it."""
    port = launching.free_port()
    model = load(spec(folder, launch=f"{COMMAND} {port} vllm", server=f"http://127.0.0.1:{port}/v1/"))
    model.close()


@pytest.mark.parametrize(
    ("launch", "kind", "says"),
    [
        ("no-such-program --port {port}", NotMeasurableError, "no program 'no-such-program' here"),
        ("serve '{port}", ConfigError, "cannot be read: No closing quotation"),
        (
            f"{sys.executable} -c 'raise SystemExit(7)' {{port}}",
            ObservationError,
            "ended with status 7: it printed nothing",
        ),
        ("/no/such/server {port}", NotMeasurableError, "no program '/no/such/server' here"),
    ],
)
def test_commands_that_start_nothing(folder: Path, launch: str, kind: type[Exception], says: str) -> None:
    """One line each."""
    with pytest.raises(kind) as error:
        load(spec(folder, launch=launch))
    assert says in str(error.value)


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    """Blanks in a folder's name are no borders, and nothing is expanded."""
    words = launching.command(
        "python -m server --model {model} --port={port} $HOME;x", "v", port=7, model="/a b"
    )
    assert words == ["python", "-m", "server", "--model", "/a b", "--port=7", "$HOME;x"]


def test_a_key_is_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server prints what it is given; a message does not."""
    monkeypatch.setenv("FAKE_KEY", "sk-secret")
    with pytest.raises(ObservationError, match=r"starting with \*\*\*") as error:
        load(spec(folder, "dies", api_key_env="FAKE_KEY"))
    assert "sk-secret" not in str(error.value)


PARENT = """
    import os, sys, tempfile, time
    tempfile.tempdir = {folder!r}
    from pytest_quantgate.backends import launching
    port = launching.free_port()
    started = launching.launch({command!r} + f" {{port}} vllm children", "v", port=port, model="")
    while "ready" not in started.log.read_text():
        time.sleep(0.02)
    print(started.log, flush=True)
    {after}
"""
ENDS = {
    "killed": ("time.sleep(600)", signal.SIGKILL),
    "terminated": ("time.sleep(600)", signal.SIGTERM),
    "interrupted": ("time.sleep(600)", signal.SIGINT),
    "forked and killed": (
        "os.fork() or (time.sleep(8), os._exit(0)); time.sleep(600)",
        signal.SIGKILL,
    ),
    "exits without closing": ("sys.exit(0)", None),
    "ends by os._exit": ("os._exit(1)", None),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_session_goes(tmp_path: Path, end: str) -> None:
    """Then the server goes, with all that it started."""
    after, number = ENDS[end]
    script = textwrap.dedent(PARENT).format(command=COMMAND, after=after, folder=str(tmp_path))
    (tmp_path / "parent.py").write_text(script)
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        log = Path(parent.stdout.readline().decode().strip())
        found = processes_of(log.read_text())
        assert len(found) == 3
        if number is not None:
            parent.send_signal(number)
        parent.wait(30)
        assert gone(found)


def test_an_interrupted_start_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is waited for."""
    started: list[Any] = []
    plain = launching.Launched.__init__

    def remember(self: Any, *words: Any, **more: Any) -> None:
        plain(self, *words, **more)
        started.append(self)

    monkeypatch.setattr(launching.Launched, "__init__", remember)

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_quantgate.backends.server.wait_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(spec(folder, "children"))
    (launched,) = started
    assert gone([launched._keeper.pid, *processes_of(launched.log.read_text())], 0.2)
