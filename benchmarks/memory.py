"""Peak memory of scoring one window of 2,048 tokens with a vocabulary of 151,936, beyond the decoder's own.

Every case is a fresh process: it loads the same random model, runs the decoder once on a short window (so that
libraries have allocated what they keep), resets the kernel's high-water mark of resident memory (Linux:
/proc/self/clear_refs), does its pass, and reads the mark. What the bare decoder needs is subtracted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table import Row

__all__ = ["measure"]

VOCABULARY, WINDOW, TOP_K = 151_936, 2048, 64
MIB = 2**20
DECODER, PLAIN = "decoder", "plain"
CASES = {"baseline": "baseline pass, top 64", "variant": "variant pass"}


def measure(repetitions: int = 3) -> list[Row]:
    """Return the extra memory of both passes, against plain logits and their log-softmax."""
    if not Path("/proc/self/clear_refs").exists():
        return [Row("memory of scoring", "", "needs Linux")]
    bare = _peak(DECODER, repetitions)
    plain = _peak(PLAIN, repetitions) - bare
    rows = []
    for case, name in CASES.items():
        extra = _peak(case, repetitions) - bare
        rows.append(
            Row(
                f"memory of scoring, {name}, beyond the decoder (vocabulary {VOCABULARY:,}, window {WINDOW:,}),"
                " to `log_softmax` of plain logits",
                f"{extra / MIB:,.0f} MiB",
                f"{plain / MIB:,.0f} MiB",
                extra / plain,
                aim="at most 256 MiB",
            )
        )
    return rows


def _peak(case: str, repetitions: int) -> float:
    command = [sys.executable, __file__, case]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(repetitions)
    ]
    return statistics.median(map(float, found))


def main(case: str) -> None:
    """Print the peak of one case in bytes, counted from before its pass."""
    import networks  # noqa: PLC0415  in the child only: the parent needs no torch
    import torch  # noqa: PLC0415

    network = networks.random_qwen2(VOCABULARY)
    model = networks.in_memory(network, networks.numbers(8))
    ids = torch.randint(0, VOCABULARY, (1, WINDOW))
    work = _pass(case, model, ids)
    with torch.inference_mode():
        network.get_decoder()(ids[:, :64], use_cache=False)
        memory = type(model._memory)(torch.device("cpu"))  # noqa: SLF001  resets the mark
        work()
    print(memory.read()["ram"])


def _pass(case: str, model: Any, ids: Any) -> Callable[[], object]:
    import numpy as np  # noqa: PLC0415

    from pytest_quantgate.interfaces import Window  # noqa: PLC0415

    windows = [Window(ids[0].numpy())]
    at = np.random.default_rng(0).integers(0, VOCABULARY, (WINDOW - 1, TOP_K))
    passes: dict[str, Callable[[], object]] = {
        DECODER: lambda: model.native.get_decoder()(ids, use_cache=False),
        PLAIN: lambda: model.native(ids, use_cache=False).logits.log_softmax(-1),
        "baseline": lambda: list(model.score(windows, top_k=TOP_K)),
        "variant": lambda: list(model.score(windows, at=[at])),
    }
    return passes[case]


if __name__ == "__main__":
    main(sys.argv[1])
