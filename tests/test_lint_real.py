"""Lint on checkpoints that the libraries themselves wrote: nothing but missing papers is found, whatever the format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_models import save, text

from pytest_quantgate.lint import lint

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow
PAPERS = {"QG604", "QG605", "QG414"}
"""The tiny models have no licence, no card and no chat template …"""

HARMLESS = {*PAPERS, "QG704", "QG701", "QG702", "QG409"}
"""… and no fast kernel for 3 bits, or for inputs of 64."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of random weights."""
    return save(tmp_path_factory.mktemp("base"), "qwen2")


def bitsandbytes(**options: object) -> Callable[[Path, Path], None]:
    def make(base: Path, out: Path) -> None:
        pytest.importorskip("bitsandbytes")
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        config = BitsAndBytesConfig(**options)
        AutoModelForCausalLM.from_pretrained(
            base, quantization_config=config, device_map="cpu"
        ).save_pretrained(out)

    return make


def compressed(layout: str, **options: object) -> Callable[[Path, Path], None]:
    def make(base: Path, out: Path) -> None:
        pytest.importorskip("compressed_tensors")
        from compressed_tensors import quantization
        from compressed_tensors.compressors import ModelCompressor
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base)
        scheme = quantization.QuantizationScheme(
            targets=["Linear"], weights=quantization.QuantizationArgs(**options)
        )
        config = quantization.QuantizationConfig(
            config_groups={"group_0": scheme}, ignore=["lm_head"], format=layout
        )
        quantization.apply_quantization_config(model, config)
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                module.weight_scale.data.fill_(0.01)
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(out)
        compressor.update_config(str(out))

    return make


def gptqmodel(**keys: object) -> Callable[[Path, Path], None]:
    def make(base: Path, out: Path) -> None:
        pytest.importorskip("gptqmodel", exc_type=ImportError)
        from pytest_quantgate.quantizers import gptqmodel as library
        from pytest_quantgate.recipe import from_table
        from pytest_quantgate.spec import ModelSpec

        (base.parent / "words.txt").write_text(text(4000))
        settings = {"samples": 8, "max_length": 24, "calibration": "words.txt", "group_size": 32}
        recipe = from_table("v", {**settings, **keys}, base.parent)
        out.mkdir()
        spec = ModelSpec("baseline", base.name, "sha256:0", path=str(base), dtype="bfloat16")
        library.quantizer.quantize(recipe, spec, out, lambda *_: None)

    return make


MADE = {
    "nf4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "fp4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "llm.int8": bitsandbytes(load_in_8bit=True),
    "w4a16": compressed("pack-quantized", num_bits=4, group_size=32, strategy="group", symmetric=True),
    "w4a16 asymmetric": compressed(
        "pack-quantized", num_bits=4, group_size=32, strategy="group", symmetric=False
    ),
    "float8": compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True),
    "gptq": gptqmodel(method="gptq", desc_act=True),
    "gptq 3 bit": gptqmodel(method="gptq", bits=3),
    "awq": gptqmodel(method="awq"),
}


@pytest.mark.parametrize("name", MADE)
def test_what_libraries_write_is_not_accused(base: Path, tmp_path: Path, name: str) -> None:
    """Alone and against the baseline; and every byte of the file is accounted for."""
    out = tmp_path / "out"
    MADE[name](base, out)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if not (out / file).exists():
            (out / file).write_bytes((base / file).read_bytes())
    found = lint(out, base)
    assert {finding.rule for finding in found.findings} <= HARMLESS, [f.line() for f in found.findings]
    assert found.facts.packed == 2 * 7
    with (out / "model.safetensors").open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    assert found.facts.nbytes == (out / "model.safetensors").stat().st_size - 8 - header
