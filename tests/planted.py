"""The example's model, quantized well once and then broken in known ways: each as it happens to a real checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from pytest_quantgate.backends import transformers
from pytest_quantgate.backends.damage import KINDS
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import ModelSpec

EXAMPLE = Path(__file__).parents[1] / "example_project"
CORPUS_BYTES = 40_000
GOOD = {"bits": 4, "group_size": 32, "desc_act": True, "calibration": "chat.jsonl"}
WRONG = "model.layers.2.mlp.down_proj"

Tensors = dict[str, torch.Tensor]


def write_study(folder: Path) -> Path:
    """Write the files of a study: the baseline, texts to calibrate on, a short corpus."""
    shutil.copytree(EXAMPLE / "model", folder / "model")
    data = EXAMPLE / "data"
    shutil.copy(data / "calibration_chat.jsonl", folder / "chat.jsonl")
    shutil.copy(data / "calibration_wrong.txt", folder / "wrong.txt")
    shutil.copy(data / "choice.jsonl", folder / "choice.jsonl")
    text = (data / "heldout.txt").read_text(encoding="utf-8")[:CORPUS_BYTES]
    (folder / "heldout.txt").write_text(text, encoding="utf-8")
    return folder


def write_config(folder: Path, name: str, variant: str, baseline: str = "model") -> None:
    """Write quantgate.toml with one variant, given as the body of its table."""
    (folder / "quantgate.toml").write_text(
        f'baseline = "{baseline}"\ndtype = "float32"\ndevice = "cpu"\n'
        '[tokens]\ncorpus = "heldout.txt"\nprotocol = "gptq"\nwindow = 256\n'
        '[tasks.choice]\nkind = "multiple-choice"\ndata = "choice.jsonl"\n'
        f"[variants.{name}]\n{variant}\n"
    )


def recipe(**changes: Any) -> str:
    """Return the table of a recipe: the good one, changed."""
    parts = {"method": "gptq", **GOOD, **changes}
    return f"quantize = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in parts.items())} }}"


# --- damage to the files of a checkpoint


def ruined(tensors: Tensors) -> None:
    """Put noise into one module's scales."""
    scales = tensors[f"{WRONG}.scales"]
    noise = torch.rand(scales.shape, generator=torch.Generator().manual_seed(0)) * 4
    tensors[f"{WRONG}.scales"] = (scales * noise).to(scales.dtype)


def emptied(tensors: Tensors) -> None:
    """Leave one module's scales as they are allocated."""
    tensors[f"{WRONG}.scales"] = torch.zeros_like(tensors[f"{WRONG}.scales"])


def exchanged(tensors: Tensors) -> None:
    """Exchange the names of layers 1 and 2, as a merge of shards does."""
    for name in [name for name in tensors if ".layers.1." in name]:
        other = name.replace(".layers.1.", ".layers.2.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def regrouped(tensors: Tensors) -> None:
    """Lose the order of activations: every g_idx counts up, as without desc_act."""
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        index = tensors[name]
        tensors[name] = (torch.arange(len(index)) // 32).to(index.dtype)


def in_files(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    """Return what changes the tensors of a checkpoint folder."""

    def applied(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, file, metadata={"format": "pt"}
        )

    return applied


def misnamed_format(folder: Path) -> None:
    """Say v2 of a checkpoint whose zero-points are those of v1."""
    for name in ("config.json", "quantize_config.json"):
        found = json.loads((folder / name).read_text())
        section = found.get("quantization_config", found)
        section["checkpoint_format"] = section["format"] = "gptq_v2"
        (folder / name).write_text(json.dumps(found))


def other_tokenizer(folder: Path) -> None:
    """Exchange the ids of a hundred pairs of tokens."""
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = found["model"]["vocab"]
    names = sorted(vocabulary, key=vocabulary.get)[-200:]
    for one, other in zip(names[::2], names[1::2], strict=True):
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    file.write_text(json.dumps(found), encoding="utf-8")


def other_template(folder: Path) -> None:
    """Ask without the marks that the model was trained with."""
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )


def other_base(folder: Path) -> None:
    """Forget rope_theta: the loader's own takes its place."""
    found = json.loads((folder / "config.json").read_text())
    found["rope_parameters"]["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(found))


def unquantized(folder: Path) -> None:
    """Save the float weights where a quantized checkpoint is expected."""
    shutil.rmtree(folder)
    shutil.copytree(EXAMPLE / "model", folder)


def retrained(folder: Path) -> None:
    """Train a model a little further: its matrices move by a third of their size."""
    tensors = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(4)
    for name, value in tensors.items():
        if value.ndim > 1 and ".layers." in name:
            noise = torch.randn(value.shape, generator=draw)
            tensors[name] = (value.float() + 0.6 * value.float().std() * noise).to(value.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- an engine that computes with other weights than it was given


def faulty(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> Any:
    """Load a checkpoint whose kernel reads zero-points of format v1 as v2."""
    model = transformers.load(spec, allow_code=allow_code, allow_pickle=allow_pickle)
    if not spec.is_baseline:
        with torch.no_grad():
            KINDS["zero_points"](model, np.random.default_rng(0))
    return model


def registry() -> Registry:
    """Return the open sets with the faulty engine."""
    made = Registry()
    made.add("backends", "faulty", "planted:faulty")
    return made
