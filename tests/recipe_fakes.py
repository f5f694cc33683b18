"""A quantizer without any library: its checkpoints grow with finer groups, and their damage with coarser ones.

What it does beside that is said by FAKE_QUANTIZER: "fails 16", "broken" (the model then speaks nonsense), "waits" (for
ever, in the middle, after it has written the file that FAKE_WAITS names).
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import fakes

from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import ModelSpec, Recipe

ROWS, WIDTH = 8, 32
WHOLE = -1
BROKEN = "broken.txt"


class Quantizer:
    """What `registry` registers for gptq."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Any) -> None:
        """Write a checkpoint of codes and scales."""
        mode = os.environ.get("FAKE_QUANTIZER", "")
        fakes.log(f"quantize {recipe['group_size']}")
        group = int(recipe["group_size"])
        if mode == f"fails {group}":
            raise CheckpointError(f"no solution for group_size {group}")
        fakes.write_checkpoint(out, bits=8)
        progress(1, 2)
        if mode == "waits":
            Path(os.environ["FAKE_WAITS"]).write_text("half of it is there")
            time.sleep(600)
        groups = 1 if group == WHOLE else WIDTH // group
        codes, scales = ROWS * WIDTH, ROWS * groups * 2
        header = {
            "model.layers.0.linear.weight": checkpoints.tensor("I8", [ROWS, WIDTH], [0, codes]),
            "model.layers.0.linear.scales": checkpoints.tensor(
                "F16", [ROWS, groups], [codes, codes + scales]
            ),
        }
        (out / "model.safetensors").write_bytes(checkpoints.weights(header, bytes(codes + scales)))
        (out / "group.txt").write_text(str(WIDTH if group == WHOLE else group))
        if mode == "broken":
            (out / BROKEN).write_text("")


quantizer = Quantizer()


def load(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> fakes.FakeModel:
    """Load a checkpoint: a backend under the usual name."""
    group = Path(spec.path, "group.txt")
    damage = int(group.read_text()) / 100 if group.exists() else 0.0
    broken = (("nan", True),) if Path(spec.path, BROKEN).exists() else ()
    return fakes.load(replace(spec, options=(*spec.options, ("damage", damage), *broken)))


def registry() -> Registry:
    """Return the open sets with these two in place of the libraries."""
    made = Registry()
    made.add("backends", "transformers", "recipe_fakes:load")
    made.add("quantizers", "gptq", "recipe_fakes:quantizer")
    return made


def write_study(folder: Path) -> Path:
    """Write a baseline, a corpus, calibration data and quantgate.toml into a folder."""
    fakes.write_checkpoint(folder / "base")
    (folder / "corpus.txt").write_text(fakes.corpus())
    (folder / "words.txt").write_text("\n".join(f"the river falls {number} times" for number in range(128)))
    (folder / "quantgate.toml").write_text(
        'baseline = "base"\ndtype = "float32"\ndevice = "cpu"\n'
        '[tokens]\ncorpus = "corpus.txt"\nprotocol = "gptq"\nwindow = 256\n'
        "[generation]\nruns = 3\nwarmup = 0\nnew_tokens = 64\n"
        '[variants.one.quantize]\nmethod = "gptq"\nbits = 8\ngroup_size = 32\ncalibration = "words.txt"\n'
        '[gates]\nclose = "kld.mean < 0.02"\n'
    )
    return folder
