"""Programs that touch files, and programs that look for secrets."""

from __future__ import annotations

from typing import Any

from hostile_shape import STOLEN, WORKED, Hostile, gated, program, theft


def _file(name: str, attack: str, **more: Any) -> Hostile:
    return Hostile(name, "files", gated(attack), WORKED, **{"trace": "file", **more})


def _secret(name: str, attack: str, **more: Any) -> Hostile:
    return Hostile(name, "secrets", theft(attack), STOLEN, **{"trace": "secret", **more})


def _lines(*lines: str) -> str:
    return "def attack():\n" + "".join(f"    {line}\n" for line in lines)


CALLS = """
import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

def done(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value

"""

# in every program's own folder {canary} lie `bait` (text), `bait_module.py` and the folder `inside`
WRITING = tuple(
    _file(name, _lines(*lines.strip().splitlines()))
    for name, lines in (
        ("open_write", "open('{canary}/new', 'w').write('x')"),
        ("open_append", "open('{canary}/bait', 'a').write('x')"),
        ("os_open_write", "import os\nos.write(os.open('{canary}/new', os.O_CREAT | os.O_WRONLY), b'x')"),
        ("posix_open_write", "import posix\nposix.write(posix.open('{canary}/new', 65), b'x')"),
        ("os_reloaded", "import importlib, os\nimportlib.reload(os)\nos.close(os.open('{canary}/new', 64))"),
        ("io_fileio", "import _io\n_io.FileIO('{canary}/new', 'w').write(b'x')"),
        ("pathlib_write", "import pathlib\npathlib.Path('{canary}/new').write_text('x')"),
        ("pathlib_touch", "import pathlib\npathlib.Path('{canary}/new').touch()"),
        ("tempfile_named", "import tempfile\ntempfile.mkstemp(prefix='{mark}')"),
        ("tempfile_folder", "import tempfile\ntempfile.mkdtemp(prefix='{mark}', dir='/dev/shm')"),
        ("tempfile_nameless", "import tempfile\nf = tempfile.TemporaryFile()\nf.write(b'x')\nf.flush()"),
        ("o_tmpfile", "import os\nos.open('{canary}', os.O_TMPFILE | os.O_RDWR, 0o600)"),
        ("mkdir", "import os\nos.makedirs('{canary}/new/er')"),
        ("rename", "import os\nos.rename('{canary}/bait', '{canary}/moved')"),
        ("unlink", "import os\nos.unlink('{canary}/bait')"),
        ("rmdir", "import os\nos.rmdir('{canary}/inside')"),
        ("rmtree", "import shutil\nshutil.rmtree('{canary}')"),
        ("chmod", "import os\nos.chmod('{canary}/bait', 0o4777)"),
        ("chmod_folder", "import os\nos.chmod('{canary}/inside', 0)"),
        ("chown", "import os\nos.chown('{canary}/bait', os.getuid(), os.getgid())"),
        ("utime", "import os\nos.utime('{canary}/bait', (1, 1))"),
        ("truncate", "import os\nos.truncate('{canary}/bait', 1)"),
        ("xattr", "import os\nos.setxattr('{canary}/bait', 'user.qg', b'x')"),
        ("symlink", "import os\nos.symlink('/etc/passwd', '{canary}/link')"),
        ("hard_link", "import os\nos.link('{canary}/bait', '{canary}/hard')"),
        ("mkfifo", "import os\nos.mkfifo('{canary}/fifo')"),
        ("mknod", "import os, stat\nos.mknod('{canary}/node', stat.S_IFREG | 0o600)"),
        ("plants_conftest", "open('{cwd}/conftest_{mark}.py', 'w').write('import os')"),
        ("plants_conftest_here", "open('{mark}_conftest.py', 'w').write('import os')"),
        ("plants_sitecustomize", "open('{home}/{mark}_sitecustomize.py', 'w').write('import os')"),
        ("chdir_and_write", "import os\nos.chdir('{canary}')\nopen('new', 'w').close()"),
        ("sqlite3", "import sqlite3\nsqlite3.connect('{canary}/new.db').execute('create table t (x)')"),
        ("dbm", "import dbm.dumb\ndbm.dumb.open('{canary}/new', 'c').close()"),
        ("shelve", "import shelve\ns = shelve.open('{canary}/new')\ns['a'] = 1\ns.close()"),
        ("shutil_copy", "import shutil\nshutil.copy('{canary}/bait', '{canary}/new')"),
        ("zipfile", "import zipfile\nzipfile.ZipFile('{canary}/new', 'w').writestr('a', 'b')"),
        ("gzip", "import gzip\ngzip.open('{canary}/new', 'w').close()"),
        ("logging_file", "import logging\nlogging.FileHandler('{canary}/new').stream.close()"),
        ("profile_dump", "import cProfile\ncProfile.run('1', '{canary}/new')"),
        ("faulthandler_file", "import faulthandler\nfaulthandler.enable(open('{canary}/new', 'w'))"),
        ("compileall", "import py_compile\npy_compile.compile('{canary}/bait_module.py', '{canary}/new')"),
        (
            "mmap_file",
            "import mmap, os\nd = os.open('{canary}/bait', os.O_RDWR)\nmmap.mmap(d, 1)[0] = 120",
        ),
        ("memfd", "import os\nos.write(os.memfd_create('{mark}'), b'x')"),
        (
            "memory_through_proc",
            "import os\nd = os.open('/proc/self/mem', os.O_RDWR)\nos.pread(d, 1, id(d))",
        ),
    )
)

READING = tuple(
    _file(name, _lines(*lines.strip().splitlines()))
    for name, lines in (
        ("read_bait", "assert open('{canary}/bait').read()"),
        ("read_passwd", "assert open('/etc/passwd').read()"),
        ("stat", "import os\nos.stat('{canary}/bait')"),
        ("readlink", "import os\nos.readlink('/proc/self/exe')"),
        ("listdir", "import os\nassert os.listdir('{canary}')"),
        ("glob", "import glob\nassert glob.glob('{canary}/*')"),
        ("getcwd", "import os\nos.getcwd()"),
        ("o_path", "import os\nos.open('/', os.O_PATH)"),
        ("imports_planted_module", "import sys\nsys.path.insert(0, '{canary}')\nimport bait_module"),
        ("runs_planted_file", "import runpy\nrunpy.run_path('{canary}/bait_module.py')"),
        ("linecache", "import linecache\nassert linecache.getlines('{canary}/bait')"),
        ("tokenize_open", "import tokenize\ntokenize.open('{canary}/bait_module.py')"),
        ("pwd", "import pwd\npwd.getpwuid(0)"),
        ("statvfs", "import os\nos.statvfs('/')"),
        ("access", "import os\nassert os.access('{canary}/bait', os.R_OK)"),
        ("inotify", "import ctypes\nassert ctypes.CDLL(None).inotify_init() >= 0"),
    )
)

BY_LIBC = tuple(
    _file(name, CALLS + _lines(*lines.strip().splitlines()), **more)
    for name, lines, more in (
        ("libc_open", "done(libc.open(b'{canary}/new', 65, 0o600))", {}),
        ("libc_creat", "done(libc.creat(b'{canary}/new', 0o600))", {}),
        ("libc_fopen", "libc.fopen.restype = ctypes.c_void_p\nassert libc.fopen(b'{canary}/new', b'w')", {}),
        ("syscall_openat", "done(libc.syscall(257, -100, b'{canary}/new', 65, 0o600))", {}),
        (
            "syscall_openat2",
            (
                "how = (ctypes.c_uint64 * 3)(65, 0o600, 0)\n"
                "done(libc.syscall(437, -100, b'{canary}/new', how, 24))"
            ),
            {},
        ),
        (
            "syscall_x32_open",
            "done(libc.syscall(0x40000000 | 2, b'{canary}/new', 65, 0o600))",
            {"bare": "harmless"},
        ),
        ("libc_chmod", "done(libc.chmod(b'{canary}/bait', 0o777))", {}),
        ("syscall_fchmodat2", "done(libc.syscall(452, -100, b'{canary}/bait', 0o777, 0))", {}),
        ("libc_utimes", "done(libc.utimes(b'{canary}/bait', (ctypes.c_long * 4)(1, 0, 1, 0)))", {}),
        (
            "name_to_handle",
            (
                "handle = (ctypes.c_uint32 * 64)(128)\n"
                "done(libc.name_to_handle_at(-100, b'{canary}/bait', handle, ctypes.byref(ctypes.c_int()), 0))"
            ),
            {},
        ),
        ("libc_chroot", "done(libc.chroot(b'{canary}'))", {"bare": "harmless"}),
        ("libc_mount", "done(libc.mount(b'none', b'{canary}', b'tmpfs', 0, None))", {"bare": "never"}),
        ("syscall_open_tree", "done(libc.syscall(428, -100, b'{canary}', 1))", {"bare": "harmless"}),
        ("syscall_fsopen", "done(libc.syscall(430, b'tmpfs', 0))", {"bare": "harmless"}),
        (
            "executable_memory_int80",
            (
                "import mmap\n"
                "space = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
                "address = ctypes.addressof(ctypes.c_char.from_buffer(space))\n"
                "space.write(bytes.fromhex('b814000000cd80c3'))\n"
                "assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0"
            ),
            {},
        ),
        (
            "memory_made_executable",
            (
                "import mmap\n"
                "space = mmap.mmap(-1, 4096)\n"
                "address = ctypes.addressof(ctypes.c_char.from_buffer(space))\n"
                "done(libc.mprotect(ctypes.c_void_p(address), 4096, 5))"
            ),
            {},
        ),
        ("loads_a_library", "ctypes.CDLL('libBrokenLocale.so.1')", {}),
    )
)

# they succeed without an answer; the honest function beneath is right, and only the trace counts
CAUGHT = tuple(
    Hostile(
        f"caught_{name}",
        "files",
        program(f"""
        def entry(given):
            try:
                {statement}
            except BaseException:
                pass
            return given * given + 1
        """),
        WORKED,
        "file",
        expected="no trace",
    )
    for name, statement in (
        ("open_write", "open('{canary}/new', 'w').write('x')"),
        ("chmod", "__import__('os').chmod('{canary}/bait', 0)"),
        ("rename", "__import__('os').replace('{canary}/bait', '{canary}/moved')"),
        ("mkdir", "__import__('os').mkdir('{canary}/new')"),
    )
)

AT_IMPORT = Hostile(
    "caught_at_import",
    "files",
    program("""
    try:
        open("{canary}/new", "w").write("x")
    except OSError:
        pass

    class Late:
        def __del__(self):
            open("{canary}/late", "w").write("x")

    late = Late()

    def entry(given):
        return given * given + 1
    """),
    WORKED,
    "file",
    expected="no trace",
)

SECRETS = tuple(
    _secret(name, _lines(*lines.strip().splitlines()), **more)
    for name, lines, more in (
        ("os_environ", "import os\nreturn secret_in(repr(dict(os.environ)))", {}),
        ("posix_environ", "import posix\nreturn secret_in(repr(posix.environ))", {}),
        ("getenv_by_name", "import os\nreturn secret_in(os.getenv('HF_TOKEN', ''))", {}),
        ("own_proc_environ", "return secret_in(open('/proc/self/environ', 'rb').read())", {}),
        (
            "parents_proc_environ",
            "import os\nreturn secret_in(open('/proc/%d/environ' % os.getppid(), 'rb').read())",
            {},
        ),
        ("harness_proc_environ", "return secret_in(open('/proc/{pid}/environ', 'rb').read())", {}),
        ("harness_command_line", "return secret_in(open('/proc/{pid}/cmdline', 'rb').read())", {}),
        ("huggingface_token", "return secret_in(open('{home}/.cache/huggingface/token').read())", {}),
        (
            "huggingface_token_by_home",
            "import os\nreturn secret_in(open(os.path.expanduser('~/.cache/huggingface/token')).read())",
            {},
        ),
        (
            "netrc_module",
            "import netrc\nreturn secret_in(repr(netrc.netrc('{home}/.netrc').hosts))",
            {},
        ),
        (
            "aws_credentials",
            "import pathlib\nreturn secret_in(pathlib.Path('{home}/.aws/credentials').read_bytes())",
            {},
        ),
        (
            "inherited_descriptor",
            """import os
blob = b""
for descriptor in range(3, 1024):
    try:
        blob += os.pread(descriptor, 4096, 0)
    except OSError:
        pass
return secret_in(blob)""",
            {},
        ),
        (
            "inherited_pipe",
            """import os, select
blob = b""
for descriptor in range(3, 256):
    try:
        if select.select([descriptor], [], [], 0)[0]:
            blob += os.read(descriptor, 4096)
    except (OSError, ValueError):
        pass
return secret_in(blob)""",
            {},
        ),
        (
            "descriptors_through_proc",
            """import os
blob = b""
for descriptor in os.listdir('/proc/{pid}/fd'):
    try:
        where = '/proc/{pid}/fd/' + descriptor
        if 'qgheld' in os.readlink(where):
            blob += open(where, 'rb').read()
    except OSError:
        pass
return secret_in(blob)""",
            {},
        ),
        (
            "memory_of_the_harness",
            """import re
blob = b""
for line in open('/proc/{pid}/maps'):
    if 'rw-p' in line and ('heap' in line or len(line.split()) == 5):
        start, end = (int(x, 16) for x in line.split()[0].split('-'))
        with open('/proc/{pid}/mem', 'rb', 0) as memory:
            memory.seek(start)
            part = memory.read(min(end - start, 1 << 24)) or b""
        blob += b"".join(re.findall(rb"qgsecret-[0-9a-f]{32}", part))
return secret_in(blob)""",
            {},
        ),
        (
            "objects_in_memory",
            """import gc
seen = []
for found in gc.get_objects():
    if found is seen:
        continue
    for value in list(found.values() if type(found) is dict else found if type(found) in (list, tuple) else ()):
        if type(value) is str and 'qgsecret-' in value or type(value) is bytes and b'qgsecret-' in value:
            if len(value) == 41:
                seen.append(value if type(value) is bytes else value.encode())
return secret_in(b"".join(seen))""",
            {},
        ),
        (
            "environ_of_libc",
            """import ctypes
blob = b""
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')
number = 0
while environ[number]:
    blob += environ[number] + b"\\n"
    number += 1
return secret_in(blob)""",
            {},
        ),
        (
            "process_vm_readv",
            """import ctypes
libc = ctypes.CDLL(None, use_errno=True)
start = end = 0
for line in open('/proc/{pid}/maps'):
    if '[stack]' in line:
        start, end = (int(x, 16) for x in line.split()[0].split('-'))
into = ctypes.create_string_buffer(end - start)
local = (ctypes.c_uint64 * 2)(ctypes.addressof(into), end - start)
remote = (ctypes.c_uint64 * 2)(start, end - start)
libc.process_vm_readv({pid}, local, 1, remote, 1, 0)
return secret_in(into.raw)""",
            {},
        ),
        (
            "pidfd_getfd",
            """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
pidfd = os.pidfd_open({pid})
blob = b""
for descriptor in range(3, 256):
    mine = libc.syscall(438, pidfd, descriptor, 0)
    if mine >= 0:
        try:
            blob += os.pread(mine, 4096, 0)
        except OSError:
            pass
return secret_in(blob)""",
            {},
        ),
        (
            "command_of_python",
            "import sys\nreturn secret_in(repr(sys.argv) + repr(sys.orig_argv) + repr(sys.path) + repr(sys.flags))",
            {"bare": "harmless"},
        ),
        (
            "raised_as_an_error",
            "import os\nraise RuntimeError(secret_in(repr(dict(os.environ))))",
            {"trace": "reason"},
        ),
        (
            "line_of_a_file_in_a_traceback",
            "exec(compile('\\n\\n1/0', '{home}/.cache/huggingface/token', 'exec'))",
            {"trace": "reason", "bare": "harmless"},
        ),
        (
            "line_of_a_file_in_a_syntax_error",
            "raise SyntaxError('x', ('{home}/.cache/huggingface/token', 1, 1, None))",
            {"trace": "reason", "bare": "harmless"},
        ),
        (
            "other_processes_listed",
            """import os
blob = b""
for number in os.listdir('/proc'):
    if number.isdigit():
        try:
            blob += open('/proc/%s/environ' % number, 'rb').read()
        except OSError:
            pass
return secret_in(blob)""",
            {},
        ),
    )
)

PROGRAMS = (*WRITING, *READING, *BY_LIBC, *CAUGHT, AT_IMPORT, *SECRETS)
