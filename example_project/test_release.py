"""The study in miniature: what must hold before one of the quantized models ships.

Run `pytest --quantgate example_project` from the repository, or `pytest --quantgate` in this folder.
"""

import pytest

from pytest_quantgate import kld, metric, ppl, quantgate, top1_agreement, worst_capability

choice, arithmetic, code = metric("choice"), metric("arithmetic"), metric("code")


@quantgate(ppl.ratio < 1.15, kld.mean < 0.15, top1_agreement > 0.85, variants=["gptq-v2", "awq", "gptq-8bit"])
def test_release(quantized_model):
    """The marks are the test: perplexity, divergence and agreement with the full-precision model."""


@quantgate(
    choice.drop < 0.1, arithmetic.recovery > 0.9, code.flips < 0.05, variants=["gptq-v2", "awq", "gptq-8bit"]
)
@quantgate(worst_capability.drop < 0.1, variants=["gptq-v2", "awq", "gptq-8bit"])
def test_capabilities():
    """Facts, sums and programs: the same questions to both models."""


@quantgate((ppl.ratio < 1.001) & (kld.p99 < 0.01), variants=["gptq-8bit"])
def test_lossless():
    """Eight bits must be as good as sixteen."""


@pytest.mark.xfail(
    strict=True, reason="group_size 128, no desc_act, calibrated on logs: the study's first try"
)
@quantgate("ppl.ratio < 1.15 and kld.mean < 0.15", variants=["gptq-v1"])
def test_first_try():
    """What the default settings cost, kept as a reference: this gate must miss, or the study's story is wrong."""


@pytest.mark.xfail(strict=True, reason="a fifth of the programs is lost, though perplexity rose by 0.47 only")
@quantgate(code.drop < 0.1, variants=["gptq-v1"])
def test_first_try_writes_programs():
    """What perplexity does not say."""


@quantgate(variants=["gptq-v2"])
def test_finer_groups_help(quantgate):
    """A test body may measure and compare as it likes."""
    assert quantgate.measure(ppl.ratio).value < 1.15
