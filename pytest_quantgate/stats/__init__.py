"""Intervals and tests from arrays and an explicit seed: pure functions and frozen values."""

from pytest_quantgate.stats.bootstrap import Bootstrap, item_ratio, quantile, ratio
from pytest_quantgate.stats.family import holm
from pytest_quantgate.stats.inversion import Scaled, Shifted
from pytest_quantgate.stats.largest import Largest
from pytest_quantgate.stats.means import EXP, IDENTITY, SQRT, Link, Mean, Student, clustered_mean
from pytest_quantgate.stats.power import chance_beyond, detectable, settling
from pytest_quantgate.stats.proportions import Paired, Proportion, effective, mcnemar, wilson
from pytest_quantgate.stats.ranks import MedianRatio, Ranks, ranks
from pytest_quantgate.stats.sequences import Items, looks, order, sequence

__all__ = [
    "EXP",
    "IDENTITY",
    "SQRT",
    "Bootstrap",
    "Items",
    "Largest",
    "Link",
    "Mean",
    "MedianRatio",
    "Paired",
    "Proportion",
    "Ranks",
    "Scaled",
    "Shifted",
    "Student",
    "chance_beyond",
    "clustered_mean",
    "detectable",
    "effective",
    "holm",
    "item_ratio",
    "looks",
    "mcnemar",
    "order",
    "quantile",
    "ranks",
    "ratio",
    "sequence",
    "settling",
    "wilson",
]
