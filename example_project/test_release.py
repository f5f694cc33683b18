"""The study in miniature: what must hold before one of the quantized models ships.

Run `pytest --quantgate example_project` from the repository, or `pytest --quantgate` in this folder.
"""

import pytest

from pytest_quantgate import MiB, bits_per_weight, kld, ppl, ppl_delta, quantgate, ram, top1_agreement, ttft


@quantgate(ppl_delta < 1.0, variants=["gptq-v2", "awq", "gptq-8bit"])
def test_quality(quantized_model):
    """The study's gate, for the variants that are meant to ship."""
