"""The gate algebra: what makes a gate, what is refused with advice, and the laws of the joined forms."""

from __future__ import annotations

import copy
import math
import pickle
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gate_strategies import comparisons, gates, metrics
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate import terms, units
from pytest_quantgate.errors import GateError
from pytest_quantgate.gate import And, Comparison, Gate, Metric, Not, Or, refine
from pytest_quantgate.terms import kld, metric, ppl, ppl_delta, ttft, vram
from pytest_quantgate.units import GiB, Quantity, ms, percent

if TYPE_CHECKING:
    from collections.abc import Callable

A, B, C = Metric("a") < 1, Metric("b") < 2, Metric("c") < 3

# few metrics, so that parts of one gate share comparisons
small_gates = gates(st.sampled_from([A, B, C]))
truths = st.fixed_dictionaries({gate: st.sampled_from([True, False, None]) for gate in (A, B, C)})


@pytest.mark.parametrize(
    ("gate", "text", "python"),
    [
        (ppl_delta < 1.0, "ppl.delta < 1", "ppl.delta < 1.0"),
        (ppl.delta <= 1, "ppl.delta <= 1", "ppl.delta <= 1.0"),
        (1.0 > ppl.delta, "ppl.delta < 1", "ppl.delta < 1.0"),  # noqa: SIM300 (reflection is tested)
        (1 <= ppl.delta, "ppl.delta >= 1", "ppl.delta >= 1.0"),  # noqa: SIM300
        (2 * GiB > vram, "vram < 2GiB", "vram < 2 * GiB"),
        (vram.reserved < 2 * GiB, "vram.reserved < 2GiB", "vram.reserved < 2 * GiB"),
        (kld.p99.ratio > 5 * percent, "kld.p99.ratio > 5%", "kld.p99.ratio > 5 * percent"),
        (ppl.log_ratio < 0.1, "ppl.log_ratio < 0.1", "ppl.log_ratio < 0.1"),
        (
            ppl(window=2048, protocol="gptq").delta < 1,
            "ppl(protocol='gptq', window=2048).delta < 1",
            "ppl(protocol='gptq', window=2048).delta < 1.0",
        ),
        (
            metric("mmlu")("stem", shots=5).drop < 0.05,
            "mmlu('stem', shots=5).drop < 0.05",
            "mmlu('stem', shots=5).drop < 0.05",
        ),
        (A & B, "a < 1 and b < 2", "(a < 1.0) & (b < 2.0)"),
        (A & B & C, "a < 1 and b < 2 and c < 3", "(a < 1.0) & (b < 2.0) & (c < 3.0)"),
        (A | B & C, "a < 1 or b < 2 and c < 3", "(a < 1.0) | (b < 2.0) & (c < 3.0)"),
        ((A | B) & C, "(a < 1 or b < 2) and c < 3", "((a < 1.0) | (b < 2.0)) & (c < 3.0)"),
        (~A, "not a < 1", "~(a < 1.0)"),
        (~~A, "not not a < 1", "~~(a < 1.0)"),
        (~A & B, "not a < 1 and b < 2", "~(a < 1.0) & (b < 2.0)"),
        (~(A & B), "not (a < 1 and b < 2)", "~((a < 1.0) & (b < 2.0))"),
        (~(A | B) | C, "not (a < 1 or b < 2) or c < 3", "~((a < 1.0) | (b < 2.0)) | (c < 3.0)"),
    ],
)
def test_forms(gate: Gate, text: str, python: str) -> None:
    """Each node is written as text and as Python with no more parentheses than either language needs."""
    assert (text, python) == (str(gate), repr(gate))


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (lambda: A and B, "join gates with & | ~"),
        (lambda: A or B, "stack decorators"),
        (lambda: not A, "join gates with & | ~"),
        (lambda: 0 < ppl.delta < 1, "instead of 0 < m < 1 write (m > 0) & (m < 1)"),
        (lambda: ppl < 1.0 & kld < 2, "put parentheses around each comparison"),
        (lambda: ppl < 1.0 | kld < 2, "put parentheses around each comparison"),
        (lambda: ppl < GiB & kld < 2, "put parentheses around each comparison"),
        (lambda: (ppl < 1) & kld < 2, "put parentheses around each comparison"),
        (lambda: ppl < 1 & (kld < 2), "put parentheses around each comparison"),
        (lambda: ppl < 1 | (kld < 2), "put parentheses around each comparison"),
        (lambda: ppl < GiB & 2 > kld, "put parentheses around each comparison"),
        (lambda: ppl & kld, "put parentheses around each comparison"),
        (lambda: A & (ppl == 1), "only < <= > >= make gates"),
        (lambda: A | (ppl != 1), "only < <= > >= make gates"),
        (lambda: ~ppl, "a metric is not a gate; compare it with a limit: ppl < 1.0"),
        (lambda: bool(ppl), "a metric is not a gate"),
        (lambda: ppl and kld, "a metric is not a gate"),
        (lambda: ppl < True, "True is no limit"),
        (lambda: ppl < "1", "'1' is no limit: write a number, or a quantity such as 2 * GiB"),
        (lambda: ppl < None, "None is no limit"),
        (lambda: ppl < math.nan, "nan is no limit: write a finite number"),  # noqa: PLW0177 (no comparison)
        (lambda: ppl < math.inf, "inf is no limit"),
        (lambda: ppl < 10**400, "too large"),
        (lambda: ppl < kld, "kld is a metric, and no limit (.delta and .ratio compare with the baseline)"),
        (lambda: ppl < A, "is no limit"),
        (lambda: ppl.delta.ratio, "ppl.delta.ratio: write one statistic and then one relation at most"),
        (lambda: kld.mean.p99, "kld.mean.p99: write one statistic and then one relation at most"),
        (lambda: kld.delta.p99, "kld.delta.p99: write one statistic and then one relation at most"),
        (lambda: ppl.delta(window=1), "right after the name: ppl(...), not ppl.delta(...)"),
        (lambda: ppl(window=1)(window=2), "right after the name"),
        (lambda: ppl(1, 2), "takes one positional argument"),
        (lambda: ppl(1, of=2), "takes one positional argument"),
        (lambda: ppl(window=None), "window=None: an argument is printable text"),
        (lambda: ppl(window=math.nan), "an argument is printable text"),
        (lambda: ppl(window=2**63), "an argument is printable text"),
        (lambda: ppl(corpus="a\0b"), "an argument is printable text"),
        (lambda: ppl(corpus="a\nb"), "an argument is printable text"),
        (lambda: ppl(**{"a b": 1}), "'a b' is no argument name"),
        (lambda: ppl(_x=1), "'_x' is no argument name"),
        (lambda: And((A,)), "And joins two gates or more, not 1"),
        (lambda: Or(()), "Or joins two gates or more, not 0"),
    ],
)
def test_mistakes(wrong: Callable[[], object], advice: str) -> None:
    """What is no gate raises at once, in one line that says what to write."""
    with pytest.raises(GateError) as caught:
        wrong()
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stranger", ["ppl < 1", None, [], object()])
def test_strangers(stranger: object) -> None:
    """Gates join with gates only; for anything else Python asks the other side and then refuses."""
    for join in (lambda: A & stranger, lambda: stranger | A):
        with pytest.raises(TypeError, match="unsupported operand"):
            join()


@pytest.mark.parametrize("name", ["", "_ppl", "9ppl", "a b", "a.b", "and", "not", "lambda", "pplé", "ppl\n"])
def test_metric_names(name: str) -> None:
    """A name that text could not carry is refused."""
    with pytest.raises(GateError, match="is no metric name"):
        metric(name)


@pytest.mark.parametrize("name", ["name", "arguments", "statistic", "relation", "key", "__len__"])
def test_field_names_are_no_statistics(name: str) -> None:
    """What is a field in Python is no statistic in text either."""
    with pytest.raises(GateError, match="is no statistic name"):
        refine(ppl, name)


def test_fields_are_checked() -> None:
    """No two metrics share a text by putting a word into the other's field."""
    for wrong in ({"statistic": "delta"}, {"relation": "p99"}, {"statistic": "key"}, {"statistic": "a b"}):
        with pytest.raises(GateError):
            Metric("ppl", **wrong)


def test_private_names_are_absent() -> None:
    """Names that begin with _ belong to Python's protocols: a metric has none that it does not define."""
    for name in ("__len__", "_private", "__wrapped__", "__array__", "_pytestfixturefunction"):
        assert not hasattr(ppl, name)


def test_alias() -> None:
    """`ppl_delta` is `ppl.delta`, also by name."""
    assert ppl_delta == ppl.delta == metric("ppl_delta")


def test_terms_carry_their_own_names() -> None:
    """Each exported word is bound to the metric of that name."""
    words = set(terms.__all__) - {"ALIASES", "metric", "ppl_delta", "since"}
    assert {word: word for word in words} == {word: getattr(terms, word).key for word in words}


def test_numpy_scalars_compare() -> None:
    """A numpy float is a float on either side; it neither turns the metric into an array nor enters the text."""
    assert (np.float64(1) > ppl) == (ppl < np.float64(1)) == (ppl < 1)
    assert ppl(x=np.float64(1)).key == "ppl(x=1.0)"
    with pytest.raises(GateError, match="is no limit"):
        np.array([1.0, 2.0]) > ppl  # noqa: B015 (it raises)


def test_enum_arguments_are_plain_text() -> None:
    """A string enum is stored as its text."""
    kind = Enum("kind", {"GPTQ": "gptq"}, type=str)
    assert ppl(protocol=kind.GPTQ).key == "ppl(protocol='gptq')"


def test_arguments_are_told_apart_by_type() -> None:
    """1, 1.0 and True are equal in Python and three different settings; the order of arguments is none."""
    assert len({ppl(x=1), ppl(x=1.0), ppl(x=True)}) == 3
    assert ppl(x=-0.0) == ppl(x=0.0)
    assert ppl(a=1, b=2) == ppl(b=2, a=1) == Metric("ppl", (("b", 2), ("a", 1)))
    assert ppl() == ppl != ppl.delta


def test_frozen() -> None:
    """No node can be changed, and none has room for more attributes."""
    for value, name in ((ppl, "name"), (A, "limit"), (A & B, "parts"), (~A, "part"), (A | B, "new")):
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, None)


def test_flattening() -> None:
    """Nested junctions of one kind are one junction, however they are built."""
    assert (A & B) & C == A & (B & C) == And((A, B, C)) == And((And((A, B)), C))
    assert (A | B) | C == A | (B | C) == Or((A, B, C))
    assert (A & B) != (A | B)
    assert (A & B) != (B & A)


def test_metrics_and_comparisons() -> None:
    """Both list each of theirs once, in the order of writing."""
    gate = (ttft < 70 * ms) & ~(ppl < 2) | (ppl > 1) & (ttft < 70 * ms)
    assert gate.metrics() == (ttft, ppl)
    assert gate.comparisons() == (ttft < 70 * ms, ppl < 2, ppl > 1)


@pytest.mark.parametrize(
    ("gate", "values", "expected"),
    [
        (A, [True], True), (A, [None], None), (~A, [True], False), (~A, [None], None),
        (A & B, [True, True], True), (A & B, [True, None], None), (A & B, [None, False], False),
        (A | B, [False, False], False), (A | B, [False, None], None), (A | B, [None, True], True),
    ],
)  # fmt: skip
def test_evaluate(gate: Gate, values: list[bool | None], expected: bool | None) -> None:  # noqa: FBT001
    """Unknown comparisons stay unknown unless the known ones settle the gate (Kleene)."""
    assert gate.evaluate(dict(zip((A, B), values, strict=False)).__getitem__) is expected


@given(small_gates, small_gates, truths)
def test_de_morgan(left: Gate, right: Gate, truth: dict[Gate, bool | None]) -> None:
    """not (a and b) is (not a) or (not b), and the other way round, also where parts are unknown."""
    lookup = truth.__getitem__
    assert (~(left & right)).evaluate(lookup) is (~left | ~right).evaluate(lookup)
    assert (~(left | right)).evaluate(lookup) is (~left & ~right).evaluate(lookup)
    assert (~~left).evaluate(lookup) is left.evaluate(lookup)


@given(small_gates, small_gates, truths)
def test_more_demands_never_help(gate: Gate, more: Gate, truth: dict[Gate, bool | None]) -> None:
    """Adding `& more` only lowers False < None < True, adding `| more` only raises it."""
    rank = {False: 0, None: 1, True: 2}
    results = [rank[each.evaluate(truth.__getitem__)] for each in (gate & more, gate, gate | more)]
    assert results == sorted(results)


@given(small_gates, truths)
def test_knowledge_is_never_taken_back(gate: Gate, truth: dict[Gate, bool | None]) -> None:
    """A result that holds while some comparisons are unknown holds whatever they turn out to be."""
    early = gate.evaluate(truth.__getitem__)
    for guess in (True, False):
        late = gate.evaluate(lambda leaf, guess=guess: guess if truth[leaf] is None else truth[leaf])
        assert late is not None
        assert early in (None, late)


@given(small_gates, small_gates)
def test_text_decides_equality(left: Gate, right: Gate) -> None:
    """Two gates are equal exactly if their texts are, and then their hashes are."""
    assert (left == right) is (str(left) == str(right))
    assert left != right or hash(left) == hash(right)


@given(gates())
def test_repr_is_source(gate: Gate) -> None:
    """The Python form, pasted where its words are bound, is the gate again."""
    names = {name: getattr(units, name) for name in units.__all__}
    used = {found.name for found in gate.metrics()}
    scope = names | {name: Metric(name) for name in used} | {"since": terms.since}
    clash = used & {name for name in names if f" * {name}" in repr(gate)}
    assert clash or eval(repr(gate), {}, scope) == gate


@given(gates())
def test_copies(gate: Gate) -> None:
    """Pickle, copy and deepcopy give an equal gate with the same text, for every protocol."""
    twins = [pickle.loads(pickle.dumps(gate, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*twins, copy.copy(gate), copy.deepcopy(gate)):
        assert (gate, hash(gate), str(gate)) == (twin, hash(twin), str(twin))


@given(metrics, st.sampled_from(["<", "<=", ">", ">="]), st.floats(allow_nan=False, allow_infinity=False))
def test_reflection(measured: Metric, operator: str, number: float) -> None:
    """`number > metric` is `metric < number`."""
    mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
    scope = {"m": measured, "x": number}
    expected = Comparison(measured, operator, Quantity(number))
    assert eval(f"m {operator} x", scope) == eval(f"x {mirrored} m", scope) == expected


@given(comparisons)
def test_comparison_is_its_own_only_part(comparison: Comparison) -> None:
    """A comparison lists itself, and its negation lists it too."""
    assert comparison.comparisons() == Not(comparison).comparisons() == (comparison,)
    assert comparison.metrics() == (comparison.metric,)
