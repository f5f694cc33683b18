"""The floor: a filter on system calls that lets a Python without files, children and network do its work.

An allow-list. No call that takes a path is on it, none that makes a process or a thread, a socket or a timer, that
signals, traces or limits another process, or that makes memory executable. So whatever machine code a program gets
to run, what it can reach are the descriptors that it was given and its own memory.

    another architecture, x32    the process is killed: its call numbers mean something else
    a path                       ENOENT, as on a disk without that file
    clone3                       ENOSYS: its arguments lie in memory, where no filter can look; callers know that answer
    everything else              EPERM

Numbers: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import sys

from pytest_quantgate.sandbox import kernel

__all__ = ["ARCHITECTURES", "NO_NEW_PRIVS", "Filter", "install", "program"]

# name: (x86-64, aarch64); None where an architecture has no such call
_ALLOWED: dict[str, tuple[int | None, int]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "close": (3, 57), "close_range": (436, 436), "lseek": (8, 62), "fstat": (5, 80),
    "dup": (32, 23), "dup3": (292, 24),
    "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "times": (100, 153), "getrusage": (98, 165), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "uname": (63, 160),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "ppoll": (271, 73), "pselect6": (270, 72), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_ALLOWED_OLD = {"time": 201, "poll": 7, "select": 23, "dup2": 33}
_PATHS: dict[str, tuple[int | None, int]] = {
    "openat": (257, 56), "openat2": (437, 437), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlinkat": (267, 78), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "mkdirat": (258, 34), "unlinkat": (263, 35), "renameat": (264, 38),
    "renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "fchownat": (260, 54), "utimensat": (280, 88), "truncate": (76, 45), "mknodat": (259, 33),
    "execve": (59, 221), "execveat": (322, 281), "chroot": (161, 51), "getxattr": (191, 8), "lgetxattr": (192, 9),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "listxattr": (194, 11), "llistxattr": (195, 12),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "inotify_add_watch": (254, 27),
}  # fmt: skip
_PATHS_OLD = {
    "open": 2, "stat": 4, "lstat": 6, "access": 21, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86,
    "unlink": 87, "symlink": 88, "readlink": 89, "chmod": 90, "chown": 92, "lchown": 94, "utime": 132, "mknod": 133,
    "utimes": 235, "futimesat": 261,
}  # fmt: skip
_CLONE3 = 435
_MMAP, _MPROTECT, _FCNTL = (9, 222), (10, 226), (72, 25)
_PROT_EXEC = 4
_FCNTL_COMMANDS = (0, 1, 2, 3, 1030)  # DUPFD, GETFD, SETFD, GETFL, DUPFD_CLOEXEC; SETOWN would signal others

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine: its column in the tables, and its AUDIT_ARCH constant."""

_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
NO_NEW_PRIVS = 38
"""Option of prctl(2)."""
_SET_SECCOMP, _MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]
Code = tuple[Instruction, ...]


class _Header(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Filter:
    """A filter that was written once and is installed in many processes."""

    def __init__(self, code: Code) -> None:
        self._bytes = b"".join(struct.pack("=HBBI", *one) for one in code)
        self._header = _Header(len(code), self._bytes)
        self._address = ctypes.c_void_p(ctypes.addressof(self._header))

    def install(self) -> None:
        """Put this process under the filter, for ever.

        Raises:
            OSError: the kernel has no seccomp filters, or something else forbids them.

        """
        kernel.prctl(NO_NEW_PRIVS, 1)
        kernel.prctl(_SET_SECCOMP, _MODE_FILTER, self._address)


def install(machine: str = kernel.MACHINE) -> None:
    """Put this process under the filter; see `Filter.install`."""
    Filter(program(machine)).install()


def program(machine: str) -> Code:
    """Return the filter of a machine.

    Raises:
        OSError: it is none of `ARCHITECTURES`.

    """
    if machine not in ARCHITECTURES or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    column, audit = ARCHITECTURES[machine]
    head: Code = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, audit),
        _returned(_KILL),
        (_LOAD, 0, 0, _NUMBER),
    )
    if column == 0:
        head = (*head, (_AT_LEAST, 0, 1, _X32), _returned(_KILL))
    return (*head, *_search(_intervals(_answers(column))))


def _answers(column: int) -> dict[int, Code]:
    allow, missing = (_returned(_ALLOW),), (_returned(_ERRNO | errno.ENOENT),)
    answers: dict[int, Code] = {_CLONE3: (_returned(_ERRNO | errno.ENOSYS),)}
    for table, old, answer in ((_PATHS, _PATHS_OLD, missing), (_ALLOWED, _ALLOWED_OLD, allow)):
        here = [row[column] for row in table.values()] + (list(old.values()) if column == 0 else [])
        answers |= {number: answer for number in here if number is not None}
    answers |= {_MMAP[column]: _not_executable(), _MPROTECT[column]: _not_executable()}
    return answers | {_FCNTL[column]: _harmless_fcntl()}


def _returned(value: int) -> Instruction:
    return _RETURN, 0, 0, value


def _not_executable() -> Code:
    return (
        (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
        (_ANY_BIT, 0, 1, _PROT_EXEC),
        _returned(_ERRNO | errno.EPERM),
        _returned(_ALLOW),
    )


def _harmless_fcntl() -> Code:
    last = len(_FCNTL_COMMANDS)
    tests = [(_EQUAL, last - at, 0, command) for at, command in enumerate(_FCNTL_COMMANDS)]
    load = (_LOAD, 0, 0, _ARGUMENTS + 8)
    return load, *tests, _returned(_ERRNO | errno.EPERM), _returned(_ALLOW)


def _intervals(answers: dict[int, Code]) -> list[tuple[int, Code]]:
    """Return (first number, answer) in order; each answer holds up to the next one's first number."""
    refused: Code = (_returned(_ERRNO | errno.EPERM),)
    found: list[tuple[int, Code]] = [(0, answers.get(0, refused))]
    for number in sorted({edge for one in answers for edge in (one, one + 1)}):
        answer = answers.get(number, refused)
        if answer != found[-1][1]:
            found.append((number, answer))
    return found


def _search(intervals: list[tuple[int, Code]]) -> Code:
    """Return a binary search: some seven comparisons for a call, where a list would take a hundred."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _search(intervals[:middle]), _search(intervals[middle:])
    return (_AT_LEAST, 0, len(above), intervals[middle][0]), *above, *below
