"""The answer in a text that a model wrote.

strict    what follows `####`, as GSM8K's own answers end; lm-evaluation-harness's filter "strict-match".
flexible  the last number of the text; its filter "flexible-extract".
text      the first line, for answers that are words, compared as SQuAD compares (Rajpurkar et al., 2016): without case,
          punctuation, articles and superfluous blanks.

Numbers are compared as lm-evaluation-harness compares GSM8K's: as texts, without `,`, `$`, a final `.` and case.
"""

from __future__ import annotations

import re
import string

__all__ = ["final", "flexible", "program", "same_number", "same_text", "strict"]

MARK = "####"
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = re.compile(r",|\$|(?s:.*)#### |\.$")
_FENCE = re.compile(r"```[ \t]*(?:[Pp]ython3?|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
_NUMBER = re.compile(r"[-+]?[$]?[0-9][0-9.,]*")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def final(answer: str) -> str:
    """Return what a worked answer comes to: what follows `####`, or all of it."""
    return answer.rpartition(MARK)[2].strip()


def strict(text: str) -> str:
    """Return the number after the first `####`; empty if there is none."""
    found = _STRICT.search(text)
    return found[1] if found else ""


def flexible(text: str) -> str:
    """Return the last number; empty if there is none."""
    found = [next(filter(None, groups)) for groups in _FLEXIBLE.findall(text)]
    return found[-1].strip() if found else ""


def same_number(found: str, expected: str) -> bool:
    """Return whether two numbers are written alike but for separators, currency and a final stop."""
    return bool(found) and _bare(found) == _bare(expected)


def _bare(number: str) -> str:
    return _IGNORED.sub("", number).lower()


def same_text(found: str, expected: str) -> bool:
    """Return whether two short answers are the same words, or the same number; signs alone must be written alike."""
    if _NUMBER.fullmatch(expected.strip()):
        return same_number(found.strip(), expected.strip())
    wanted = _normal(expected)
    if not wanted:
        return found.strip().lower() == expected.strip().lower() != ""
    return _normal(found) == wanted


def _normal(text: str) -> str:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def program(prompt: str, answer: str, entry_point: str) -> str:
    """Return the program that a completion makes with its prompt.

    A code fence is opened; an answer that defines the function itself stands alone, behind the prompt's imports and
    helpers; any other is the body that continues the prompt. A chat model repeats the prompt more often than not.
    """
    fenced = [match[1] for match in _FENCE.finditer(answer)]
    defining = re.compile(rf"^(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)
    for code in (*[part for part in fenced if defining.search(part)], *fenced[:1], answer):
        if defining.search(code):
            return f"{prompt[: _start(prompt, defining)]}\n{code}"
        if code is not answer:
            return prompt + code
    return prompt + answer


def _start(prompt: str, defining: re.Pattern[str]) -> int:
    """Return where the prompt's own function under test begins: what stands before are imports and helpers."""
    found = defining.search(prompt)
    return found.start() if found else 0
