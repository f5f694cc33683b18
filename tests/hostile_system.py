"""Programs that start, stop or change processes, and programs that reach for the network."""

from __future__ import annotations

from typing import Any

from hostile_shape import WORKED, Hostile, gated, program


def _process(name: str, attack: str, **more: Any) -> Hostile:
    return Hostile(name, "processes", gated(attack), WORKED, **{"trace": "process", **more})


def _parent(name: str, attack: str, **more: Any) -> Hostile:
    return Hostile(name, "processes", gated(PARENTS + attack), WORKED, **{"trace": "parent", **more})


def _network(name: str, attack: str, **more: Any) -> Hostile:
    return Hostile(name, "network", gated(attack), WORKED, **{"trace": "connection", **more})


def _lines(text: str) -> str:
    return "def attack():\n" + "".join(f"    {line}\n" for line in text.strip().splitlines())


CALLS = """
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

def done(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value

"""

# never the first process of the machine: an attack must not hurt more than the run that it attacks
PARENTS = (
    CALLS
    + """
import resource
import signal

def each(act):
    worked = 0
    for process in {os.getppid(), {pid}} - {0, 1}:
        try:
            act(process)
            worked += 1
        except OSError:
            pass
    assert worked, "no process was hit"

"""
)

STARTING = tuple(
    _process(name, _lines(attack), **more)
    for name, attack, more in (
        (
            "os_system",
            "import os\nassert os.system('sleep 8; : {mark} &') is None or 1\nassert os.system(': {mark}') == 0",
            {"bare": "never"},
        ),
        (
            "os_system_daemon",
            "import os\nassert os.system('(sleep 20; : {mark}) >/dev/null 2>&1 &') == 0",
            {},
        ),
        ("os_popen", "import os\nassert os.popen('echo {mark}').read()", {}),
        ("subprocess_run", "import subprocess\nsubprocess.run(['true', '{mark}'], check=True)", {}),
        (
            "subprocess_popen_stays",
            "import subprocess\nsubprocess.Popen(['sleep', '20', '0', '0'], env={'M': '{mark}', 'PATH': '/bin:/usr/bin'})",
            {},
        ),
        ("posix_spawn", "import os\nos.posix_spawn('/bin/sleep', ['{mark}', '20'], {})", {}),
        (
            "execv",
            "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo passed; exit 0 # {mark}'])",
            {"bare": "harmless"},
        ),
        (
            "execv_then_stays",
            "import os, sys\nos.execv('/bin/sh', ['sh', '-c', 'sleep 20; : {mark}'])",
            {},
        ),
        ("fork", "import os\nif os.fork() == 0:\n    os._exit(0)", {}),
        (
            "fork_that_stays",
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(20)\n    os._exit(0)",
            {},
        ),
        (
            "fork_both_answer",
            "import os\nassert os.fork() >= 0",
            {},
        ),
        (
            "daemon_writes_later",
            """import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1)
        open('{canary}/daemon', 'w').write('x')
        time.sleep(10)
    os._exit(0)""",
            {"trace": "file"},
        ),
        (
            "fork_bomb",
            """import os, time
for _ in range(40):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)""",
            {},
        ),
        (
            "fork_bomb_branching",
            """import os, time
first = os.getpid()
for _ in range(5):
    os.fork()
if os.getpid() != first:
    time.sleep(20)
    os._exit(0)""",
            {},
        ),
        ("forkpty", "import os\nif os.forkpty()[0] == 0:\n    os._exit(0)", {}),
        (
            "fork_exec_of_subprocess",
            "import subprocess\nsubprocess.Popen(['sleep', '20', '{mark}'], shell=False, start_new_session=True)",
            {},
        ),
        (
            "multiprocessing",
            "import multiprocessing\nmade = multiprocessing.get_context('fork').Process(target=int)\nmade.start()\nmade.join()",
            {},
        ),
        (
            "process_pool",
            "from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(1) as pool:\n    assert pool.submit(pow, 2, 2).result(1) == 4",
            {},
        ),
        (
            "thread_writes_later",
            """import threading, time
def later():
    time.sleep(1)
    open('{canary}/thread', 'w').write('x')
    time.sleep(5)
threading.Thread(target=later).start()
time.sleep(1.2)""",
            {"trace": "file"},
        ),
        (
            "threads_by_the_hundred",
            """import threading, time
for _ in range(200):
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()""",
            {},
        ),
        (
            "libc_fork",
            CALLS + "if done(libc.fork()) == 0:\n    libc.sleep(20)\n    libc._exit(0)",
            {},
        ),
        ("libc_vfork", CALLS + "if done(libc.syscall(57)) == 0:\n    libc._exit(0)", {}),
        (
            "libc_clone",
            CALLS + "if done(libc.syscall(56, 17, 0, 0, 0, 0)) == 0:\n    libc.sleep(20)\n    libc._exit(0)",
            {},
        ),
        (
            "libc_clone3",
            CALLS
            + "asked = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)\nif done(libc.syscall(435, asked, 88)) == 0:\n    libc._exit(0)",
            {},
        ),
        (
            "clone_into_new_namespaces",
            CALLS + "if done(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)) == 0:\n    libc._exit(0)",
            {},
        ),
        ("unshare_user", CALLS + "done(libc.unshare(0x10000000))", {}),
        ("unshare_network", CALLS + "done(libc.unshare(0x10000000 | 0x40000000))", {}),
        ("setns", CALLS + "done(libc.setns(os.pidfd_open({pid}), 0x40000000))", {"bare": "harmless"}),
        ("libc_system", CALLS + "assert libc.system(b': {mark}') == 0", {}),
        ("library_constructor", "import ctypes.util\nassert ctypes.util.find_library('c')", {}),
        (
            "webbrowser",
            "import webbrowser\nwebbrowser.register('x', None, webbrowser.BackgroundBrowser(['sleep', '20', '{mark}']))\nassert webbrowser.get('x').open('{mark}')",
            {},
        ),
    )
)

ATTACKING = tuple(
    _parent(name, _lines(attack), **more)
    for name, attack, more in (
        ("kill_parent", "each(lambda process: os.kill(process, signal.SIGTERM))", {}),
        ("kill_parent_hard", "each(lambda process: os.kill(process, signal.SIGKILL))", {}),
        ("kill_parent_hangup", "each(lambda process: os.kill(process, signal.SIGHUP))", {}),
        ("stop_parent", "each(lambda process: os.kill(process, signal.SIGSTOP))", {}),
        ("kill_probe", "each(lambda process: os.kill(process, 0))", {}),
        ("kill_group_of_parent", "each(lambda process: os.killpg(os.getpgid(process), signal.SIGTERM))", {}),
        ("kill_own_group", "os.kill(0, signal.SIGTERM)\nos.killpg(0, signal.SIGHUP)", {"bare": "never"}),
        ("kill_everybody_probe", "os.kill(-1, 0)", {}),
        (
            "pidfd_send_signal",
            "each(lambda process: signal.pidfd_send_signal(os.pidfd_open(process), signal.SIGUSR1))",
            {},
        ),
        (
            "sigqueue_parent",
            "each(lambda process: done(libc.syscall(129, process, 10, (ctypes.c_int32 * 32)(10, 0, -1))))",
            {},
        ),
        ("tgkill_parent", "each(lambda process: done(libc.syscall(234, process, process, 12)))", {}),
        ("tkill_parent", "each(lambda process: done(libc.syscall(200, process, 12)))", {}),
        (
            "prlimit_parent",
            """def act(process):
    soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (soft - 1, hard))
each(act)""",
            {},
        ),
        (
            "prlimit_reads_parent",
            "each(lambda process: resource.prlimit(process, resource.RLIMIT_CORE))",
            {},
        ),
        ("ptrace_parent", "each(lambda process: done(libc.ptrace(16, process, 0, 0)))", {}),
        ("ptrace_seize_parent", "each(lambda process: done(libc.ptrace(0x4206, process, 0, 0)))", {}),
        ("ptrace_me", "done(libc.ptrace(0, 0, 0, 0))", {}),
        ("nice_parent", "each(lambda process: os.setpriority(os.PRIO_PROCESS, process, 19))", {}),
        (
            "affinity_parent",
            "each(lambda process: os.sched_setaffinity(process, [min(os.sched_getaffinity(process))]))",
            {},
        ),
        (
            "scheduler_parent",
            "each(lambda process: os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0)))",
            {},
        ),
        ("ioprio_parent", "each(lambda process: done(libc.syscall(251, 1, process, (3 << 13) | 7)))", {}),
        (
            "setown_parent",
            """import fcntl
hit = 0
for descriptor in range(256):
    for process in {os.getppid(), {pid}} - {0, 1}:
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETOWN, process)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
            hit += 1
        except OSError:
            pass
assert hit""",
            {},
        ),
        (
            "setsig_parent",
            """import fcntl
hit = 0
for descriptor in range(256):
    for process in {os.getppid(), {pid}} - {0, 1}:
        try:
            owner = (ctypes.c_int * 2)(1, process)
            fcntl.fcntl(descriptor, 15, bytes(owner))
            fcntl.fcntl(descriptor, 10, 12)
            hit += 1
        except OSError:
            pass
assert hit""",
            {},
        ),
        (
            "oom_score_of_parent",
            "each(lambda process: open('/proc/%d/oom_score_adj' % process, 'w').write('900'))",
            {},
        ),
        (
            "memory_of_parent_written",
            "each(lambda process: open('/proc/%d/mem' % process, 'r+b').close())",
            {},
        ),
        ("session_of_parent", "each(lambda process: os.setpgid(process, process))", {"bare": "harmless"}),
        (
            "core_pattern",
            "open('/proc/sys/kernel/core_pattern', 'r+').close()",
            {"bare": "harmless"},
        ),
        ("setuid_root", "os.setresuid(1, 2, 3)", {"bare": "harmless"}),
        ("host_name", "import socket\nsocket.sethostname(socket.gethostname())", {"bare": "harmless"}),
        ("own_cpu_limit_raised", "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))", {"bare": "harmless"}),
        (
            "dumpable_again",
            "done(libc.prctl(4, 1, 0, 0, 0))\nassert open('/proc/self/environ').read() is not None",
            {},
        ),
        ("subreaper", "done(libc.prctl(36, 1, 0, 0, 0))", {}),
        (
            "terminal_input",
            "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSTI, b'x')",
            {"bare": "harmless"},
        ),
        (
            "terminal_window",
            "import fcntl, termios\nfcntl.ioctl(0, termios.FIONREAD, bytes(4))",
            {"bare": "harmless"},
        ),
    )
)

SHARED = tuple(
    Hostile(name, "processes", gated(CALLS + _lines(attack)), WORKED, "ipc", bare=bare)  # type: ignore[arg-type]
    for name, attack, bare in (
        ("shared_memory_sysv", "done(libc.shmget({key}, 4096, 0o1600))", "bites"),
        ("semaphore_sysv", "done(libc.semget({key}, 1, 0o1600))", "bites"),
        ("message_queue_sysv", "done(libc.msgget({key}, 0o1600))", "bites"),
        (
            "shared_memory_posix",
            "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('{mark}', True, 64)",
            "bites",
        ),
        ("message_queue_posix", "done(libc.syscall(240, b'{mark}', 0o102, 0o600, None))", "bites"),
        ("keyring", "done(libc.syscall(248, b'user', b'{mark}', b'x', 1, -2))", "bites"),
        ("perf_event", "done(libc.syscall(298, (ctypes.c_uint32 * 32)(1, 112), 0, -1, -1, 0))", "harmless"),
        ("bpf", "done(libc.syscall(321, 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128))", "harmless"),
        ("userfaultfd", "done(libc.syscall(323, 1))", "harmless"),
        ("kcmp", "done(libc.syscall(312, os.getpid(), {pid}, 1, 0, 0))", "bites"),
        ("fanotify", "done(libc.fanotify_init(0x200, 0))", "harmless"),
        ("landlock_loosened", "done(libc.syscall(444, None, 0, 1))", "harmless"),
        ("seccomp_listener", "done(libc.syscall(317, 1, 8, (ctypes.c_uint64 * 2)(1, 0)))", "harmless"),
    )
)

PACKETS = tuple(
    _network(name, _lines(attack), **more)
    for name, attack, more in (
        (
            "tcp",
            "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).sendall(b'{mark}')",
            {},
        ),
        ("tcp_raw_module", "import _socket\n_socket.socket(2, 1, 0).connect(('127.0.0.1', {port}))", {}),
        (
            "tcp_fast_open",
            "import socket\nsocket.socket().sendto(b'{mark}', 0x20000000, ('127.0.0.1', {port}))",
            {},
        ),
        ("multipath_tcp", "import socket\nsocket.socket(2, 1, 262).connect(('127.0.0.1', {port}))", {}),
        (
            "http",
            "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/{mark}', timeout=1)",
            {},
        ),
        ("udp", "import socket\nsocket.socket(2, 2).sendto(b'{mark}', ('127.0.0.1', {udp}))", {}),
        (
            "udp_connected",
            "import socket\ns = socket.socket(2, 2)\ns.connect(('127.0.0.1', {udp}))\ns.send(b'{mark}')",
            {},
        ),
        (
            "udp_outside",
            "import socket\nsocket.socket(2, 2).connect(('192.0.2.1', 53))",
            {"bare": "harmless"},
        ),
        ("udp_lite", "import socket\nsocket.socket(2, 2, 136).bind(('127.0.0.1', 0))", {"bare": "harmless"}),
        ("unix_path", "import socket\ns = socket.socket(1)\ns.connect('{unix}')\ns.sendall(b'{mark}')", {}),
        ("unix_datagram", "import socket\nsocket.socket(1, 2).bind('{canary}/socket')", {"trace": "file"}),
        (
            "unix_abstract",
            "import socket\ns = socket.socket(1)\ns.connect('\\0{abstract}')\ns.sendall(b'{mark}')",
            {},
        ),
        ("listens", "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()", {}),
        ("listens_http", "import http.server\nhttp.server.HTTPServer(('127.0.0.1', 0), None)", {}),
        ("netlink", "import socket\nsocket.socket(16, 3, 0).bind((0, 0))", {}),
        ("interfaces", "import socket\nassert socket.if_nameindex()", {}),
        (
            "raw_icmp",
            "import socket\nsocket.socket(2, 3, 1).sendto(bytes(64), ('127.0.0.1', 0))",
            {"bare": "harmless"},
        ),
        ("ping", "import socket\nsocket.socket(2, 2, 1).connect(('127.0.0.1', 0))", {"bare": "harmless"}),
        ("packet", "import socket\nsocket.socket(17, 3, 0)", {"bare": "harmless"}),
        ("vsock", "import socket\nsocket.socket(40, 1).bind((0xFFFFFFFF, 0xFFFFFFFF))", {"bare": "harmless"}),
        ("alg", "import socket\nsocket.socket(38, 5).bind(('hash', 'sha256'))", {"bare": "harmless"}),
        ("sctp", "import socket\nsocket.socket(2, 1, 132)", {"bare": "harmless"}),
        (
            "bluetooth_and_others",
            "import socket\nfor family in (31, 29, 44, 9, 15):\n    try:\n        socket.socket(family, 3)\n        break\n    except OSError:\n        pass\nelse:\n    raise OSError",
            {"bare": "harmless"},
        ),
        ("dns", "import socket\nassert socket.getaddrinfo('localhost', 80)", {}),
        ("dns_outside", "import socket\nassert socket.gethostbyname('example.org')", {"bare": "harmless"}),
        (
            "asyncio",
            "import asyncio\nasync def reach():\n    await asyncio.open_connection('127.0.0.1', {port})\nasyncio.run(reach())",
            {},
        ),
        (
            "ssl",
            "import ssl, socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nssl.create_default_context()",
            {},
        ),
        (
            "connection_of_multiprocessing",
            "from multiprocessing.connection import Listener\nListener(family='AF_UNIX').close()",
            {},
        ),
        (
            "descriptors_by_message",
            """import array, socket
hit = 0
for descriptor in range(256):
    try:
        s = socket.socket(fileno=descriptor)
        s.setblocking(False)
        s.sendmsg([b'{mark}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))])
        hit += 1
    except (OSError, ValueError):
        pass
assert hit""",
            {"bare": "harmless"},
        ),
        ("libc_socket", CALLS + "done(libc.socket(2, 1, 0))", {}),
        ("libc_socket_x32", CALLS + "done(libc.syscall(0x40000000 | 41, 2, 1, 0))", {"bare": "harmless"}),
        ("io_uring", CALLS + "done(libc.syscall(425, 4, (ctypes.c_uint32 * 30)()))", {}),
        ("io_uring_with_a_thread", CALLS + "done(libc.syscall(425, 4, (ctypes.c_uint32 * 30)(0, 0, 2)))", {}),
        ("socketpair", "import socket\nsocket.socketpair()", {}),
    )
)

CAUGHT = tuple(
    Hostile(
        f"caught_{name}",
        kind,  # type: ignore[arg-type]
        program(f"""
        def entry(given):
            try:
                {statement}
            except BaseException:
                pass
            return given * given + 1
        """),
        WORKED,
        trace,  # type: ignore[arg-type]
        expected="no trace",
    )
    for name, kind, trace, statement in (
        (
            "system",
            "processes",
            "process",
            "__import__('os').system('(sleep 20; : {mark}) >/dev/null 2>&1 &')",
        ),
        (
            "tcp",
            "network",
            "connection",
            "__import__('socket').create_connection(('127.0.0.1', {port}), 1).sendall(b'{mark}')",
        ),
        (
            "udp",
            "network",
            "connection",
            "__import__('socket').socket(2, 2).sendto(b'{mark}', ('127.0.0.1', {udp}))",
        ),
    )
)

PROGRAMS = (*STARTING, *ATTACKING, *SHARED, *PACKETS, *CAUGHT)
