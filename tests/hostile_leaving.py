"""Programs whose function is wrong and that leave before the verdict, or write one themselves."""

from __future__ import annotations

from hostile_forging import CLOSE, FLOATS, MAPPED, MEMBERS_ONCE, RAISING
from hostile_forging import forging as _of
from hostile_shape import ANSWERS

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
        ("json", 'b\'{"passed": true, "reason": "passed"}\'', "text, text + b'\\n'", ""),
        ("big_endian", "b'{\"passed\": true}'", "struct.pack('!I', len(text)) + text,", ""),
        ("little_endian", "b'{\"passed\": true}'", "struct.pack('<I', len(text)) + text,", ""),
        ("eight_bytes", "b'[true, \"passed\"]'", "struct.pack('!Q', len(text)) + text,", ""),
        ("zeros", "bytes(65536)", "text,", "forge()"),
        ("ones", "b'\\xff' * 65536", "text,", "forge()"),
        ("pickle", "__import__('pickle').dumps((True, 'passed'))", "text,", "forge()"),
        ("exit_after", "b'passed'", "text, text + b'\\n'", "forge(); os._exit(0)"),
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
        (
            "many_answers",
            """b"".join(framed(b'["returned", %d]' % n) for n in (7919, 6581, 4409))""",
            "return 0",
            MEMBERS_ONCE,
        ),
        (
            "object",
            """framed(b'["returned", {"__eq__": true, "__class__": "int"}]')""",
            "os._exit(0)",
            ANSWERS,
        ),
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
        (
            "raises_a_group",
            """framed(b'["raised", "BaseExceptionGroup", "passed"]')""",
            "os._exit(0)",
            RAISING,
        ),
        ("raises_system_exit", """framed(b'["raised", "SystemExit", "0"]')""", "os._exit(0)", ANSWERS),
        (
            "raises_stop_iteration",
            """framed(b'["raised", "StopIteration", ""]') * 3""",
            "os._exit(0)",
            MAPPED,
        ),
        (
            "raises_stop_async_iteration",
            """framed(b'["raised", "StopAsyncIteration", ""]')""",
            "os._exit(0)",
            MAPPED,
        ),
        ("raises_generator_exit", """framed(b'["raised", "GeneratorExit", ""]')""", "os._exit(0)", MAPPED),
        ("raises_in_the_box", """framed(b'["raised", "_Broken", ""]')""", "os._exit(0)", ANSWERS),
        ("length_of_4_gb", "b'\\xff' * 4", "__import__('time').sleep(9)", ANSWERS),
        (
            "length_without_body",
            "struct.pack('<I', 4_000_000) + b'x'",
            "__import__('time').sleep(9)",
            ANSWERS,
        ),
        ("half_a_header", "b'\\x01'", "os._exit(0)", RAISING),
        ("invalid_utf8", 'framed(b\'["returned", "\\xff"]\')', "os._exit(0)", RAISING),
        ("deep_json", "framed(b'[' * 1_000_000)", "os._exit(0)", RAISING),
        (
            "deep_value",
            """framed(b'["returned", ' + b'["l",' * 50_000 + b'1' + b']' * 50_000 + b']')""",
            "os._exit(0)",
            RAISING,
        ),
        ("long_digits", """framed(b'["returned", ' + b'9' * 4_000_000 + b']')""", "os._exit(0)", RAISING),
        (
            "long_hex",
            """framed(b'["returned", ["i", "' + b'f' * 4_000_000 + b'"]]')""",
            "os._exit(0)",
            ANSWERS,
        ),
        ("tag_of_nothing", """framed(b'["returned", ["z", 1]]')""", "os._exit(0)", RAISING),
        ("key_is_a_list", """framed(b'["returned", ["d", ["l"], 1]]')""", "os._exit(0)", RAISING),
        ("odd_pairs", """framed(b'["returned", ["d", 1]]')""", "os._exit(0)", RAISING),
        ("int_of_no_digits", """framed(b'["returned", ["i", "zz"]]')""", "os._exit(0)", RAISING),
        ("surrogates_broken", """framed(b'["returned", ["u", "ff"]]')""", "os._exit(0)", RAISING),
        ("number_beyond_floats", """framed(b'["returned", 1e999]')""", "os._exit(0)", FLOATS),
        ("not_a_number", """framed(b'["returned", NaN]')""", "os._exit(0)", FLOATS),
        (
            "collisions",
            """framed(b'["returned", ["s",' + b','.join(b'%d' % (n * (2 ** 61 - 1)) for n in range(3)) + b']]')""",
            "os._exit(0)",
            ANSWERS,
        ),
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


PROGRAMS = (*LEAVING, *MESSAGES, *WIRE, *NAMES)
