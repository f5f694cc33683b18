"""Quantized checkpoints of the example's model as libraries save them themselves, for the matrix of formats."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from networks import EXAMPLE

__all__ = ["SAVED"]

BASELINE = EXAMPLE / "model"
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def _by_transformers(config: Callable[[], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            BASELINE, dtype=torch.float32, quantization_config=config(), device_map="cpu"
        )
        model.save_pretrained(
            folder
        )  # before any pass: bitsandbytes corrupts nf4 without double_quant otherwise
        _accompany(folder)

    return make


def _accompany(folder: Path) -> None:
    for name in COMPANIONS:
        shutil.copyfile(BASELINE / name, folder / name)


def _bitsandbytes(**settings: Any) -> Callable[[Path], None]:
    return _by_transformers(lambda: transformers.BitsAndBytesConfig(**settings))


def _torchao(name: str) -> Callable[[Path], None]:
    def config() -> Any:
        library = importlib.import_module("torchao.quantization")
        given = (
            {"weight_dtype": torch.int4, "granularity": library.PerGroup(32)}
            if name.startswith("Intx")
            else {}
        )
        return transformers.TorchAoConfig(getattr(library, name)(**given))

    return _by_transformers(config)


def _quanto(folder: Path) -> None:
    library: Any = importlib.import_module("optimum.quanto")
    model = transformers.AutoModelForCausalLM.from_pretrained(BASELINE, dtype=torch.float32)
    made = library.QuantizedModelForCausalLM.quantize(model, weights=library.qint8, exclude="lm_head")
    made.save_pretrained(str(folder))
    _accompany(folder)


SAVED: tuple[tuple[str, str, Callable[[Path], None]], ...] = (
    ("LLM.int8", "bitsandbytes", _bitsandbytes(load_in_8bit=True)),
    ("nf4", "bitsandbytes", _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    ("fp4", "bitsandbytes", _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4")),
    ("int8 weight-only", "torchao", _torchao("Int8WeightOnlyConfig")),
    ("Intx int4, groups of 32", "torchao", _torchao("IntxWeightOnlyConfig")),
    ("float8 weight-only", "torchao", _torchao("Float8WeightOnlyConfig")),
    ("quanto int8", "quanto", _quanto),
)
