"""Hypothesis strategies for every gate that Python can write."""

from __future__ import annotations

import keyword
from dataclasses import replace

from hypothesis import strategies as st

from pytest_quantgate.gate import RELATIONS, Comparison, Gate, Metric
from pytest_quantgate.terms import ALIASES
from pytest_quantgate.units import UNITS, Quantity

FIELDS = ("name", "arguments", "statistic", "relation", "since", "key")

identifiers = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name)
)
finite = st.floats(-1e290, 1e290)
scalars = st.one_of(
    st.booleans(),
    st.integers(1 - 2**63, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text().filter(str.isprintable),
)
quantities = st.builds(Quantity, finite | st.integers(-(10**20), 10**20), st.sampled_from(sorted(UNITS)))
metrics = st.builds(
    Metric,
    identifiers.filter(lambda name: name not in ALIASES and name != "since"),
    st.dictionaries(identifiers | st.just("of"), scalars, max_size=3).map(lambda found: tuple(found.items())),
    st.just("") | identifiers.filter(lambda name: name not in RELATIONS + FIELDS),
    st.just("") | st.sampled_from(RELATIONS),
)
earlier = st.builds(
    lambda metric, relation, run: replace(metric, relation=relation, since=run),
    metrics,
    st.sampled_from(RELATIONS),
    st.text(min_size=1).filter(str.isprintable),
)
comparisons = st.builds(Comparison, metrics | earlier, st.sampled_from(["<", "<=", ">", ">="]), quantities)


def gates(leaves: st.SearchStrategy[Comparison] = comparisons) -> st.SearchStrategy[Gate]:
    """Return gates of up to a dozen of these comparisons, joined in every way."""
    return st.recursive(
        leaves,
        lambda part: st.one_of(
            st.builds(lambda left, right: left & right, part, part),
            st.builds(lambda left, right: left | right, part, part),
            st.builds(lambda inner: ~inner, part),
        ),
        max_leaves=12,
    )
