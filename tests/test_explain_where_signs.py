"""What rows of the table of weights mean: each mistake by its sign, and none where weights are as usual."""

from __future__ import annotations

import pytest

from pytest_quantgate.explain.where_signs import signs


def row(name="model.layers.0.mlp.up_proj", **fields):
    usual = {
        "name": name, "bits": 4, "inputs": 128, "outputs": 128, "sqnr": 18.0, "cosine": 0.99, "kernel": 74.0,
        "rounding": 20.0, "shift": 0.0, "shifted": 18.0, "dead": 0.0, "regrouped": 18.2, "moved": 0.0, "twin": None, "twin_cosine": None,
    }  # fmt: skip
    return {**usual, **fields}


def many(count=8, **fields):
    return [row(f"model.layers.{number}.mlp.up_proj", **fields) for number in range(count)]


BAD = {"sqnr": -1.0, "cosine": 0.1}


@pytest.mark.parametrize(
    ("rows", "cause", "words"),
    [
        (
            [*many(7), row("model.layers.7.mlp.up_proj", **BAD)],
            "ruined_layer",
            "layer 7 mlp.up_proj holds weights",
        ),
        ([*many(7), row(**BAD, dead=1.0)], "ruined_layer", "its scales are 0"),
        (many(**BAD), "other_weights", "not this baseline's"),
        (many(sqnr=12.0), "other_weights", "not this baseline's"),
        (many(sqnr=8.0, rounding=None), "other_weights", "not this baseline's"),
        ([*many(7), row(**BAD, shift=7.8, shifted=2.0)], "ruined_layer", "layer 0 mlp.up_proj holds weights"),
        (many(sqnr=6.0, shift=-1.0), "zero_points", "1.0 steps too low"),
        (many(sqnr=5.0, regrouped=18.0, moved=0.6), "group_order", "every module are in the wrong groups"),
        (many(kernel=12.0), "engine", "in 8 of 8 modules"),
        (many(bits=0, sqnr=200.0), "not_quantized", "holds the baseline's own weights"),
        (many(bits=0, sqnr=18.0), "not_quantized", "all 8 linear modules are dense"),
        (many(sqnr=200.0), "not_quantized", "to the last digit"),
    ],
)
def test_each_mistake_leaves_its_sign(rows, cause, words):
    found = signs("v", rows)
    assert [finding.cause for finding in found] == [cause]
    assert words in found[0].text
    assert found[0].evidence
    assert found[0].advice


@pytest.mark.parametrize(
    "rows",
    [
        [], many(), many(bits=8, sqnr=42.0), many(bits=3, sqnr=9.0, rounding=11.0), many(bits=2, sqnr=2.0, rounding=5.0),
        [*many(), row("lm_head", bits=0, sqnr=200.0)], many(kernel=None, rounding=None, shift=None, shifted=None, regrouped=None, moved=None),
        [*many(7), row(sqnr=12.5)], many(twin="model.layers.3.mlp.up_proj", twin_cosine=0.1),
    ],
)  # fmt: skip
def test_usual_weights_leave_none(rows):
    """Each format at its usual error, and one module that is somewhat worse, are not accused."""
    assert signs("v", rows) == ()
