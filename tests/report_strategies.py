"""Hypothesis strategies for reports, with the worst text that a name or a reason can hold."""

from __future__ import annotations

import gate_strategies as gs
from hypothesis import settings
from hypothesis import strategies as st

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.gate import And, Comparison, Metric
from pytest_quantgate.report import (
    Answers,
    Capability,
    Change,
    Finding,
    Problem,
    Report,
    Result,
    Row,
    StepRecord,
)
from pytest_quantgate.spec import Estimate
from pytest_quantgate.verdict import judge

unhurried = settings(deadline=None, max_examples=60)
"""Whole reports are large, and shared machines pause."""

HOSTILE = [
    "::error file=a::boo",
    "  ::error::boo",
    "a\n::error::boo",
    "##[error]boo",
    "##vso[task.complete]",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u202egpj.exe",
    "a|b`c<script>alert(1)</script>",
    "[x](https://example.org) ![x](y) www.example.org @someone",
    "\r\n\t\v\f\x85\u2028\u2029",
    "\ud800",
    "-----",
    "</details>",
    "\\",
    "*_~#>&amp;",
    "",
]
words = st.sampled_from(HOSTILE) | st.text(max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
units = st.sampled_from(["", "B", "s", "tok/s", "nat"]) | words
printable = words.filter(str.isprintable)
counts = st.integers(0, 10**9)


@st.composite
def estimates(draw):
    """Return a figure as reports hold it: finite, with both ends of its interval or none."""
    low, high = draw(st.tuples(numbers, numbers) | st.just((None, None)))
    return Estimate(
        draw(numbers), draw(units), draw(counts), low, high, draw(words), draw(words),
        confidence=draw(st.floats(0.5, 0.999)), unpaired=draw(st.none() | st.tuples(numbers, numbers)),
        clusters=draw(counts), exact=draw(st.booleans()), partial=draw(words),
    )  # fmt: skip


comparisons = st.builds(
    Comparison,
    st.builds(Metric, gs.identifiers, st.just(()) | st.tuples(st.tuples(st.just("of"), printable))),
    st.sampled_from(["<", "<=", ">", ">="]),
    gs.quantities,
)
found = estimates() | words.map(NotMeasurableError) | words.map(ObservationError)


@st.composite
def verdicts(draw):
    """Return the verdict of a conjunction on any findings."""
    parts = draw(st.lists(comparisons, min_size=1, max_size=3))
    gate = And(tuple(parts)) if len(parts) > 1 else parts[0]
    return judge(gate, lambda _: draw(found))


outcomes = st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE", "UNMEASURED", "ERROR"])
columns = ["bits_per_weight", "disk", "vram", "ram", "weights_memory", "tokens_per_second", "ttft"]
metrics = st.sampled_from([*columns, "ppl", "ppl(protocol='gptq')", "ppl.delta", "kld.mean"]) | words
recipes = st.none() | st.fixed_dictionaries(
    {
        "method": words,
        "parameters": st.dictionaries(words, words | st.integers() | st.booleans(), max_size=3),
        "calibration": words,
        "calibration_digest": words,
    }
)
rows = st.builds(
    Row,
    name=words,
    source=words,
    weights=words,
    dtype=words,
    engine=st.dictionaries(words, words, max_size=2),
    recipe=recipes,
    figures=st.dictionaries(metrics, estimates(), max_size=5),
    status=st.sampled_from(["ERROR", "FAIL", "INCONCLUSIVE", "XFAIL", "UNMEASURED", "PARTIAL", "PASS", ""]),
    problems=st.lists(st.builds(Problem, words, st.lists(words, max_size=2).map(tuple)), max_size=2).map(
        tuple
    ),
    steps=st.dictionaries(words, st.lists(words, max_size=2).map(tuple), max_size=2),
)
results = st.builds(
    Result, words, words, outcomes, st.lists(verdicts(), max_size=1).map(tuple), st.booleans(), words
)
steps = st.builds(StepRecord, words, words, st.sampled_from(["store", "measured"]), st.floats(0, 1e6))
flipped = st.none() | st.integers(0, 1000)
capabilities = st.builds(
    Capability, words, words, words, estimates(), estimates(), estimates(), lost=flipped, won=flipped
)


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    count = draw(st.integers(0, 3))
    column = st.lists(words, min_size=count, max_size=count).map(tuple)
    correct = st.lists(st.floats(0, 1), min_size=count, max_size=count).map(tuple)
    questions = st.dictionaries(words, words, max_size=2)
    return Answers(
        draw(words), draw(words), draw(column), draw(column), draw(correct), draw(column), draw(questions)
    )


findings = st.builds(
    Finding,
    words,
    st.sampled_from(["recipe", "range", "where", "what", "trouble"]),
    words,
    words,
    words,
    st.floats(0, 1),
    words,
)

reports = st.builds(
    Report,
    created=words,
    environment=st.dictionaries(words, words | st.integers() | st.lists(words, max_size=2), max_size=3),
    baseline=st.none() | rows,
    variants=st.lists(rows, max_size=3).map(tuple),
    results=st.lists(results, max_size=2).map(tuple),
    steps=st.lists(steps, max_size=3).map(tuple),
    protocols=st.lists(st.builds(lambda kind: {"kind": kind, "window": 2048}, words), max_size=2).map(tuple),
    notes=st.lists(words, max_size=2).map(tuple),
    run=words,
    tag=words,
    changes=st.lists(
        st.builds(Change, words, words, words, st.none() | estimates(), words), max_size=2, unique=True
    ).map(tuple),
    capabilities=st.lists(capabilities, max_size=2, unique_by=lambda one: one.metric).map(tuple),
    findings=st.lists(findings, max_size=2, unique_by=lambda one: one.variant).map(tuple),
    answers=st.lists(answers(), max_size=2, unique_by=lambda one: one.metric).map(tuple),
)
