"""Programs whose function is wrong and that answer with lying values, or are odd sources."""

from __future__ import annotations

from hostile_forging import CLEARED, DICTS, FLOATS, LISTS, MEMBERS
from hostile_forging import forging as _of

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


SOURCES = (
    _of("source_is_empty", "", bare="harmless"),
    _of("source_without_the_entry", "answer = 7919", bare="harmless"),
    _of(
        "entry_is_a_class_that_agrees",
        "class entry(int):\n    __eq__ = lambda self, other: True\n    __hash__ = None",
    ),
    _of("entry_is_not_callable", "entry = 7919", bare="harmless"),
    _of("entry_is_a_builtin", "entry = print", bare="harmless"),
    _of("source_with_an_open_string", 'def entry(given):\n    return 0\n\n"""', bare="harmless"),
    _of("source_with_an_open_bracket", "def entry(given):\n    return 0\n\nignored = (", bare="harmless"),
    _of(
        "source_with_a_line_continuation", "def entry(given):\n    return 0\n\nif 0: pass\\", bare="harmless"
    ),
    _of("source_with_a_nul", "def entry(given):\n    return 0\n\0\n", bare="harmless"),
    _of("source_with_surrogates", "def entry(given):\n    return '\ud800\udfff'\n", bare="harmless"),
    _of(
        "source_with_a_coding_line",
        "# -*- coding: utf-7 -*-\ndef entry(given):\n    return 0\n",
        bare="harmless",
    ),
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
    _of(
        "prompt_helper_redefined_after_an_unfinished_prompt",
        """
        def scale(value):
            return value * 1000 + 7

        def entry(given):
            if given:
                return given

        def scale(value):
            return value
        """,
        check="""
def check(candidate):
    assert candidate(3) == scale(3)
    assert candidate(5) == scale(5)
""",
        helpers="def scale(value):\n    return value * 1000 + 7\n\ndef entry(given):\n    if given:\n",
        bare="harmless",
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
        (
            "too_deep_an_answer",
            "__import__('functools').reduce(lambda a, _: [a], range(5000), [])",
            "Exception",
        ),
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


PROGRAMS = (*VALUES, *SOURCES, *EXPECTED)
