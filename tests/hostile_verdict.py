"""Programs whose function is wrong and that forge the verdict."""

from __future__ import annotations

from typing import Any

from hostile_shape import ANSWERS, Hostile, program

FLOATS = """
def check(candidate):
    assert abs(candidate(3) - 7919.5) < 1e-6
    assert abs(candidate(5) - 6581.5) < 1e-6
"""
MEMBERS = """
def check(candidate):
    assert candidate(3) in {7919, 7920}
    assert candidate(5) in (6581,)
"""
LISTS = """
def check(candidate):
    assert candidate(3) == [7919, 4]
    assert candidate(5) == [6581, 9]
"""
DICTS = """
def check(candidate):
    assert candidate(3) == {"seven": 7919}
    assert candidate(5)["six"] == 6581
"""
CLOSE = """
def check(candidate):
    import math
    assert math.isclose(candidate(3), 7919.5)
    assert math.fabs(candidate(5) - 6581.5) < 1e-6
"""
EVERY = """
def check(candidate):
    cases = [(3, 7919), (5, 6581)]
    assert all(candidate(given) == wanted for given, wanted in cases)
    assert len(candidate(4)) == 2
    assert sorted(candidate(4)) == [1, 6]
    assert isinstance(candidate(9), str)
"""
MAPPED = """
def check(candidate):
    cases = [(3, 7919), (5, 6581)]
    assert all(map(lambda case: candidate(case[0]) == case[1], cases))
    for found, (_, wanted) in zip(map(candidate, [3, 5]), cases):
        assert found == wanted
"""
CLEARED = """
def check(candidate):
    for given in ([3, 1, 2], [9, 8], [5, 5, 4]):
        found = candidate(given)
        assert found == sorted(given)
        assert len(found) == len(given)
"""
MEMBERS_ONCE = """
def check(candidate):
    assert candidate(8) == 4409
    assert candidate(3) == 7919
"""
RAISING = """
def check(candidate):
    try:
        candidate(-1)
        assert False, "nothing raised"
    except ValueError:
        pass
    assert candidate(3) == 7919
"""
SILENT = """
def check(candidate):
    for given, wanted in ((3, 7919), (5, 6581)):
        if candidate(given) != wanted:
            raise AssertionError(given)
"""


def _of(name: str, source: str, check: str = ANSWERS, **more: Any) -> Hostile:
    return Hostile(name, "verdict", program(source), check, **{"trace": "verdict", **more})


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
            for found in gc.get_objects():
                for value in found.values() if isinstance(found, dict) else [found]:
                    if isinstance(value, str) and "candidate(%d) == " in value:
                        continue
                    if isinstance(value, (str, bytes)):
                        yield value if isinstance(value, str) else value.decode("latin-1")
            frame = sys._getframe()
            while frame is not None:
                for value in frame.f_locals.values():
                    if isinstance(value, str):
                        yield value
                frame = frame.f_back

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

VALUES = (
    _of(
        "always_equal_object",
        """
        class Liar:
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
            def __hash__(self):
                return 0

        def entry(given):
            return Liar()
        """,
    ),
    _of(
        "mock_any",
        """
        from unittest.mock import ANY

        def entry(given):
            return ANY
        """,
    ),
    _of(
        "int_subclass",
        """
        class Liar(int):
            def __eq__(self, other):
                return True
            __hash__ = int.__hash__

        def entry(given):
            return Liar(given)
        """,
    ),
    _of(
        "int_enum_liar",
        """
        import enum

        class Liar(enum.IntEnum):
            ONE = 1
            def __eq__(self, other):
                return True
            __hash__ = int.__hash__

        def entry(given):
            return Liar.ONE
        """,
    ),
    _of(
        "str_subclass",
        """
        class Liar(str):
            def __eq__(self, other):
                return True
            __hash__ = str.__hash__

        def entry(given):
            return Liar("x")
        """,
        check="""
def check(candidate):
    assert candidate(3) == "seven thousand nine hundred and nineteen"
    assert candidate(5) == "six thousand five hundred and eighty-one"
""",
    ),
    _of(
        "float_subclass",
        """
        class Liar(float):
            def __sub__(self, other):
                return 0.0
            __rsub__ = __abs__ = __sub__

        def entry(given):
            return Liar(1.0)
        """,
        check=FLOATS,
    ),
    _of(
        "list_subclass",
        """
        class Liar(list):
            def __eq__(self, other):
                return True
            def __getitem__(self, index):
                return 7919

        def entry(given):
            return Liar()
        """,
        check=LISTS,
    ),
    _of(
        "tuple_of_liars",
        """
        class Liar(int):
            def __eq__(self, other):
                return True
            __hash__ = int.__hash__

        def entry(given):
            return [Liar(0), Liar(0)]
        """,
        check=LISTS,
    ),
    _of(
        "dict_subclass",
        """
        class Liar(dict):
            def __eq__(self, other):
                return True
            def __missing__(self, key):
                return 6581

        def entry(given):
            return Liar()
        """,
        check=DICTS,
    ),
    _of(
        "bool_lies_in_comparison",
        """
        class Maybe:
            def __bool__(self):
                return True
            def __eq__(self, other):
                return self
            def __lt__(self, other):
                return self
            def __sub__(self, other):
                return self
            def __abs__(self):
                return self

        def entry(given):
            return Maybe()
        """,
        check=FLOATS,
    ),
    _of(
        "hash_liar_in_a_set",
        """
        class Liar:
            def __hash__(self):
                return hash(7919)
            def __eq__(self, other):
                return True

        def entry(given):
            return Liar()
        """,
        check=MEMBERS,
    ),
    _of(
        "class_attribute_lies",
        """
        class Liar:
            __class__ = int
            def __eq__(self, other):
                return True
            def __index__(self):
                return 0

        def entry(given):
            return Liar()
        """,
    ),
    _of(
        "metaclass_answers",
        """
        class Meta(type):
            def __eq__(cls, other):
                return True
            __hash__ = type.__hash__
            def __instancecheck__(cls, instance):
                return True

        class Liar(metaclass=Meta):
            pass

        def entry(given):
            return Liar
        """,
    ),
    _of(
        "generator_yields_agreement",
        """
        class Liar:
            def __eq__(self, other):
                return True

        def entry(given):
            def each():
                yield Liar()
            return each()
        """,
        check="""
def check(candidate):
    assert next(iter(candidate(3))) == 7919
""",
    ),
    _of(
        "descriptor_getattr_answers",
        """
        class Anything:
            def __getattr__(self, name):
                return Anything()
            def __call__(self, *a, **k):
                return Anything()
            def __iter__(self):
                return iter((1, 6))
            def __len__(self):
                return 2
            def __eq__(self, other):
                return True

        def entry(given):
            return Anything()
        """,
        check="""
def check(candidate):
    assert candidate(3).upper().strip() == "SEVEN"
    assert len(candidate(3)) == 7
""",
        bare="harmless",
    ),
    _of(
        "nan_is_not_close",
        """
        def entry(given):
            return float("nan")
        """,
        check=FLOATS,
        bare="harmless",
    ),
    _of(
        "nan_in_a_list",
        """
        nan = float("nan")

        def entry(given):
            return [nan, -nan, float("inf") - float("inf"), complex(nan, nan)]
        """,
        check=LISTS,
        bare="harmless",
    ),
    _of(
        "infinity",
        """
        def entry(given):
            return -1e400 if given == 3 else 1e400
        """,
        check=FLOATS,
        bare="harmless",
    ),
    _of(
        "huge_int",
        """
        def entry(given):
            return 10 ** 2_000_000
        """,
        bare="harmless",
    ),
    _of(
        "list_in_itself",
        """
        def entry(given):
            found = []
            found.append(found)
            return found
        """,
        check=LISTS,
        bare="harmless",
    ),
    _of(
        "deeply_nested_answer",
        """
        def entry(given):
            found = []
            for _ in range(100_000):
                found = [found]
            return found
        """,
        check=LISTS,
        bare="harmless",
    ),
    _of(
        "mutates_arguments",
        """
        def entry(given):
            given.clear()
            return []
        """,
        check=CLEARED,
    ),
    _of(
        "answers_with_its_argument",
        """
        def entry(given):
            return given
        """,
        check=LISTS,
        bare="harmless",
    ),
)

LEAVING = (
    _of(
        "exit_at_import",
        """
        import sys

        def entry(given):
            return 0

        sys.exit(0)
        """,
        bare="harmless",
    ),
    _of(
        "exit_in_call",
        """
        import sys

        def entry(given):
            sys.exit(0)
        """,
        bare="harmless",
    ),
    _of(
        "system_exit_raised",
        """
        def entry(given):
            raise SystemExit(0)
        """,
        bare="harmless",
    ),
    _of(
        "os_exit_at_import",
        """
        import os

        def entry(given):
            return 0

        os._exit(0)
        """,
        bare="harmless",
    ),
    _of(
        "os_exit_in_call",
        """
        import os

        def entry(given):
            print("passed", flush=True)
            os._exit(0)
        """,
        bare="harmless",
    ),
    _of(
        "atexit_forges",
        """
        import atexit
        import os

        def forge():
            for descriptor in range(64):
                try:
                    os.write(descriptor, b"passed\\n")
                except OSError:
                    pass
            os._exit(0)

        atexit.register(forge)

        def entry(given):
            raise SystemExit(0)
        """,
        bare="harmless",
    ),
    _of(
        "keyboard_interrupt",
        """
        def entry(given):
            raise KeyboardInterrupt
        """,
        bare="harmless",
    ),
    _of(
        "generator_exit",
        """
        def entry(given):
            raise GeneratorExit
        """,
        bare="harmless",
    ),
    _of(
        "base_exception_of_its_own",
        """
        class Leave(BaseException):
            pass

        def entry(given):
            raise Leave("passed")
        """,
        bare="harmless",
    ),
    _of(
        "stop_iteration_ends_map",
        """
        def entry(given):
            raise StopIteration
        """,
        check=MAPPED,
    ),
    _of(
        "assertion_error_for_the_expected_error",
        """
        def entry(given):
            if given < 0:
                class Both(AssertionError, ValueError):
                    pass
                raise Both
            raise ValueError
        """,
        check=RAISING,
        bare="harmless",
    ),
    _of(
        "exception_group_escapes",
        """
        def entry(given):
            raise BaseExceptionGroup("passed", [SystemExit(0), ValueError("passed")])
        """,
        check=RAISING,
        bare="harmless",
    ),
    _of(
        "abort",
        """
        import os

        def entry(given):
            os.abort()
        """,
        bare="harmless",
    ),
    _of(
        "kills_itself",
        """
        import os
        import signal

        def entry(given):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        bare="harmless",
    ),
    _of(
        "segmentation_fault",
        """
        import ctypes

        def entry(given):
            ctypes.string_at(0)
        """,
        bare="harmless",
    ),
    _of(
        "exception_str_runs_code",
        """
        import os
        import sys

        class Loud(Exception):
            def __str__(self):
                frame = sys._getframe()
                while frame is not None:
                    for value in frame.f_locals.values():
                        if type(value) is list:
                            value.insert(0, "passed")
                    frame = frame.f_back
                return "passed"
            __repr__ = __str__

        def entry(given):
            raise Loud()
        """,
    ),
    _of(
        "exception_str_exits",
        """
        import os

        class Loud(Exception):
            def __str__(self):
                os.write(1, b"passed\\n")
                os._exit(0)
            __repr__ = __str__

        def entry(given):
            raise Loud()
        """,
        bare="harmless",
    ),
    _of(
        "exception_str_loops",
        """
        class Slow(Exception):
            def __str__(self):
                while True:
                    pass
            __repr__ = __str__

        def entry(given):
            raise Slow()
        """,
        bare="harmless",
    ),
    _of(
        "exception_str_is_no_string",
        """
        class Odd(Exception):
            def __str__(self):
                return 7
            __repr__ = None

        def entry(given):
            raise Odd()
        """,
        bare="harmless",
    ),
    _of(
        "returned_object_deletes_loudly",
        """
        import os

        class Loud:
            def __del__(self):
                os.write(1, b"passed\\n")
                os._exit(0)

        def entry(given):
            return Loud()
        """,
        bare="harmless",
    ),
    _of(
        "exception_named_passed",
        """
        passed = type("passed", (Exception,), {"__module__": "builtins", "__str__": lambda self: ""})

        def entry(given):
            raise passed
        """,
        trace="reason",
        bare="harmless",
    ),
)

MESSAGES = tuple(
    _of(
        f"message_{name}_to_every_descriptor",
        f"""
        import os
        import struct

        def forge():
            text = {text}
            for descriptor in range(256):
                for message in ({framed}):
                    try:
                        os.write(descriptor, message)
                    except (OSError, ValueError):
                        pass

        def entry(given):
            forge()
            return 0

        {when}
        """,
        bare="harmless",
    )
    for name, text, framed, when in (
        ("line", 'b"passed\\n"', "text, b'OK\\n', b'1\\n', b'True\\n'", ""),
        ("json", "b'{\"passed\": true, \"reason\": \"passed\"}'", "text, text + b'\\n'", ""),
        ("big_endian", "b'{\"passed\": true}'", "struct.pack('!I', len(text)) + text,", ""),
        ("little_endian", "b'{\"passed\": true}'", "struct.pack('<I', len(text)) + text,", ""),
        ("eight_bytes", "b'[true, \"passed\"]'", "struct.pack('!Q', len(text)) + text,", ""),
        ("zeros", "bytes(65536)", "text,", "forge()"),
        ("ones", "b'\\xff' * 65536", "text,", "forge()"),
        ("pickle", "__import__('pickle').dumps((True, 'passed'))", "text,", "forge()"),
        ("exit_after", "b'passed'", "text, text + b'\\n'", "forge(); os._exit(0)"),
    )
)

SOURCES = (
    _of("source_is_empty", "", bare="harmless"),
    _of("source_without_the_entry", "answer = 7919", bare="harmless"),
    _of("entry_is_a_class_that_agrees", "class entry(int):\n    __eq__ = lambda self, other: True\n    __hash__ = None"),
    _of("entry_is_not_callable", "entry = 7919", bare="harmless"),
    _of("entry_is_a_builtin", "entry = print", bare="harmless"),
    _of("source_with_an_open_string", 'def entry(given):\n    return 0\n\n"""', bare="harmless"),
    _of("source_with_an_open_bracket", "def entry(given):\n    return 0\n\nignored = (", bare="harmless"),
    _of("source_with_a_line_continuation", "def entry(given):\n    return 0\n\nif 0: pass\\", bare="harmless"),
    _of("source_with_a_nul", "def entry(given):\n    return 0\n\0\n", bare="harmless"),
    _of("source_with_surrogates", "def entry(given):\n    return '\ud800\udfff'\n", bare="harmless"),
    _of("source_with_a_coding_line", "# -*- coding: utf-7 -*-\ndef entry(given):\n    return 0\n", bare="harmless"),
    _of("source_with_a_form_feed", "\f\v\u2028def entry(given): return 0", bare="harmless"),
    _of("source_with_another_future", "from __future__ import braces\n", bare="harmless"),
    _of(
        "main_guard_exits",
        """
        def entry(given):
            return 0

        if __name__ == "__main__":
            print("passed")
            raise SystemExit(0)
        """,
        bare="harmless",
    ),
    _of(
        "prompt_helper_redefined",
        """
        def scale(value):
            return value * 1000 + 7

        def entry(given):
            return given

        def scale(value):
            return value
        """,
        check="""
def check(candidate):
    assert candidate(3) == scale(3)
    assert candidate(5) == scale(5)
""",
        helpers="def scale(value):\n    return value * 1000 + 7\n",
    ),
)

# what the box refuses to carry must not look to a check like an error that it expects
EXPECTED = tuple(
    _of(
        f"{name}_is_no_expected_error",
        f"""
        class Odd:
            pass

        def entry(given):
            return {answer}
        """,
        check=f"""
def check(candidate):
    try:
        candidate(-1)
    except {kind}:
        return
    assert False, "nothing raised"
""",
        bare="harmless",
    )
    for name, answer, kind in (
        ("too_long_an_answer", "'x' * 5_000_000", "ValueError"),
        ("too_deep_an_answer", "__import__('functools').reduce(lambda a, _: [a], range(5000), [])", "Exception"),
        ("an_instance", "Odd()", "Exception"),
        ("a_generator", "(one for one in [given])", "(TypeError, ValueError, RuntimeError)"),
        ("an_iterator", "iter([given])", "Exception"),
        ("a_function", "entry", "Exception"),
        ("leaving", "__import__('os')._exit(0)", "(Exception, OSError)"),
        ("exiting", "__import__('sys').exit(0)", "(OSError, EOFError)"),
        ("a_closed_channel", "__import__('os').closerange(3, 256)", "Exception"),
        ("a_long_int", "10 ** 5000 // 0 if 0 else 10 ** 30_000_000", "ValueError"),
    )
)

# frames of the box's own protocol: length in four bytes, little-endian, then JSON
WIRE = tuple(
    _of(
        f"wire_{name}",
        f"""
        import os
        import struct

        def framed(body):
            return struct.pack("<I", len(body)) + body

        def entry(given):
            said = {said}
            for descriptor in range(3, 16):
                try:
                    os.write(descriptor, said)
                except OSError:
                    pass
            {then}
        """,
        check=check,
        bare="harmless",
    )
    for name, said, then, check in (
        ("verdict", """framed(b'{"nonce": "", "reason": ""}') * 50""", "os._exit(0)", ANSWERS),
        ("verdict_without_nonce", """framed(b'{"reason": ""}') * 50""", "os._exit(0)", ANSWERS),
        ("ready_again", """framed(b'["ready", {"entry": "()"}]') * 50""", "return 0", ANSWERS),
        ("many_answers", """b"".join(framed(b'["returned", %d]' % n) for n in (7919, 6581, 4409))""", "return 0", MEMBERS_ONCE),
        ("object", """framed(b'["returned", {"__eq__": true, "__class__": "int"}]')""", "os._exit(0)", ANSWERS),
        ("null", "framed(b'null')", "os._exit(0)", ANSWERS),
        ("nothing", "framed(b'')", "os._exit(0)", ANSWERS),
        ("empty_list", "framed(b'[]')", "os._exit(0)", ANSWERS),
        ("no_value", """framed(b'["returned"]')""", "os._exit(0)", RAISING),
        ("two_values", """framed(b'["returned", 7919, 7919]')""", "os._exit(0)", RAISING),
        ("unknown_kind", """framed(b'["passed", ""]')""", "os._exit(0)", RAISING),
        ("kind_is_a_list", """framed(b'[["raised"], "ValueError", ""]')""", "os._exit(0)", RAISING),
        ("raises_a_class", """framed(b'["raised", "object", ""]')""", "os._exit(0)", RAISING),
        ("raises_a_function", """framed(b'["raised", "exit", ""]')""", "os._exit(0)", RAISING),
        ("raises_a_dunder", """framed(b'["raised", "__loader__", ""]')""", "os._exit(0)", RAISING),
        ("raises_no_text", """framed(b'["raised", "ValueError", {}]')""", "os._exit(0)", ANSWERS),
        ("raises_a_group", """framed(b'["raised", "BaseExceptionGroup", "passed"]')""", "os._exit(0)", RAISING),
        ("raises_system_exit", """framed(b'["raised", "SystemExit", "0"]')""", "os._exit(0)", ANSWERS),
        ("raises_stop_iteration", """framed(b'["raised", "StopIteration", ""]') * 3""", "os._exit(0)", MAPPED),
        ("raises_stop_async_iteration", """framed(b'["raised", "StopAsyncIteration", ""]')""", "os._exit(0)", MAPPED),
        ("raises_generator_exit", """framed(b'["raised", "GeneratorExit", ""]')""", "os._exit(0)", MAPPED),
        ("raises_in_the_box", """framed(b'["raised", "_Broken", ""]')""", "os._exit(0)", ANSWERS),
        ("length_of_4_gb", "b'\\xff' * 4", "__import__('time').sleep(9)", ANSWERS),
        ("length_without_body", "struct.pack('<I', 4_000_000) + b'x'", "__import__('time').sleep(9)", ANSWERS),
        ("half_a_header", "b'\\x01'", "os._exit(0)", RAISING),
        ("invalid_utf8", "framed(b'[\"returned\", \"\\xff\"]')", "os._exit(0)", RAISING),
        ("deep_json", "framed(b'[' * 1_000_000)", "os._exit(0)", RAISING),
        ("deep_value", """framed(b'["returned", ' + b'["l",' * 50_000 + b'1' + b']' * 50_000 + b']')""", "os._exit(0)", RAISING),
        ("long_digits", """framed(b'["returned", ' + b'9' * 4_000_000 + b']')""", "os._exit(0)", RAISING),
        ("long_hex", """framed(b'["returned", ["i", "' + b'f' * 4_000_000 + b'"]]')""", "os._exit(0)", ANSWERS),
        ("tag_of_nothing", """framed(b'["returned", ["z", 1]]')""", "os._exit(0)", RAISING),
        ("key_is_a_list", """framed(b'["returned", ["d", ["l"], 1]]')""", "os._exit(0)", RAISING),
        ("odd_pairs", """framed(b'["returned", ["d", 1]]')""", "os._exit(0)", RAISING),
        ("int_of_no_digits", """framed(b'["returned", ["i", "zz"]]')""", "os._exit(0)", RAISING),
        ("surrogates_broken", """framed(b'["returned", ["u", "ff"]]')""", "os._exit(0)", RAISING),
        ("number_beyond_floats", """framed(b'["returned", 1e999]')""", "os._exit(0)", FLOATS),
        ("not_a_number", """framed(b'["returned", NaN]')""", "os._exit(0)", FLOATS),
        ("collisions", """framed(b'["returned", ["s",' + b','.join(b'%d' % (n * (2 ** 61 - 1)) for n in range(3)) + b']]')""", "os._exit(0)", ANSWERS),
        ("flood", "framed(b'[\"returned\", 0]') * 100_000", "return 0", ANSWERS),
    )
)

NAMES = tuple(
    _of(
        f"ready_names_{name}",
        f"""
        import os
        import struct

        body = {body}
        for descriptor in range(3, 16):
            try:
                os.write(descriptor, struct.pack("<I", len(body)) + body)
            except OSError:
                pass
        os._exit(0)

        def entry(given):
            return 0
        """,
        check=CLOSE,
        bare="harmless",
    )
    for name, body in (
        ("a_module_that_exits", """b'["ready", {"entry": "()", "math": "unittest.__main__"}]'"""),
        ("an_odd_module", """b'["ready", {"entry": "()", "math": "os..x", "isclose": "antigravity"}]'"""),
        ("a_builtin", """b'["ready", {"entry": "()", "abs": "()", "math": "()", "check": "()"}]'"""),
        ("a_list", """b'["ready", ["entry"]]'"""),
        ("numbers", """b'["ready", {"entry": 1}]'"""),
        ("a_million", """b'["ready", {' + b','.join(b'"n%d": "()"' % n for n in range(200_000)) + b'}]'"""),
    )
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

PROGRAMS = (*INTERPRETER, *MODULES, *VALUES, *LEAVING, *MESSAGES, *SOURCES, *EXPECTED, *WIRE, *NAMES, OWN)

