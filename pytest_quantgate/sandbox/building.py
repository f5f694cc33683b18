"""What the zygote does: it fills its memory, builds the box around itself, and forks the keepers.

zygote          waits until the parent is gone, then ends everything
└── first       number 1 of the process namespace: it behind all walls; collects the dead
    └── keeper  one for each worker; forks pairs
        ├── guest   runs a program   (+ the floor)
        └── judge   runs its check   (+ the floor)
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pytest_quantgate.sandbox import guest, kernel, landlock, seccomp, walls
from pytest_quantgate.sandbox.cgroups import Groups
from pytest_quantgate.sandbox.keeper import Keeper
from pytest_quantgate.sandbox.library import Library, preload
from pytest_quantgate.sandbox.programs import Limits
from pytest_quantgate.sandbox.rehearsal import rehearse

__all__ = ["UNSANDBOXED", "build"]

UNSANDBOXED = "UNSANDBOXED"

_PROCESSES_PER_WORKER = 64


def build(setting: dict[str, Any]) -> NoReturn:
    """Build a box as `setting` says and serve the parent until it is gone.

    Args:
        setting: limits, layers and unsafe as `Box` takes them; `status`, the descriptor on which facts or an error are
            reported and whose end means that the parent is gone; `controls`, one descriptor for each keeper.

    """
    status = socket.socket(fileno=setting["status"])
    groups = Groups()
    try:
        preload()
        library = Library(os.path.dirname(os.__file__))  # noqa: PTH120  pathlib is slow to import
        floor, missing = _floor()
        if missing and not setting["unsafe"]:
            raise OSError(errno.ENOSYS, missing)  # noqa: TRY301
        walled = setting["layers"] == "all" and not missing
        got = [walls.namespaces()] if walled else []
        if walled:
            workers = len(setting["controls"])
            groups.make(setting["memory"], workers * _PROCESSES_PER_WORKER)
        first = os.fork()
        if first == 0:
            inside = _Inside(
                setting, status, library, floor, [UNSANDBOXED] if missing else ["seccomp", *got], groups
            )
            inside.live()
    except BaseException as error:  # noqa: BLE001  the parent says it
        status.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    _wait(status, first, groups, setting["controls"])


def _wait(status: socket.socket, first: int, groups: Groups, controls: list[int]) -> NoReturn:
    walls.adopt_orphans()
    for control in controls:
        os.close(control)
    with contextlib.suppress(OSError):
        status.recv(1)
    with contextlib.suppress(OSError):
        os.kill(first, signal.SIGKILL)
    walls.end_children()
    groups.remove()
    os._exit(0)


def _floor() -> tuple[Callable[[], None], str]:
    """Return what puts a process under the floor, and what is missing for it."""
    if not kernel.LINUX:
        return _nothing, f"{sys.platform} has no seccomp"
    try:
        floor = seccomp.Filter(seccomp.program(kernel.MACHINE)).install
    except OSError as error:
        return _nothing, str(error.strerror)
    if not walls.works(lambda: _hold(floor)):
        return _nothing, "the kernel, or something around this process, forbids seccomp filters"
    return floor, ""


def _nothing() -> None:
    """Stand where the floor cannot be built."""


def _hold(floor: Callable[[], None]) -> None:
    floor()
    with contextlib.suppress(FileNotFoundError):
        os.stat("/")  # noqa: PTH116
        raise AssertionError("the floor lets a path through")


@dataclass(frozen=True, slots=True)
class _Inside:
    """The first process inside.

    Attributes:
        setting: as `build` takes it.
        status: where facts are reported.
        library: the standard library in memory.
        floor: what puts a process under the floor.
        got: what the box stands on so far; `[UNSANDBOXED]` without a floor.
        groups: the control groups to enter.

    """

    setting: dict[str, Any]
    status: socket.socket
    library: Library
    floor: Callable[[], None]
    got: list[str]
    groups: Groups

    def live(self) -> NoReturn:
        """Put up the walls, fork the keepers, bury the dead."""
        try:
            got = self._walled()
            self._fork()
            facts = {
                "sandbox": "+".join(filter(None, got)),
                "python": ".".join(map(str, sys.version_info[:2])),
            }
            self.status.sendall(json.dumps(facts).encode())
            os.closerange(3, 256)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
        except BaseException as error:  # noqa: BLE001  the parent says it
            with contextlib.suppress(OSError):
                self.status.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(0)

    @property
    def _sandboxed(self) -> bool:
        return self.got != [UNSANDBOXED]

    def _walled(self) -> list[str]:
        """Put up what is built from inside, in the order in which each step still may be done."""
        got = list(self.got)
        if self._sandboxed and self.setting["layers"] == "all":
            got.append(self.groups.enter())
            walls.offer_to_oom_killer()
            if got[1] and walls.works(walls.empty_root):
                walls.empty_root()
                got.append("empty root")
            got.append(walls.drop_rights())
        if self._sandboxed:
            walls.harden()
        if self._sandboxed and self.setting["layers"] == "all":
            version = landlock.restrict()
            got.append(f"landlock ABI {version}" if version else "")
        walls.limit(Limits(**self.setting["limits"]))
        walls.die_with_parent()
        return got

    def _fork(self) -> None:
        self.library.move_in()
        guest.silence()
        rehearse()
        gc.collect()
        gc.freeze()
        gc.disable()
        for control in self.setting["controls"]:
            if os.fork() == 0:
                self._keep(control)

    def _keep(self, control: int) -> NoReturn:
        try:
            self.status.close()
            for other in self.setting["controls"]:
                if other != control:
                    os.close(other)
            walls.die_with_parent()
            if not self._sandboxed:
                walls.adopt_orphans()
            Keeper(socket.socket(fileno=control), self.floor, sweep=not self._sandboxed).serve()
        finally:
            os._exit(1)
