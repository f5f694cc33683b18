"""Some windows of a corpus: united with others as if they had been one pass, and set beside the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.spec import Observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["aligned", "joined"]


def joined(parts: Sequence[Observation]) -> Observation:
    """Return parts of one pass as one observation, windows in the corpus's order."""
    names = parts[0].arrays
    whole = {name: np.concatenate([part.arrays[name] for part in parts]) for name in names}
    in_order = np.argsort(whole["window"], kind="stable")
    counts = {name: sum(int(str(part.facts[name])) for part in parts) for name in ("tokens", "windows")}
    return Observation({name: array[in_order] for name, array in whole.items()}, {**parts[0].facts, **counts})


def aligned(reference: Observation, part: Observation) -> Observation:
    """Return the reference's rows of the windows that a part holds."""
    rows = np.isin(reference.arrays["window"], np.unique(part.arrays["window"]))
    arrays: dict[str, NDArray[Any]] = {
        name: array[rows] for name, array in reference.arrays.items() if len(array) == len(rows)
    }
    return Observation(arrays, reference.facts)
