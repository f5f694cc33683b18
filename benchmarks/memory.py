"""Extra memory of scoring at a vocabulary of 151,936 and windows of 2,048, beyond the bare decoder pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from table import Row

__all__ = ["measure"]

MIB = 1024**2
_PEAK = """
import sys; sys.path.insert(0, {here!r})
import networks, numpy as np, torch
from pathlib import Path
from pytest_quantgate.spec import Window
torch.set_num_threads(2)
network = networks.random_qwen2(networks.LARGE)
model = networks.in_memory(network, networks.numbers(networks.LARGE))
ids = np.random.default_rng(0).integers(0, networks.LARGE, 2048)
batch = torch.from_numpy(ids)[None]
def decoder(): network.get_decoder()(batch, use_cache=False)
def logits(): torch.log_softmax(network(batch, use_cache=False).logits.float(), -1)
def score(): list(model.score([Window(ids)], top_k=64))
with torch.inference_mode():
    network.get_decoder()(batch[:, :64]); list(model.score([Window(ids[:64])], top_k=64))
    Path("/proc/self/clear_refs").write_text("5")
    {what}()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measure() -> list[Row]:
    """Return the extra peak of ours, against plain logits and log-softmax; each in a process of its own (Linux)."""
    decoder, plain, ours = (_peak(what) for what in ("decoder", "logits", "score"))
    return [
        Row(
            "memory beyond the decoder pass, vocabulary 151,936, window 2,048, against plain log-softmax of logits",
            f"{(ours - decoder) / MIB:,.0f} MiB",
            f"{(plain - decoder) / MIB:,.0f} MiB",
            (ours - decoder) / (plain - decoder),
            None,
            "at most 256 MiB",
        )
    ]


def _peak(what: str) -> int:
    code = _PEAK.format(here=str(Path(__file__).parent), what=what)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024
