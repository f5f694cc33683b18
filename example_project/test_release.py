"""The study in miniature: what must hold before one of the quantized models ships.

Run `pytest --quantgate example_project` from the repository, or `pytest --quantgate` in this folder.
"""

from pytest_quantgate import ppl_delta, quantgate


@quantgate(ppl_delta < 1.0, variants=["gptq-v2", "awq", "gptq-8bit"])
def test_quality(quantized_model):
    """The study's gate, for the variants that are meant to ship."""
