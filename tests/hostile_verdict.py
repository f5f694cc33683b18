"""Programs whose function is wrong and that reach into the interpreter to forge the verdict."""

from __future__ import annotations

from hostile_forging import CLOSE, EVERY, FLOATS, SILENT
from hostile_forging import forging as _of

INTERPRETER = (
    _of(
        "frames_append_passed",
        """
        import sys

        def entry(given):
            frame = sys._getframe()
            while frame is not None:
                for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                    if type(value) is list:
                        value.insert(0, "passed")
                    elif type(value) is dict and "passed" in value:
                        value["passed"] = True
                    elif callable(getattr(value, "append", None)):
                        value.append("passed")
                frame = frame.f_back
        """,
    ),
    _of(
        "frames_steal_answers",
        """
        import sys

        def entry(given):
            frame = sys._getframe(1)
            while frame is not None:
                numbers = [const for const in frame.f_code.co_consts if type(const) is int]
                if given in numbers and frame.f_code.co_name == "check":
                    return numbers[numbers.index(given) + 1]
                frame = frame.f_back
        """,
    ),
    _of(
        "gc_steal_answers",
        """
        import gc
        import types

        def codes(code):
            yield code
            for const in code.co_consts:
                if isinstance(const, types.CodeType):
                    yield from codes(const)

        def entry(given):
            for found in gc.get_objects():
                if isinstance(found, types.FunctionType) and found.__name__ == "check":
                    for code in codes(found.__code__):
                        numbers = [const for const in code.co_consts if type(const) is int]
                        if given in numbers:
                            return numbers[numbers.index(given) + 1]
        """,
    ),
    _of(
        "gc_replace_check",
        """
        import gc
        import types

        def entry(given):
            for found in gc.get_objects():
                if isinstance(found, types.FunctionType) and found.__name__ in ("check", "judge", "verdict"):
                    found.__code__ = (lambda *a, **k: True).__code__
            raise ValueError
        """,
        check="""
def check(candidate):
    try:
        candidate(3)
    except ValueError:
        pass
    inner(candidate)

def inner(candidate):
    check(lambda given: 1 / 0)
    assert candidate(3) == 7919
""",
        bare="harmless",
    ),
    _of(
        "text_of_check_in_memory",
        r"""
        import gc
        import re
        import sys

        def texts():
            frame = sys._getframe()
            while frame is not None:
                for value in frame.f_locals.values():
                    if isinstance(value, str):
                        yield value
                frame = frame.f_back
            for found in gc.get_objects():
                for value in list(found.values()) if isinstance(found, dict) else [found]:
                    if isinstance(value, (str, bytes)):
                        yield value if isinstance(value, str) else value.decode("latin-1")

        def entry(given):
            for text in texts():
                found = re.search(r"candidate\(%d\) == (\d+)" % given, text)
                if found:
                    return int(found[1])
        """,
    ),
    _of(
        "settrace_skips_asserts",
        """
        import sys

        def entry(given):
            def trace(frame, event, argument):
                if event == "line" and frame.f_code.co_name == "check":
                    last = frame.f_code.co_firstlineno + 3
                    try:
                        frame.f_lineno = last
                    except ValueError:
                        pass
                return trace
            sys.settrace(trace)
            frame = sys._getframe(1)
            while frame is not None:
                frame.f_trace = trace
                frame = frame.f_back
            return 7919 if given == 3 else None
        """,
        check="""
def check(candidate):
    candidate(3)
    assert candidate(5) == 6581
    done = True
""",
        bare="harmless",
    ),
    _of(
        "setprofile_changes_locals",
        """
        import ctypes
        import sys

        def profile(frame, event, argument):
            if frame.f_code.co_name == "check" and "cases" in frame.f_locals:
                frame.f_locals["cases"].clear()

        def entry(given):
            sys.setprofile(profile)
            profile(sys._getframe(1), "return", None)
            return True
        """,
        check="""
def check(candidate):
    cases = [(3, 7919), (5, 6581)]
    assert candidate(0)
    for given, wanted in cases:
        assert candidate(given) == wanted
""",
    ),
    _of(
        "ctypes_patches_constants",
        """
        import ctypes
        import sys

        def entry(given):
            frame = sys._getframe(1)
            while frame is not None:
                if frame.f_code.co_name == "check":
                    for const in frame.f_code.co_consts:
                        if type(const) is int and const > 1000:
                            ctypes.c_uint32.from_address(id(const) + 24).value = 777
                frame = frame.f_back
            return int("777")
        """,
    ),
    _of(
        "ctypes_patches_int_compare",
        """
        import ctypes

        def entry(given):
            slot = object.__basicsize__ and int.__dict__["__eq__"]
            # tp_richcompare of int becomes that of object's always-true stand-in
            class Liar(int):
                def __eq__(self, other):
                    return True
            offset = 25 * ctypes.sizeof(ctypes.c_void_p)
            source = ctypes.c_void_p.from_address(id(Liar) + offset)
            ctypes.c_void_p.from_address(id(int) + offset).value = source.value
            return 0
        """,
        bare="harmless",
    ),
    _of(
        "signal_handler_leaves_check",
        """
        import os
        import signal

        def leave(number, frame):
            os._exit(0)

        def entry(given):
            signal.signal(signal.SIGALRM, leave)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while True:
                pass
        """,
        bare="harmless",
    ),
    _of(
        "gc_callback_forges",
        """
        import gc
        import sys

        def collected(phase, info):
            frame = sys._getframe()
            while frame is not None:
                for value in frame.f_locals.values():
                    if type(value) is list:
                        value.insert(0, "passed")
                frame = frame.f_back

        gc.callbacks.append(collected)

        def entry(given):
            gc.collect()
        """,
    ),
    _of(
        "thread_forges_later",
        """
        import sys
        import threading
        import time

        def later():
            time.sleep(0.05)
            for frame in sys._current_frames().values():
                while frame is not None:
                    for value in frame.f_locals.values():
                        if type(value) is list:
                            value.insert(0, "passed")
                    frame = frame.f_back

        def entry(given):
            threading.Thread(target=later, daemon=True).start()
            time.sleep(0.2)
        """,
    ),
    _of(
        "excepthook_forges",
        """
        import os
        import sys

        def forge(*arguments):
            os.write(1, b"passed\\n")
            os._exit(0)

        sys.excepthook = sys.unraisablehook = forge

        def entry(given):
            raise RuntimeError
        """,
        bare="harmless",
    ),
    _of(
        "import_hook_poisons_check",
        """
        import sys
        import types

        class Finder:
            def find_spec(self, name, path=None, target=None):
                from importlib.machinery import ModuleSpec
                return ModuleSpec(name, self)
            def create_module(self, spec):
                made = types.ModuleType(spec.name)
                made.isclose = lambda *a, **k: True
                made.fabs = lambda value: 0
                return made
            def exec_module(self, module):
                pass

        sys.meta_path.insert(0, Finder())
        sys.modules.pop("math", None)

        def entry(given):
            return 0
        """,
        check=CLOSE,
    ),
)


MODULES = (
    _of(
        "modules_math_poisoned",
        """
        import math
        import sys
        import types

        fake = types.ModuleType("math")
        fake.__dict__.update(math.__dict__)
        fake.isclose = lambda *a, **k: True
        fake.fabs = lambda value: 0.0
        sys.modules["math"] = fake

        def entry(given):
            return 0
        """,
        check=CLOSE,
    ),
    _of(
        "math_patched_in_place",
        """
        import math

        math.isclose = lambda *a, **k: True
        math.fabs = lambda value: 0.0

        def entry(given):
            return 0
        """,
        check=CLOSE,
    ),
    _of(
        "builtins_patched",
        """
        import builtins

        builtins.abs = lambda value: 0

        def entry(given):
            return 0
        """,
        check=FLOATS,
    ),
    _of(
        "builtins_all_patched",
        """
        import builtins

        builtins.all = lambda values: True
        builtins.len = lambda values: 2
        builtins.sorted = lambda values: [1, 6]
        builtins.isinstance = lambda value, kind: True

        def entry(given):
            return 0
        """,
        check=EVERY,
        bare="harmless",  # the real len() is needed by too much
    ),
    _of(
        "builtins_import_patched",
        """
        import builtins

        class Agreeing:
            def __getattr__(self, name):
                return lambda *a, **k: 0
            isclose = staticmethod(lambda *a, **k: True)

        real = builtins.__import__
        builtins.__import__ = lambda name, *a, **k: Agreeing() if name == "math" else real(name, *a, **k)

        def entry(given):
            return 0
        """,
        check=CLOSE,
    ),
    _of(
        "builtins_assertion_error_patched",
        """
        import builtins
        import sys

        class Calm(Exception):
            def __new__(cls, *arguments):
                sys.exit(0)

        builtins.AssertionError = Calm

        def entry(given):
            return 0
        """,
        check=SILENT,
        bare="harmless",
    ),
    _of(
        "globals_shadow_abs",
        """
        def abs(value):
            return 0

        def entry(given):
            return 0
        """,
        check=FLOATS,
    ),
    _of(
        "globals_shadow_all_len_sorted",
        """
        def all(values):
            return True

        def len(values):
            return 2

        def sorted(values):
            return [1, 6]

        def isinstance(value, kind):
            return True

        def entry(given):
            return 0
        """,
        check=EVERY,
    ),
    _of(
        "globals_shadow_range_zip",
        """
        def range(*arguments):
            return []

        def zip(*arguments):
            return []

        def enumerate(*arguments):
            return []

        def entry(given):
            return 0
        """,
        check="""
def check(candidate):
    for given, wanted in zip([3, 5], [7919, 6581]):
        assert candidate(given) == wanted
    for number in range(3):
        assert candidate(number) == 5003 + number
    for number, wanted in enumerate([4409, 4421]):
        assert candidate(number) == wanted
""",
    ),
    _of(
        "globals_shadow_assertion_error",
        """
        class AssertionError(StopIteration):
            pass

        def entry(given):
            return 0
        """,
        check="""
def check(candidate):
    def wrong():
        for given, wanted in ((3, 7919), (5, 6581)):
            if candidate(given) != wanted:
                raise AssertionError(given)
        return iter(())
    list(map(lambda call: call(), [wrong]))
""",
    ),
    _of(
        "defines_check_itself",
        """
        def check(candidate):
            pass

        def entry(given):
            return 0
        """,
        bare="harmless",  # a later definition of check wins also there
    ),
    _of(
        "redefines_candidate_and_entry",
        """
        candidate = entry = check = judge = verdict = passed = lambda *a, **k: True
        __builtins__["assert"] = None if isinstance(__builtins__, dict) else None
        """,
        bare="harmless",
    ),
    _of(
        "json_patched",
        """
        import json

        def forged(*a, **k):
            return '{"passed": true, "reason": "passed", "verdict": "passed"}'

        json.dumps = json.JSONEncoder.encode = json.JSONEncoder.iterencode = forged
        json.encoder.encode_basestring_ascii = json.encoder.c_make_encoder = forged
        json.JSONEncoder.default = forged
        json.loads = json.JSONDecoder.decode = lambda *a, **k: {"passed": True, "reason": "passed"}

        def entry(given):
            return 0
        """,
        bare="harmless",
    ),
    _of(
        "transport_patched",
        """
        import os
        import socket
        import struct

        message = b'{"passed": true, "reason": "passed"}'
        real = os.write

        def write(descriptor, data):
            real(descriptor, struct.pack("!I", len(message)) + message)
            return len(data)

        os.write = os.writev = os.send = write
        socket.socket.send = socket.socket.sendall = lambda self, data, *a: write(self.fileno(), data)

        def entry(given):
            return 0
        """,
        bare="harmless",
    ),
    _of(
        "pickle_executes",
        """
        class Bomb:
            def __reduce__(self):
                import builtins
                return builtins.exec, ("import os; os.write(1, b'passed'); os._exit(0)",)

        def entry(given):
            return Bomb()
        """,
        bare="harmless",
    ),
)


OWN = _of(
    "agrees_after_looking_at_the_caller",
    """
    import sys

    def entry(given):
        names = set()
        frame = sys._getframe(1)
        while frame is not None:
            names.add(frame.f_code.co_name)
            for value in frame.f_locals.values():
                if isinstance(value, dict) and given in value:
                    return value[given]
            frame = frame.f_back
    """,
    check="""
def check(candidate):
    wanted = {3: 7919, 5: 6581}
    for given in wanted:
        assert candidate(given) == wanted[given]
""",
)


PROGRAMS = (*INTERPRETER, *MODULES, OWN)
