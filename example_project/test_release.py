"""The study in miniature: what must hold before one of the quantized models ships.

Run `pytest --quantgate example_project` from the repository, or `pytest --quantgate` in this folder.
"""

import pytest

from pytest_quantgate import kld, ppl, quantgate, top1_agreement


@quantgate(ppl.ratio < 1.15, kld.mean < 0.15, top1_agreement > 0.85, variants=["gptq-v2", "awq", "gptq-8bit"])
def test_release(quantized_model):
    """The marks are the test: perplexity, divergence and agreement with the full-precision model."""


@quantgate((ppl.ratio < 1.001) & (kld.p99 < 0.01), variants=["gptq-8bit"])
def test_lossless():
    """Eight bits must be as good as sixteen."""


@pytest.mark.xfail(
    strict=True, reason="group_size 128, no desc_act, calibrated on logs: the study's first try"
)
@quantgate("ppl.ratio < 1.15 and kld.mean < 0.15", variants=["gptq-v1"])
def test_first_try():
    """What the default settings cost, kept as a reference: this gate must miss, or the study's story is wrong."""


@quantgate(variants=["gptq-v2"])
def test_finer_groups_help(quantgate):
    """A test body may measure and compare as it likes."""
    assert quantgate.measure(ppl.ratio).value < 1.15
