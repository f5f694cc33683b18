"""Answers in texts: hand-labelled cases, and lm-evaluation-harness's own filters on the same texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.tasks.extraction import final, flexible, program, same_number, same_text, strict

# text, what strict reads, what flexible reads
READ = [
    ("She has 3 + 4 = 7 apples.\n#### 7", "7", "7"),
    ("#### 7\nQuestion: what is 8?", "7", "8"),
    ("The answer is 42.", "", "42."),
    ("The answer is $1,234.50", "", "$1,234.50"),
    ("#### -12", "-12", "-12"),
    ("#### 1,000", "1,000", "1,000"),
    ("#### 3.5 litres", "3.5", "3.5"),
    ("####7", "", "7"),
    ("#### $7", "", "$7"),
    ("#### seven", "", ""),
    ("", "", ""),
    ("no number at all", "", ""),
    ("first 5, then 6", "", "6"),
    ("a range 3-4", "", "-4"),
    ("#### 5\n#### 6", "5", "6"),
    ("x = 1/2", "", "2"),
    ("It costs 5 dollars...", "", "..."),
    ("#### 18.", "18.", "18."),
    ("99 % of 200 is 198", "", "198"),
    ("**72**", "", "72"),
    ("\\boxed{15}", "", "15"),
]


@pytest.mark.parametrize(("text", "strictly", "flexibly"), READ)
def test_numbers_are_read_as_labelled(text: str, strictly: str, flexibly: str) -> None:
    """Strict reads what stands after the first mark, flexible what looks like a number last."""
    assert (strict(text), flexible(text)) == (strictly, flexibly)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("7", "7", True), ("1,000", "1000", True), ("$5", "5", True), ("18.", "18", True), ("7.0", "7", False),
        ("", "7", False), ("-7", "7", False), ("70", "7", False), ("$1,234.50", "1234.50", True),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_text(found: str, expected: str, same: bool) -> None:  # noqa: FBT001
    """Separators, currency and a final stop do not matter; everything else does."""
    assert same_number(found, expected) is same


def lm_eval_filters() -> tuple[object, object]:
    """Return the harness's own two filters for GSM8K."""
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    return (
        extraction.RegexFilter(regex_pattern="#### (\\-?[0-9\\.\\,]+)"),
        extraction.RegexFilter(regex_pattern="(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    )


@pytest.mark.parametrize("text", [row[0] for row in READ])
def test_the_harness_reads_the_same(text: str) -> None:
    """Where it finds nothing the harness says [invalid], we say nothing."""
    for ours, theirs in zip((strict, flexible), lm_eval_filters(), strict=True):
        (found,) = theirs.apply([[text]], [{}])  # type: ignore[attr-defined]
        assert ours(text) == found[0].replace("[invalid]", "")


def test_the_harness_compares_the_same() -> None:
    """Its exact_match, with the expressions that it ignores for GSM8K, agrees on every pair of the table."""
    metrics = pytest.importorskip("lm_eval.api.metrics")
    texts = ["7", "1,000", "1000", "$5", "5", "18.", "18", "7.0", "-7", "#### 18", "1234.50", "$1,234.50"]
    for found in texts:
        for expected in texts:
            theirs = metrics.exact_match_hf_evaluate(
                [found], [expected], regexes_to_ignore=[",", "\\$", "(?s).*#### ", "\\.$"], ignore_case=True
            )
            assert same_number(found, expected) == bool(theirs["exact_match"]), (found, expected)


def test_what_a_worked_answer_comes_to() -> None:
    """The last mark counts; without one it is all of it."""
    assert final("3 + 4 = 7\n#### 7") == "7"
    assert final(" Paris ") == "Paris"


def test_short_answers_are_compared_as_words() -> None:
    """Case, articles, punctuation and blanks do not matter; no words are equal to nothing."""
    assert same_text("The  Eiffel-Tower!", "eiffeltower")
    assert not same_text("Paris", "London")
    assert not same_text("", "")
    assert not same_text("the", "a")
    assert same_text(" a ", "A")
    assert same_text("+", "+")
    assert not same_text("5", "-5")
    assert not same_text("35", "3.5")
    assert same_text("1,000", "1000")


# --- programs

PROMPT = 'import math\n\n\ndef helper(x):\n    return x\n\n\ndef area(r):\n    """Return the area."""\n'
WHOLE = "def area(r):\n    return math.pi * helper(r) ** 2\n"


@pytest.mark.parametrize(
    "answer",
    [
        "    return math.pi * helper(r) ** 2\n",
        WHOLE,
        f"```python\n{WHOLE}```",
        f"Here it is:\n\n```python\n{WHOLE}```\nIt uses pi.",
        f"```\n{WHOLE}```",
        f"```py\n{WHOLE}",
        PROMPT + "    return math.pi * helper(r) ** 2\n",
        f"First a try:\n```python\nprint(1)\n```\nNow:\n```python\nimport math\n{WHOLE}```",
        "```python\n    return math.pi * helper(r) ** 2\n```",
    ],
)
def test_an_answer_makes_the_program_it_means(answer: str) -> None:
    """Bodies, whole functions, fences and echoes of the prompt all run."""
    scope: dict[str, object] = {}
    exec(program(PROMPT, answer, "area"), scope)
    assert scope["area"](1.0) == pytest.approx(3.14159, abs=1e-4)  # type: ignore[operator]


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    """No text breaks the readers, and what strict reads looks like a number."""
    assert re.fullmatch(r"|-?[0-9.,]+", strict(text))
    flexible(text)
    assert program("def f():\n", text, "f").strip() or not text
