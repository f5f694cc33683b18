"""The footprint observer: bytes of files and tensors, without loading a model."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.footprint import FOOTPRINT
from pytest_quantgate.spec import ModelSpec, Observation, Recipe

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I8": 1}


class Unloaded:
    """A subject whose model must not be asked for."""

    def __init__(self, path: Path) -> None:
        self.spec = ModelSpec("v", "v", "sha256:0", path=str(path))

    @property
    def model(self) -> Any:
        raise AssertionError("the footprint loads no model")


def write(folder: Path, tensors: dict[str, tuple[str, list[int]]], **config: Any) -> Path:
    """Write a checkpoint of zeros."""
    folder.mkdir()
    header, data = {}, b""
    for name, (kind, shape) in tensors.items():
        size = SIZES[kind] * shape[0] * shape[1]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(size)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}})
    )
    return folder


def observe(folder: Path) -> Observation:
    """Observe a folder."""
    return FOOTPRINT.observe(Unloaded(folder), FOOTPRINT.protocol({}, {}, folder), None, lambda *_: None)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Observation, Observation]:
    """A baseline of 2048 16-bit parameters, and a variant with half of them in 4 bits and scales."""
    dense = {"model.embed_tokens.weight": ("BF16", [32, 32]), "model.layers.0.q.weight": ("BF16", [32, 32])}
    packed = {
        "model.embed_tokens.weight": ("BF16", [32, 32]),
        "model.layers.0.q.qweight": ("I32", [4, 32]),
        "model.layers.0.q.scales": ("F16", [1, 32]),
    }
    quantization = {"quant_method": "gptq", "bits": 4}
    baseline = write(tmp_path / "base", dense)
    return observe(baseline), observe(write(tmp_path / "v", packed, quantization_config=quantization))


def value(name: str, variant: Observation, baseline: Observation | None, relation: str = "") -> float:
    """Return a metric."""
    return FOOTPRINT.estimate(Metric(name, relation=relation), variant, baseline).value


def test_bits_per_weight_counts_everything(pair: tuple[Observation, Observation]) -> None:
    """Scales and dense layers count, and the baseline's parameters are what they are spread over."""
    baseline, variant = pair
    assert value("bits_per_weight", baseline, baseline) == 16
    assert value("bits_per_weight", variant, baseline) == 8 * (2048 + 512 + 64) / 2048
    with pytest.raises(NotMeasurableError, match="baseline"):
        value("bits_per_weight", variant, None)


def test_memory_and_disk(pair: tuple[Observation, Observation]) -> None:
    """Tensor bytes are those of the headers, the disk holds the headers as well, and relations follow."""
    baseline, variant = pair
    assert value("weights_memory", variant, baseline) == 2624
    assert value("weights_memory", variant, baseline, "ratio") == 2624 / 4096
    assert value("weights_memory", variant, baseline, "drop") == 4096 - 2624
    assert value("disk", variant, None) > 2624


def test_tied_weights_count_once(tmp_path: Path) -> None:
    """A tied head that is stored a second time takes no more memory; an untied one does."""
    both = {"model.embed_tokens.weight": ("F16", [8, 8]), "lm_head.weight": ("F16", [8, 8])}
    tied = observe(write(tmp_path / "tied", both, tie_word_embeddings=True))
    untied = observe(write(tmp_path / "untied", both, tie_word_embeddings=False))
    assert value("weights_memory", tied, None) == 128
    assert value("weights_memory", untied, None) == 256


def test_weights_without_headers(pair: tuple[Observation, Observation]) -> None:
    """Pickled weights have a size on the disk, and no more can be said."""
    facts = {"disk": 10, "weights_memory": 0, "parameters": 0, "tensors": 0}
    assert value("disk", Observation(facts=facts), None) == 10
    with pytest.raises(NotMeasurableError, match="not safetensors"):
        value("weights_memory", Observation(facts=facts), pair[0])


def test_what_is_quantized_as_it_is_loaded_is_counted_in_memory(
    pair: tuple[Observation, Observation], tmp_path: Path
) -> None:
    """The folder of a recipe that makes no checkpoint is the baseline's: its tensors say nothing of the variant."""

    class Loaded(Unloaded):
        model = SimpleNamespace(findings=lambda: {"weight_bytes": 100})

    subject = Loaded(write(tmp_path / "unquantized", {"model.layers.0.linear.weight": ("F16", [8, 32])}))
    subject.spec = replace(subject.spec, recipe=Recipe("bitsandbytes"), dtype="bfloat16")
    found = FOOTPRINT.observe(subject, FOOTPRINT.protocol({}, {}, tmp_path), None, lambda *_: None)
    memory = FOOTPRINT.estimate(Metric("weights_memory"), found, pair[1])
    assert (memory.value, memory.note) == (100, "in memory, what is not quantized as bfloat16")
    assert FOOTPRINT.estimate(Metric("bits_per_weight"), found, found).value == 8 * 100 / 256
    assert FOOTPRINT.estimate(Metric("disk"), found, pair[1]).value > 512
