"""Honest programs that every box must pass: a box in which nothing runs would contain every hostile program."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True, slots=True)
class Honest:
    """A right function, as a model would write it, with its check."""

    name: str
    source: str
    check: str


def _of(name: str, source: str, *asserts: str) -> Honest:
    lines = [line for text in asserts for line in dedent(text).strip().splitlines()]
    body = "".join(f"    {line}\n" for line in lines)
    return Honest(name, dedent(source).strip() + "\n", f"def check(candidate):\n{body}")


NUMBERS = (
    _of(
        "plain",
        "def entry(a, b=2):\n    return a + b",
        "assert candidate(1) == 3",
        "assert candidate(1, b=4) == 5",
    ),
    _of(
        "factorial",
        "def entry(n):\n    return 1 if n < 2 else n * entry(n - 1)",
        "assert candidate(20) == 2432902008176640000",
    ),
    _of(
        "memoized_recursion",
        """
        from functools import lru_cache

        @lru_cache(maxsize=None)
        def entry(n):
            return n if n < 2 else entry(n - 1) + entry(n - 2)
        """,
        "assert candidate(90) == 2880067194370816120",
    ),
    _of(
        "big_ints",
        "def entry(n):\n    return 3 ** n",
        "assert candidate(5000) == 3 ** 5000",
        "assert candidate(0) == 1",
    ),
    _of("very_big_int", "def entry(n):\n    return 10 ** n", "assert candidate(20_000) == 10 ** 20_000"),
    _of(
        "float_tolerance",
        "import math\n\ndef entry(x):\n    return math.sqrt(x) / 3",
        "assert abs(candidate(2) - 0.4714045207910317) < 1e-6",
        "import math",
        "assert math.isclose(candidate(9.0), 1.0)",
    ),
    _of(
        "floats_exact",
        "def entry(values):\n    return [value / 3 for value in values] + [float('inf'), -0.0]",
        "assert candidate([1.0, 1e-300, 5e-324]) == [1.0 / 3, 1e-300 / 3, 5e-324 / 3, float('inf'), -0.0]",
        "found = candidate([])",
        "assert str(found[1]) == '-0.0'",
    ),
    _of("nan_answer", "def entry():\n    return float('nan')", "assert candidate() != candidate()"),
    _of(
        "decimal_and_fractions",
        """
        from decimal import Decimal, getcontext
        from fractions import Fraction

        def entry(n):
            getcontext().prec = 30
            return str(Decimal(1) / Decimal(n)), float(Fraction(1, n) + Fraction(1, 3))
        """,
        "assert candidate(7)[0] == '0.142857142857142857142857142857'",
        "assert abs(candidate(3)[1] - 2 / 3) < 1e-12",
    ),
    _of(
        "complex_numbers",
        "import cmath\n\ndef entry(x):\n    return cmath.exp(1j * x)",
        "assert abs(candidate(3.141592653589793) + 1) < 1e-9",
        "assert type(candidate(0)) is complex",
    ),
    _of(
        "statistics",
        "import statistics\n\ndef entry(values):\n    return statistics.median(values), statistics.fmean(values)",
        "assert candidate([3, 1, 2]) == (2, 2.0)",
    ),
    _of(
        "seeded_random",
        "import random\n\ndef entry(seed):\n    return random.Random(seed).randint(0, 10 ** 9)",
        "import random",
        "assert candidate(7) == random.Random(7).randint(0, 10 ** 9)",
    ),
)

STRUCTURES = (
    _of(
        "dataclasses",
        """
        from dataclasses import asdict, dataclass, field

        @dataclass(order=True)
        class Point:
            x: int
            y: int = 0
            tags: list = field(default_factory=list)

        def entry(pairs):
            return [asdict(point) for point in sorted(Point(*pair) for pair in pairs)]
        """,
        "assert candidate([(2, 1), (1, 5)]) == [{'x': 1, 'y': 5, 'tags': []}, {'x': 2, 'y': 1, 'tags': []}]",
    ),
    _of(
        "classes_inside",
        """
        class Stack:
            def __init__(self):
                self._items = []

            def push(self, item):
                self._items.append(item)
                return self

            def __len__(self):
                return len(self._items)

            def __iter__(self):
                return iter(reversed(self._items))

        def entry(items):
            stack = Stack()
            for item in items:
                stack.push(item)
            return list(stack), len(stack)
        """,
        "assert candidate('abc') == (['c', 'b', 'a'], 3)",
    ),
    _of(
        "sorting",
        "def entry(words):\n    return sorted(words, key=lambda word: (-len(word), word))",
        "assert candidate(['b', 'aa', 'a', 'cc']) == ['aa', 'cc', 'a', 'b']",
    ),
    _of(
        "generators_inside",
        """
        from itertools import islice

        def primes():
            found = []
            number = 2
            while True:
                if all(number % prime for prime in found):
                    found.append(number)
                    yield number
                number += 1

        def entry(count):
            return list(islice(primes(), count))
        """,
        "assert candidate(6) == [2, 3, 5, 7, 11, 13]",
    ),
    _of(
        "closures",
        """
        def entry(n):
            total = 0

            def add(value):
                nonlocal total
                total += value
                return total

            return [add(value) for value in range(n)]
        """,
        "assert candidate(5) == [0, 1, 3, 6, 10]",
    ),
    _of(
        "nested_data",
        "def entry(depth):\n    found = []\n    for level in range(depth):\n        found = {'level': level, 'inner': [found, (level, None)]}\n    return found",
        "assert candidate(1) == {'level': 0, 'inner': [[], (0, None)]}",
        "found = candidate(20)",
        "assert found['inner'][0]['level'] == 18",
    ),
    _of(
        "sets_and_tuples",
        "def entry(items):\n    return set(items), frozenset(items), tuple(items), (), {1: (2, 3), (4, 5): None}",
        "assert candidate([1, 2, 2]) == ({1, 2}, frozenset({1, 2}), (1, 2, 2), (), {1: (2, 3), (4, 5): None})",
        "assert type(candidate([1])[1]) is frozenset",
    ),
    _of(
        "none",
        "def entry(value):\n    if value:\n        return value",
        "assert candidate(0) is None",
        "assert candidate(7) == 7",
    ),
    _of(
        "booleans",
        "def entry(value):\n    return value > 0",
        "assert candidate(1) is True",
        "assert candidate(-1) is False",
    ),
    _of(
        "bytes_and_bytearray",
        "def entry(text):\n    return text.encode(), bytearray(text.encode()), bytes(range(256))",
        "assert candidate('\\xe9') == (b'\\xc3\\xa9', bytearray(b'\\xc3\\xa9'), bytes(range(256)))",
        "assert type(candidate('')[1]) is bytearray",
    ),
    _of(
        "matrix",
        "def entry(rows):\n    return [list(column) for column in zip(*rows)]",
        "assert candidate([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]",
        "assert candidate([]) == []",
    ),
    _of(
        "keyword_and_star_arguments",
        "def entry(*items, last=None, **others):\n    return items, last, others",
        "assert candidate(1, 2, last=3, other=[4]) == ((1, 2), 3, {'other': [4]})",
    ),
    _of(
        "arguments_are_not_shared",
        "def entry(items):\n    items.sort()\n    return items[0]",
        "given = [3, 1]",
        "assert candidate(given) == 1",
    ),
    _of(
        "collections_and_heapq",
        """
        import heapq
        from bisect import insort
        from collections import Counter, OrderedDict, defaultdict, deque

        def entry(text):
            groups = defaultdict(list)
            for letter in text:
                groups[letter].append(letter)
            queue = deque(text, maxlen=3)
            ordered = []
            for letter in text:
                insort(ordered, letter)
            return heapq.nlargest(2, Counter(text).values()), dict(groups), list(queue), ordered, list(OrderedDict(a=1))
        """,
        "assert candidate('abca') == ([2, 1], {'a': ['a', 'a'], 'b': ['b'], 'c': ['c']}, ['b', 'c', 'a'], ['a', 'a', 'b', 'c'], ['a'])",
    ),
    _of(
        "subclasses_made_plain",
        "def entry(text):\n    return sorted(dict.fromkeys(text)), {**dict(zip(text, range(9)))}",
        "assert candidate('ba') == (['a', 'b'], {'b': 0, 'a': 1})",
    ),
)

TEXT = (
    _of(
        "unicode",
        "import unicodedata\n\ndef entry(text):\n    return unicodedata.normalize('NFD', text)[::-1].upper()",
        "assert candidate('\\xe9\\u4e2d\\U0001f600') == '\\U0001f600\\u4e2d\\u0301E'",
    ),
    _of(
        "nul_and_surrogates",
        "def entry(text):\n    return text + '\\0\\ud800'",
        "assert candidate('\\x1b\\udfff') == '\\x1b\\udfff\\0\\ud800'",
    ),
    _of(
        "regular_expressions",
        r"""
        import re

        def entry(text):
            return re.findall(r"(?P<word>[a-z]+)(\d*)", text, re.IGNORECASE)
        """,
        "assert candidate('ab1 C23') == [('ab', '1'), ('C', '23')]",
    ),
    _of("large_answer", "def entry(n):\n    return 'ab' * n", "assert candidate(500_000) == 'ab' * 500_000"),
    _of(
        "large_list",
        "def entry(n):\n    return list(range(n))",
        "assert candidate(100_000) == list(range(100_000))",
    ),
    _of(
        "large_argument",
        "def entry(values):\n    return sum(values)",
        "assert candidate(list(range(100_000))) == 4999950000",
    ),
    _of(
        "hashing",
        "import hashlib\n\ndef entry(text):\n    return hashlib.md5(text.encode()).hexdigest()",
        "assert candidate('Hello world') == '3e25960a79dbc69b674cd4ec67a72c62'",
    ),
    _of(
        "json_and_base64",
        "import base64\nimport json\nimport zlib\n\ndef entry(value):\n    return base64.b64encode(zlib.compress(json.dumps(value).encode(), 0)[7:-4]).decode()",
        "assert candidate([1, None]) == 'WzEsIG51bGxd'",
    ),
    _of(
        "dates",
        "import calendar\nfrom datetime import date, datetime, timedelta\n\ndef entry(text):\n    found = datetime.strptime(text, '%Y-%m-%d') + timedelta(days=1)\n    return found.strftime('%d %m %Y'), calendar.isleap(found.year), date(2024, 2, 29).isoformat()",
        "assert candidate('2024-02-28') == ('29 02 2024', True, '2024-02-29')",
    ),
    _of(
        "prints_a_little",
        "import sys\n\ndef entry(n):\n    print('looking at', n)\n    print('more', file=sys.stderr, flush=True)\n    return n",
        "assert candidate(4) == 4",
        "assert candidate(5) == 5",
    ),
    _of(
        "string_io_and_textwrap",
        "import csv, io, string, textwrap\n\ndef entry(rows):\n    into = io.StringIO()\n    csv.writer(into).writerows(rows)\n    return textwrap.fill(into.getvalue(), 5), string.ascii_lowercase[:3]",
        "assert candidate([[1, 2], [3, 4]]) == ('1,2\\n3,4', 'abc')",
    ),
    _of(
        "source_with_a_doc",
        'def entry(text: str) -> str:\n    """ Return \\n the text\n    >>> entry("a")\n    "a"\n    """\n    return text',
        "assert candidate('x') == 'x'",
    ),
    _of(
        "source_ends_in_main",
        "def entry(n):\n    return n + 1\n\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()",
        "assert candidate(1) == 2",
    ),
)

FLOW = (
    _of(
        "raises_what_is_expected",
        "def entry(n):\n    if n < 0:\n        raise ValueError('negative')\n    return n",
        """
        try:
            candidate(-1)
        except ValueError as error:
            assert "negative" in str(error)
        else:
            assert False
        assert candidate(1) == 1
        """,
    ),
    _of(
        "raises_several_kinds",
        "def entry(kind):\n    return {'key': lambda: {}[1], 'zero': lambda: 1 / 0, 'type': lambda: 1 + '', 'index': lambda: [][0]}[kind]()",
        """
        for kind, wanted in (("key", KeyError), ("zero", ZeroDivisionError), ("type", TypeError), ("index", IndexError)):
            try:
                candidate(kind)
            except wanted:
                continue
            assert False, kind
        """,
    ),
    _of(
        "catches_its_own",
        "class Own(Exception):\n    pass\n\ndef entry(n):\n    try:\n        raise Own(n)\n    except Own as error:\n        return error.args[0]\n    finally:\n        n = None",
        "assert candidate(3) == 3",
    ),
    _of(
        "recovers_from_recursion",
        "def deep(n):\n    return deep(n + 1)\n\ndef entry():\n    try:\n        return deep(0)\n    except RecursionError:\n        return 'too deep'",
        "assert candidate() == 'too deep'",
    ),
    _of(
        "refused_file_is_survived",
        "def entry():\n    try:\n        return open('/etc/passwd').read()\n    except OSError:\n        return 'no file'",
        "assert candidate() == 'no file'",
    ),
    _of(
        "many_calls",
        "calls = []\n\ndef entry(n):\n    calls.append(n)\n    return len(calls)",
        "for number in range(500):\n    assert candidate(number) == number + 1",
    ),
    _of(
        "busy_for_a_while",
        "def entry(n):\n    total = 0\n    for number in range(n):\n        total += number * number\n    return total",
        "assert candidate(400_000) == sum(number * number for number in range(400_000))",
    ),
    _of(
        "some_memory",
        "def entry(n):\n    return sum(bytearray(b'\\1') * n)",
        "assert candidate(1 << 20) == 1 << 20",
    ),
    _of(
        "helper_of_the_prompt",
        "def poly(values, x):\n    return sum(value * x ** power for power, value in enumerate(values))\n\ndef entry(values):\n    return -values[0] / values[1]",
        "import math",
        "for values in ([1, 2], [5.5, -3]):\n    assert math.fabs(poly(values, candidate(values))) < 1e-9",
    ),
    _of(
        "check_calls_by_name",
        "def entry(n):\n    return n * 2",
        "assert candidate(2) == 4",
        "assert entry(3) == 6",
    ),
    _of(
        "match_statement",
        "def entry(value):\n    match value:\n        case [first, *rest]:\n            return first, rest\n        case {'name': str(name)}:\n            return name\n        case _:\n            return None",
        "assert candidate([1, 2, 3]) == (1, [2, 3])",
        "assert candidate({'name': 'x'}) == 'x'",
        "assert candidate(4) is None",
    ),
    _of(
        "imports_much",
        """
        import abc, argparse, array, ast, asyncio, base64, binascii, bisect, calendar, cmath, codecs, collections.abc
        import colorsys, contextlib, copy, dataclasses, datetime, decimal, difflib, enum, fractions, functools, heapq
        import html, inspect, io, ipaddress, itertools, json, keyword, logging, math, numbers, operator, os, pathlib
        import pprint, queue, random, re, secrets, statistics, string, struct, sys, textwrap, threading, time, types
        import typing, unicodedata, unittest, urllib.parse, uuid, warnings, weakref, zlib
        from typing import Any, Dict, List, Optional, Tuple, Union

        def entry(values: List[int]) -> Optional[int]:
            return functools.reduce(operator.mul, copy.deepcopy(values), 1) if values else None
        """,
        "assert candidate([2, 3, 4]) == 24",
        "assert candidate([]) is None",
    ),
    _of(
        "struct_array_enum_contextlib",
        """
        import array
        import contextlib
        import enum
        import struct

        class Colour(enum.Enum):
            RED = 1

        @contextlib.contextmanager
        def around(log):
            log.append("in")
            yield
            log.append("out")

        def entry(n):
            log = []
            with around(log):
                log.append(Colour(n).name)
            return log, struct.unpack("<H", struct.pack("<h", -n))[0], array.array("i", [n]).tolist()
        """,
        "assert candidate(1) == (['in', 'RED', 'out'], 65535, [1])",
    ),
    _of(
        "time_passes",
        "import time\n\ndef entry():\n    start = time.perf_counter()\n    time.sleep(0.01)\n    return time.perf_counter() > start and time.time() > 1e9",
        "assert candidate() is True",
    ),
)

HONEST: tuple[Honest, ...] = (*NUMBERS, *STRUCTURES, *TEXT, *FLOW)
