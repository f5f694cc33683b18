"""What it costs to know a checkpoint: pre-flight and fingerprint of 1 GiB, for the first time and again.

The file lies in the page cache in all cases, so that the disk is not measured. Again means in a later run: a
new memory of digests is opened on the folder that the first one filled.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from table import Row
from timing import alternate, seconds

from pytest_quantgate.checkpoint import fingerprint, preflight

__all__ = ["measure"]

TENSORS, TENSOR_BYTES = 64, 2**24
CONFIG = {"model_type": "qwen2", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 64}
SETTLED = 3.0  # seconds: a file that changed a moment ago is not remembered


def measure(repetitions: int = 5) -> list[Row]:
    """Return the ratios to plain SHA-256 of the same bytes, and of again to the first time."""
    with tempfile.TemporaryDirectory() as folder:
        model = _write(Path(folder) / "model")
        time.sleep(SETTLED)
        memo = Path(folder) / "memo"
        cold = alternate(lambda: _identify(model, None), lambda: _plain(model), repetitions)
        _identify(model, memo)
        warm = alternate(lambda: _identify(model, memo), lambda: _identify(model, None), repetitions)
    return [
        Row(
            "identity of a checkpoint of 1 GiB, first time, to `hashlib.sha256` of its file",
            seconds(cold.our_median),
            seconds(cold.their_median),
            cold.cost,
            cold.cost_spread,
        ),
        Row(
            "identity of the same checkpoint again, to the first time",
            seconds(warm.our_median),
            seconds(warm.their_median),
            warm.cost,
            warm.cost_spread,
        ),
    ]


def _write(folder: Path) -> Path:
    folder.mkdir()
    names = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(TENSORS)]
    header = json.dumps(
        {
            name: {
                "dtype": "F16",
                "shape": [2048, TENSOR_BYTES // 4096],
                "data_offsets": [number * TENSOR_BYTES, (number + 1) * TENSOR_BYTES],
            }
            for number, name in enumerate(names)
        }
    ).encode()
    content = os.urandom(TENSOR_BYTES)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in names:
            file.write(content)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def _identify(model: Path, memory: Path | None) -> str:
    from pytest_quantgate.digests import DigestMemo  # noqa: PLC0415

    return fingerprint(preflight(model), SimpleNamespace(memo=DigestMemo(memory)))


def _plain(model: Path) -> str:
    with (model / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
