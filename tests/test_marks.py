"""What marks mean: which gates hold for which variants."""

from __future__ import annotations

import pytest

from pytest_quantgate import kld, ppl_delta, quantgate
from pytest_quantgate.errors import GateError, UnknownNameError, UsageError
from pytest_quantgate.marks import as_gate, demand_of

NAMES = ("gptq-v1", "gptq-v2", "awq")
PPL, KLD = ppl_delta < 1.0, kld.mean < 0.05


def demand(*marks: pytest.MarkDecorator):
    return demand_of(decorator.mark for decorator in marks)


def test_a_mark_without_variants_is_about_all():
    """Without patterns every variant is tested on every gate, given once though it is written twice."""
    asked = demand(quantgate(PPL), quantgate("ppl_delta < 1.0", KLD))
    assert asked.variants(NAMES) == NAMES
    assert [one.gate for one in asked.gates("awq")] == [PPL, KLD]


def test_patterns_belong_to_their_gates():
    """The gates of a narrowed mark hold for its variants; those of another mark for all."""
    asked = demand(quantgate(PPL, variants=["gptq-*"]), quantgate(KLD))
    assert asked.variants(NAMES) == NAMES
    assert [one.gate for one in asked.gates("gptq-v1")] == [PPL, KLD]
    assert [one.gate for one in asked.gates("awq")] == [KLD]


def test_a_mark_without_gates_narrows_the_test():
    """Patterns alone say for which variants the test runs at all."""
    asked = demand(quantgate(PPL), quantgate(variants=["awq", "*-v2"]))
    assert asked.variants(NAMES) == ("gptq-v2", "awq")


def test_a_pattern_that_selects_nothing_is_refused():
    """A misspelt variant would silently test nothing."""
    with pytest.raises(UnknownNameError, match="unknown variant 'gptq-v3'; did you mean"):
        demand(quantgate(PPL, variants=["gptq-v3"])).variants(NAMES)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        (pytest.mark.quantgate(PPL, variant=["awq"]), "no argument 'variant'"),
        (pytest.mark.quantgate(PPL, variants="awq"), "give a list"),
        (pytest.mark.quantgate(PPL, variants=[3]), "give a list"),
        (pytest.mark.quantgate(3), "3 is no gate"),
        (pytest.mark.quantgate(ppl_delta), "ppl.delta has no limit"),
        (pytest.mark.quantgate(PPL, confidence=0), "confidence=0: write a number between 0 and 1"),
        (pytest.mark.quantgate(PPL, confidence=1.5), "between 0 and 1"),
        (pytest.mark.quantgate(PPL, confidence=float("nan")), "between 0 and 1"),
        (pytest.mark.quantgate(PPL, confidence="high"), "between 0 and 1"),
        (pytest.mark.quantgate(PPL, confidence=True), "between 0 and 1"),
        (pytest.mark.quantgate(PPL, stop_early="yes"), "write True or False"),
    ],
)
def test_arguments_that_cannot_be_used(mark, words):
    """Each wrong argument is refused with what to write."""
    with pytest.raises(UsageError, match=words):
        demand(mark)


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_gate(value):
    """`ppl == 1` is decided at once, by Python: it is refused, not taken for a gate that holds."""
    with pytest.raises(GateError, match="only < <= > >= make gates"):
        as_gate(value)


def test_the_decorator_checks_at_once():
    """`quantgate(...)` refuses a wrong argument where it is written."""
    with pytest.raises(GateError):
        quantgate("ppl_delta <")
