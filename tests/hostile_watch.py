"""Who looks from outside: what the hostile programs aim at, and what they did to it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from hostile_programs import HOSTILE, Hostile

HERE = Path(__file__).resolve().parent
NOBODY = 65534
SECONDS = 1.0
PATIENCE, BARE_PATIENCE = 400.0, 10.0
SCATTERED = ("/tmp", "/var/tmp", "/dev/shm", "/")
IPC = ("shm", "sem", "msg")
libc = ctypes.CDLL(None)


class Watch:
    """A canary folder for every program, a secret wherever programs look for one, listeners, and a run's mark."""

    def __init__(self, root: Path, user: int) -> None:
        self.root, self.user = root, user
        self.run = "qgrun" + secrets.token_hex(6)
        self.secret = "qgsecret-" + secrets.token_hex(16)
        self.canaries, self.home, self.cwd = (root / name for name in ("canaries", "home", "cwd"))
        self.listeners = Listeners(root / "socket", self.run + "-abstract")
        self.key = secrets.randbelow(2**31 - 2 - len(HOSTILE)) + 1  # one for each program from here on
        self._build()
        self.places = {
            **self.listeners.places,
            "home": str(self.home),
            "cwd": str(self.cwd),
            "digest": hashlib.sha256(self.secret.encode()).hexdigest(),
        }
        self.before = self.snapshot()

    def judge(self, python: str, layers: str) -> dict[str, Any]:
        """Have the programs judged in a process of its own; return what it saw, and the traces that we see."""
        self.prepare(layers)
        return {**self.saw(python), **self.seen()}

    def prepare(self, layers: str) -> None:
        """Write down how programs are to be judged."""
        setting = self.root / "setting.json"
        setting.write_text(
            json.dumps(
                {
                    "run": self.run,
                    "canaries": str(self.canaries),
                    "places": self.places,
                    "key": self.key,
                    "layers": layers,
                    "seconds": SECONDS,
                    "result": str(self.root / "results" / "result"),
                }
            )
        )
        setting.chmod(0o644)

    def saw(self, python: str, name: str = "") -> dict[str, Any]:
        """Have the programs, or the named one without a box, judged; return what that process saw."""
        setting = self.root / "setting.json"
        command = [python, "-B", str(HERE / "hostile_judge.py"), str(setting), self.secret]
        said = self._run(command + [name] * bool(name), BARE_PATIENCE if name else PATIENCE)
        written = self.root / "results" / f"result{name}"
        if not written.exists():
            return {"died": said}
        return {**json.loads(written.read_text()), "output": said}

    def seen(self) -> dict[str, list[str]]:
        """Return what programs left behind, as `trace: what and where`."""
        return {
            "files": changed(self.before, self.snapshot()),
            "scattered": self._scattered(),
            "connections": list(self.listeners.heard),
            "processes": self._marked(),
            "ipc": self._shared(),
        }

    def snapshot(self) -> dict[str, str]:
        """Return everything below the canary folder, the home and the working directory, and what it is."""
        return {
            str(path.relative_to(self.root)): described(path)
            for folder in (self.canaries, self.home, self.cwd)
            for path in [folder, *sorted(folder.rglob("*"))]
            if path.name != "qgheld"
        }

    def _build(self) -> None:
        files = {self.home / ".cache/huggingface/token": self.secret}
        files[self.home / ".netrc"] = f"machine huggingface.co login x password {self.secret}\n"
        files[self.home / ".aws/credentials"] = f"[default]\naws_secret_access_key = {self.secret}\n"
        for hostile in HOSTILE:
            folder = self.canaries / hostile.name
            files[folder / "bait"] = "bait\n"
            files[folder / "bait_module.py"] = "bait = 1\n"
            (folder / "inside").mkdir(parents=True)
        for folder in (self.cwd, self.root / "results"):
            folder.mkdir()
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in [self.root, *self.root.rglob("*")]:
            if path.is_file() and path.is_relative_to(self.home):
                path.chmod(0o600)
            if os.geteuid() == 0 and path != self.root and not path.is_socket():
                os.chown(path, self.user, self.user)

    def _run(self, command: list[str], patience: float) -> str:
        """Run a command as the user that is to be tested; return what it printed, and how it ended if badly."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HF_TOKEN": self.secret,
            "QG_SECRET": self.secret,
        }
        dropped: dict[str, Any] = {}
        if os.geteuid() != self.user:
            dropped = {"user": self.user, "group": self.user, "extra_groups": []}
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **dropped,
        )
        try:
            said = str(process.communicate(timeout=patience)[0], "utf-8", "replace")
        except subprocess.TimeoutExpired:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            said = f"hung in state {state} and was killed"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return said + (f"\nended with {process.returncode}" if process.returncode else "")

    def _scattered(self) -> list[str]:
        """Return files with this run's mark in the name, wherever temporary files go."""
        found = []
        for folder in SCATTERED:
            with contextlib.suppress(OSError):
                found += [f"{folder}/{name}" for name in os.listdir(folder) if self.run in name]  # noqa: PTH208
        return found

    def _marked(self) -> list[str]:
        """Return processes with this run's mark in the command line or the environment."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and self.run.encode() in (
                    (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                ):
                    found.append(f"{folder.name}: {(folder / 'cmdline').read_bytes()!r}")
        return found

    def _shared(self) -> list[str]:
        """Return System V objects with one of this run's keys."""
        found = []
        for kind in IPC:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
                    place = int(line.split()[0]) - self.key
                    if 0 <= place < len(HOSTILE):
                        found.append(f"{HOSTILE[place].name}: {kind} {line.split()[0]}")
        return found + [f"{one.name}: mq {name}" for one, name in self._queues()]

    def _queues(self) -> list[tuple[Hostile, str]]:
        """Return POSIX message queues with one of this run's marks; those lie in no folder."""
        found = []
        for one in HOSTILE:
            name = f"/{self.run}-{one.name}"
            if one.trace == "ipc" and (queue := libc.mq_open(name.encode(), os.O_RDONLY)) >= 0:
                os.close(queue)
                found.append((one, name))
        return found

    def close(self) -> None:
        """Remove what programs may have left."""
        self.listeners.close()
        for path in self._scattered():
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        for shared in self._shared():
            _, kind, key = shared.split()
            if kind == "mq":
                libc.mq_unlink(key.encode())
            else:
                subprocess.run(["ipcrm", {"shm": "-M", "sem": "-S", "msg": "-Q"}[kind], key], check=False)


class Listeners:
    """Listens on TCP, UDP, a path and an abstract name; notes whatever comes."""

    def __init__(self, path: Path, abstract: str) -> None:
        self.heard: list[str] = []
        self._selector = selectors.DefaultSelector()
        made: dict[str, tuple[int, int, Any]] = {
            "port": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(path)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + abstract),
        }
        self.places = {"unix": str(path), "abstract": abstract}
        for name, (family, kind, address) in made.items():
            listener = socket.socket(family, kind)
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen(64)
            if family == socket.AF_INET:
                self.places[name] = str(listener.getsockname()[1])
            self._selector.register(listener, selectors.EVENT_READ, name)
        path.chmod(0o777)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(0.05):
                with contextlib.suppress(OSError):
                    self._hear(key.fileobj, key.data)

    def _hear(self, listener: Any, name: str) -> None:
        if name == "udp":
            self.heard.append(f"{name}: {listener.recv(200)!r}")
            return
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(0.3)
            said = b""
            with contextlib.suppress(OSError):
                said = connection.recv(200)
            self.heard.append(f"{name}: {said!r}")

    def close(self) -> None:
        """Listen no more."""
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


def described(path: Path) -> str:
    """Return what one path is: kind, rights, owner, time, content, attributes."""
    try:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        attributes = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        return str(error)
    # a folder's own time changes with what is in it, which is told for itself
    when = status.st_mtime_ns if path.is_file() else 0
    return f"{status.st_mode:o} {status.st_uid} {status.st_nlink} {when} {content[:100]!r} {attributes}"


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what is new, gone or different."""
    return [
        f"{path}: {before.get(path, 'nothing')} -> {after.get(path, 'nothing')}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


@cache
def interpreter(user: int) -> str:
    """Return a Python of this version that the user can run, else ""."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        dropped: dict[str, Any] = {}
        if os.geteuid() != user:
            dropped = {"user": user, "group": user, "extra_groups": []}
        with contextlib.suppress(OSError):
            tried = [
                python,
                "-c",
                f"import os, sys; sys.path.insert(0, {str(HERE)!r}); import hostile_programs",
            ]
            if subprocess.run(tried, check=False, capture_output=True, cwd="/", **dropped).returncode == 0:
                return python
    return ""
