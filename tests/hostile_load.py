"""Programs that use up the machine, and programs whose text would harm the report."""

from __future__ import annotations

from typing import Any

from hostile_shape import ANSWERS, WORKED, Hostile, program


def _load(name: str, source: str, check: str = ANSWERS, **more: Any) -> Hostile:
    return Hostile(name, "resources", program(source), check, **{"trace": "time", "bare": "never", **more})


def _output(name: str, source: str, check: str = ANSWERS, **more: Any) -> Hostile:
    return Hostile(name, "output", program(source), check, **{"trace": "reason", "bare": "harmless", **more})


def _called(name: str, *lines: str, **more: Any) -> Hostile:
    return _load(name, "def entry(given):\n" + "".join(f"    {line}\n" for line in lines), **more)


TIME = (
    _called("endless_loop", "while True:", "    pass"),
    _load("endless_loop_at_import", "while True:\n    pass"),
    _called(
        "endless_loop_catching_all",
        "while True:",
        "    try:",
        "        while True: pass",
        "    except BaseException: pass",
    ),
    _called(
        "endless_loop_without_signals",
        "import signal",
        "for number in range(1, 65):",
        "    try: signal.signal(number, signal.SIG_IGN)",
        "    except (OSError, ValueError): pass",
        "try: signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
        "except (OSError, ValueError): pass",
        "while True: pass",
    ),
    _called("endless_sleep", "import time", "time.sleep(10_000)"),
    _called("endless_sleep_by_select", "import select", "select.select([], [], [], 10_000)"),
    _called("endless_wait_for_a_signal", "import signal", "while True: signal.pause()"),
    _called(
        "endless_lock", "import threading", "lock = threading.Lock()", "lock.acquire()", "lock.acquire()"
    ),
    _called("endless_read", "import os", "while True:", "    os.read(0, 1)"),
    _called(
        "endless_read_of_the_channel",
        "import os",
        "for descriptor in range(3, 64):",
        "    try: os.read(descriptor, 1 << 20)",
        "    except OSError: pass",
        "while True: pass",
    ),
    _called("endless_generator", "import itertools", "return sum(itertools.count())"),
    _called("endless_exit", "import atexit, time", "atexit.register(time.sleep, 10_000)", "raise SystemExit"),
    _load(
        "right_and_then_an_endless_exit",
        """
        import atexit
        import time

        atexit.register(time.sleep, 10_000)

        class Slow:
            def __del__(self):
                time.sleep(10_000)

        slow = Slow()

        def entry(given):
            return given * given + 1
        """,
        check=WORKED,
        expected="no trace",
    ),
    _called("stops_itself", "import os, signal", "os.kill(os.getpid(), signal.SIGSTOP)"),
    _called("regular_expression", "import re", "return re.match(r'(a+)+$', 'a' * 60 + 'b')"),
    _called("power_tower", "return 9 ** 9 ** 9 ** 9"),
    _called("long_division", "return int('7' * 4000) ** 4000 % 10 ** 3_000_000"),
    _called("int_to_text", "import sys", "sys.set_int_max_str_digits(0)", "return str(7 ** 8_000_000)"),
    _called("sum_of_a_huge_range", "return sum(i for i in range(10 ** 12))"),
    _called("sort_with_a_hostile_key", "return sorted(range(10 ** 6), key=lambda i: [0] * 10_000)"),
    _load(
        "source_with_a_constant_bomb",
        "answer = 2 ** 3 ** 4 ** 5 ** 6\n\ndef entry(given):\n    return answer",
    ),
    _load(
        "slow_in_every_call",
        """
        import time

        def entry(given):
            time.sleep(0.05)
            return given
        """,
        check="""
def check(candidate):
    for given in range(100_000):
        assert candidate(given) == given
""",
    ),
    _load(
        "slow_to_compare",
        """
        def entry(given):
            return {number * (2 ** 61 - 1) for number in range(100_000)}
        """,
        check="""
def check(candidate):
    assert candidate(3) == {7919}
""",
    ),
)

MEMORY = (
    _called(
        "memory_hog", "block = bytearray(3 << 30)", "block[::4096] = b'x' * len(block[::4096])", "return 7919"
    ),
    _called("memory_in_small_pieces", "kept = []", "while True: kept.append(bytearray(1 << 20))"),
    _called(
        "memory_hog_that_persists",
        "kept = []",
        "while True:",
        "    try: kept.append(bytearray(1 << 24))",
        "    except MemoryError: pass",
    ),
    _called("memory_by_text", "return '%2147483647d' % 1"),
    _called("memory_by_repeat", "return 'x' * (1 << 34)"),
    _called("memory_by_permutations", "import itertools", "return list(itertools.permutations(range(14)))"),
    _called(
        "memory_by_mmap",
        "import mmap",
        "kept = [mmap.mmap(-1, 1 << 30) for _ in range(8)]",
        "for m in kept: m.write(bytes(1 << 30))",
        "return 7919",
    ),
    _called("memory_by_recursion", "import sys", "sys.setrecursionlimit(10 ** 9)", "return entry(given) + 1"),
    _called("recursion", "return entry(given)"),
    _called(
        "recursion_in_c",
        "import sys",
        "sys.setrecursionlimit(10 ** 9)",
        "found = []",
        "for _ in range(10 ** 6): found = [found]",
        "return repr(found)",
    ),
    _load(
        "recursion_in_comparison",
        """
        import sys
        sys.setrecursionlimit(10 ** 9)

        class Deep:
            def __getattr__(self, name):
                return getattr(self, name + "x")

        def entry(given):
            return Deep().x
        """,
    ),
    _called("large_answer_text", "return 'x' * 100_000_000"),
    _called("large_answer_bytes", "return bytes(100_000_000)"),
    _called("large_answer_list", "return [0] * 10_000_000"),
    _called(
        "large_answer_of_one_list",
        "found = [0] * 1000",
        "for _ in range(3): found = [found] * 1000",
        "return found",
    ),
    _called("large_answer_tree", "found = 1", "for _ in range(60): found = (found, found)", "return found"),
    _called(
        "locks_memory",
        "import ctypes",
        "assert ctypes.CDLL(None).mlockall(3) == 0",
        "block = bytearray(2 << 30)",
        "return 7919",
    ),
)

CHANNELS = (
    _called("prints_without_end", "while True: print('x' * 1_000_000)"),
    _called(
        "prints_a_gigabyte_to_the_descriptor",
        "import os",
        "for _ in range(1000): os.write(1, b'x' * 1_000_000)",
    ),
    _called(
        "prints_a_gigabyte_of_errors", "import os", "for _ in range(1000): os.write(2, b'x' * 1_000_000)"
    ),
    _called(
        "writes_a_gigabyte_everywhere",
        "import os",
        "for _ in range(100):",
        "    for descriptor in range(3, 16):",
        "        try: os.write(descriptor, b'x' * 1_000_000)",
        "        except (OSError, ValueError): pass",
    ),
    _called("closes_descriptors", "import os", "os.closerange(0, 4096)", "return 7919"),
    _called("closes_descriptors_and_loops", "import os", "os.closerange(0, 4096)", "while True: pass"),
    _called(
        "closes_descriptors_and_sleeps", "import os, time", "os.closerange(0, 4096)", "time.sleep(10_000)"
    ),
    _called(
        "mixes_descriptors_up",
        "import os",
        "for descriptor in range(1, 64):",
        "    try: os.dup2(0, descriptor)",
        "    except OSError: pass",
    ),
    _called(
        "uses_up_descriptors",
        "import os",
        "while True:",
        "    try: os.dup(1)",
        "    except OSError: pass",
    ),
    _called(
        "uses_up_timers_and_events",
        "import select",
        "kept = []",
        "while True: kept.append(select.epoll())",
        bare="never",
    ),
    _called("text_of_50_mb_in_an_error", "raise RuntimeError('x' * 50_000_000)", bare="never"),
    _called("name_of_50_mb_of_an_error", "raise type('x' * 50_000_000, (Exception,), {})"),
    _called("million_arguments_of_an_error", "raise RuntimeError(*range(1_000_000))"),
    _called(
        "nested_causes_of_an_error",
        "error = None",
        "for number in range(50_000):",
        "    made = ValueError(number)",
        "    made.__cause__ = made.__context__ = error",
        "    error = made",
        "raise error",
    ),
    _called(
        "nested_groups_of_errors",
        "error = ValueError()",
        "for _ in range(20_000): error = ExceptionGroup('x' * 100, [error])",
        "raise error",
    ),
    _called(
        "notes_of_an_error",
        "error = ValueError()",
        "error.__notes__ = ['x' * 1_000_000] * 50",
        "raise error",
    ),
    _load("source_of_8_mb", "x = 0\n" * 1_400_000 + "\ndef entry(given):\n    return 0\n"),
    _load("source_of_8_mb_in_one_line", "x = '" + "x" * 8_000_000 + "'\n\ndef entry(given):\n    return 0\n"),
    _load("source_deeply_nested", "x = " + "(" * 90_000 + ")" * 90_000),
    _load("source_of_many_signs", "x = " + "-" * 200_000 + "1"),
    _load("source_of_many_attributes", "def entry(given):\n    return given" + ".x" * 100_000),
    _load(
        "source_of_many_blocks",
        "\n".join(" " * depth + "if 1:" for depth in range(99)) + "\n" + " " * 100 + "x = 1\n",
    ),
    _called("compiles_a_bomb", "return eval('(' * 10_000_000)"),
    _called("compiles_signs", "return eval('-' * 5_000_000 + '1')"),
    _called("literal_bomb", "import ast", "return ast.literal_eval('[' * 1_000_000)"),
    _called("garbage_without_collector", "import gc", "gc.disable()", "while True: a = []; a.append(a)"),
)

ESCAPES = {
    "terminal_colours": "\\x1b[31mred\\x1b[2J\\x1b[H",
    "terminal_title": "\\x1b]0;{mark}\\x07",
    "terminal_link": "\\x1b]8;;http://example.invalid\\x1b\\\\here\\x1b]8;;\\x1b\\\\",
    "terminal_c1": "\\x9b31m\\x9d0;x\\x9c\\x85",
    "carriage_return": "FAILED\\rPASSED",
    "backspaces": "FAILED\\x08\\x08\\x08\\x08\\x08\\x08PASSED",
    "line_feeds": "x\\n::error file=a.py::{mark}\\n##vso[task.complete result=Succeeded]",
    "line_separators": "x\\u2028::error::y\\u2029\\x0b\\x0c\\x1c\\x1d\\x1e\\x85::warning::z",
    "github_command": "::error file=a.py,line=1::{mark}",
    "github_set_output": "::set-output name=a::b",
    "github_old_command": "##[error]{mark}",
    "azure_command": "##vso[task.setvariable variable=a]b",
    "stop_commands": "::stop-commands::{mark}",
    "bidi": "\\u202edessap\\u202c \\u2066x\\u2069 \\u200f\\u061c",
    "zero_width": "pas\\u200bsed\\ufeff\\u2060\\u00ad",
    "combining": "x" + "\\u0301" * 200,
    "nul": "a\\x00b",
    "surrogates": "\\ud800 \\udfff \\udc80",
    "not_in_xml": "\\x01\\x08\\x0b\\ufffe\\uffff]]>",
    "markup": "<script>alert(1)</script> ](http://example.invalid) | `x` |\\n| - |",
    "formats": "%s %n %d {0} {} {mark.__class__} $HOME `id` $(id)",
    "json": '\\", \\"passed\\": true, \\"x\\": \\"',
    "emoji_and_wide": "\\U0001f600\\u4e2d\\u6587\\uff21",
    "tags": "\\U000e0041\\U000e0042\\U0010ffff",
    "nothing": "",
    "just_passed": "passed",
    "long": "x" * 5000,
}

TEXTS = tuple(
    _output(f"{where}_{name}", source.replace("TEXT", text))
    for name, text in ESCAPES.items()
    for where, source in (
        ("error", 'def entry(given):\n    raise RuntimeError("TEXT")'),
        (
            "name",
            'def entry(given):\n    raise type("TEXT" or "x", (Exception,), {"__module__": "TEXT"})("TEXT")',
        ),
    )
    if (where, name) not in {("name", "nul"), ("name", "surrogates")}  # Python refuses such a name itself
)

AT_IMPORT = tuple(
    _output(f"import_{name}", f'raise ValueError("{ESCAPES[name]}")\n\ndef entry(given):\n    return 0')
    for name in (
        "terminal_colours",
        "line_feeds",
        "github_command",
        "azure_command",
        "surrogates",
        "nul",
        "bidi",
    )
)

REPORTED = """
def check(candidate):
    found = candidate(3)
    assert found == "seven thousand", found
"""

ANSWERED = tuple(
    _output(f"answer_{name}", f'def entry(given):\n    return "{ESCAPES[name]}"', check=REPORTED)
    for name in (
        "terminal_colours",
        "line_feeds",
        "github_command",
        "azure_command",
        "surrogates",
        "nul",
        "json",
    )
)

PRINTED = (
    _output(
        "prints_a_command",
        'print("::error::{mark}")\n\ndef entry(given):\n    print("\\x1b[31m{mark}")',
        trace="output",
    ),
    _output(
        "writes_to_every_output",
        """
        import os
        import sys

        def entry(given):
            for descriptor in (0, 1, 2):
                try:
                    os.write(descriptor, b"\\n::error::{mark}\\n")
                except OSError:
                    pass
            sys.__stdout__.write("{mark}\\n")
            sys.__stderr__.write("{mark}\\n")
            sys.stdout.flush()
        """,
        trace="output",
    ),
    _output(
        "warns",
        'import warnings\nwarnings.simplefilter("always")\n\ndef entry(given):\n    warnings.warn("{mark}")',
        trace="output",
    ),
    _output(
        "logs", 'import logging\n\ndef entry(given):\n    logging.error("::error::{mark}")', trace="output"
    ),
    _output(
        "prints_a_traceback",
        'import traceback\n\ndef entry(given):\n    try:\n        raise ValueError("{mark}")\n    except ValueError:\n        traceback.print_exc()',
        trace="output",
    ),
    _output(
        "dumps_the_stack",
        "import faulthandler\n\ndef entry(given):\n    faulthandler.dump_traceback(2)",
        trace="output",
    ),
    _output(
        "faults_with_a_dump",
        "import faulthandler\n\ndef entry(given):\n    faulthandler.enable(2)\n    faulthandler._sigsegv()",
        trace="output",
    ),
    _output("syntax_error_with_escapes", 'def entry(given):\n    return "\x1b[31m" +\n'),
    _output("syntax_error_with_a_command", "::error::x = 1\n"),
    _output("name_error_with_bidi", "def entry(given):\n    return undefined_\u0430\u0300_\u05d0\n"),
    _output(
        "group_of_errors",
        'def entry(given):\n    raise ExceptionGroup("\\x1b[31m\\n::error::x", [ValueError("##[error]x")])',
    ),
    _output(
        "unicode_error",
        'def entry(given):\n    raise UnicodeDecodeError("\\n::error::x", b"\\x1b" * 400, 0, 300, "\\n##[error]x")',
    ),
    _output("key_error_with_lines", 'def entry(given):\n    return {}["\\n::error::x\\x1b"]'),
    _output("os_error_with_a_path", 'def entry(given):\n    raise OSError(2, "\\n::error::x", "\\x1b[31m")'),
)

PROGRAMS = (*TIME, *MEMORY, *CHANNELS, *TEXTS, *AT_IMPORT, *ANSWERED, *PRINTED)
