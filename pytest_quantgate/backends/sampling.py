"""The next token of each row: the most probable, or one that is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.interfaces import Decoding, Prompt

__all__ = ["chosen", "drawn_for"]


def drawn_for(prompt: Prompt, decoding: Decoding) -> NDArray[np.float64]:
    """Return the random numbers of an answer; none for a greedy one."""
    count = decoding.new_tokens if decoding.temperature else 0
    return np.random.default_rng([decoding.seed, prompt.stream]).random(count)


def chosen(logits: Tensor, drawn: Sequence[float], decoding: Decoding) -> Tensor:
    """Return the next token (B,) of each row of logits (B, vocabulary).

    Args:
        logits: in float32.
        drawn: a random number in [0, 1) for each row; empty for greedy answers.
        decoding: temperature and nucleus.

    Raises:
        ObservationError: a logit is NaN.

    """
    if bool(logits.isnan().any()):
        raise ObservationError("the logits are not finite: look for NaN weights or a dtype that overflows")
    if not decoding.temperature:
        return logits.argmax(-1)
    chances, order = (logits / decoding.temperature).softmax(-1).sort(descending=True)
    before = chances.cumsum(-1) - chances
    chances = chances.masked_fill(before >= decoding.top_p, 0.0).double()
    reached = (chances / chances.sum(-1, keepdim=True)).cumsum(-1)
    at = torch.tensor(drawn, device=logits.device, dtype=torch.double)[:, None]
    place = torch.searchsorted(reached, at).clamp_max(logits.shape[-1] - 1)
    return order.gather(-1, place)[:, 0]
