"""Every quantized format loads whole, says its bits, and computes the matrices that its file stands for."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import packed_checkpoints  # noqa: E402
import tiny_models  # noqa: E402

from pytest_quantgate.backends import formats, zero_points  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.checkpoint import preflight  # noqa: E402
from pytest_quantgate.errors import (  # noqa: E402
    CheckpointError,
    ConfigError,
    MissingExtraError,
    NotMeasurableError,
    ObservationError,
)
from pytest_quantgate.interfaces import Window  # noqa: E402
from pytest_quantgate.recipe import from_table  # noqa: E402

LIBRARY = {"auto-gptq": "gptqmodel", "autoawq": "gptqmodel"}
LAYERS = 14  # linear layers of the tiny model's decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2, which has biases and a tied head."""
    return tiny_models.save(tmp_path_factory.mktemp("formats") / "base", "qwen2")


def windows() -> list[Window]:
    return [Window(row) for row in np.random.default_rng(0).integers(1, tiny_models.VOCABULARY, (4, 64))]


def logprobs(model: Any) -> np.ndarray:
    return np.concatenate([scores.logprob for scores in model.score(windows())])


def dense(folder: Path, matrices: dict[str, Any]) -> np.ndarray:
    """Return the log-probabilities of plain transformers with these matrices in place of the baseline's."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, matrix in matrices.items():
            model.get_submodule(name).weight.copy_(matrix)
        ids = torch.from_numpy(np.stack([window.ids for window in windows()]))
        logs = model(ids).logits[:, :-1].log_softmax(-1)
    return logs.gather(2, ids[:, 1:, None])[..., 0].flatten().numpy()


# --- checkpoints packed by hand


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        ("autoawq", 2e-5),  # computed in float32
        ("W4A16", 2e-5),
        ("W4A16_ASYM", 2e-5),
        pytest.param("auto-gptq", 2e-2, marks=pytest.mark.slow),  # GPTQModel's matrices have float16 entries
    ],
)
def test_codes_packed_by_hand_score_as_their_matrices(
    folder: Path, tmp_path: Path, kind: str, tolerance: float
) -> None:
    """What the loader makes of packed codes is what the format says they mean: plain transformers agrees."""
    pytest.importorskip(LIBRARY.get(kind, "compressed_tensors"))
    matrices = packed_checkpoints.write(tmp_path / "packed", folder, kind)
    model = load(tiny_models.spec(tmp_path / "packed", "v"))
    findings = model.findings()
    assert findings["quantized"] == dict.fromkeys(matrices, 4)
    assert len(matrices) == LAYERS
    assert findings["dense"] == ["lm_head"]
    assert findings["nonfinite"] == []
    off = np.abs(logprobs(model) - dense(folder, matrices)).max()
    assert off < tolerance
    assert np.abs(dense(folder, matrices) - dense(folder, {})).max() > 10 * tolerance  # the matrices matter


@pytest.mark.parametrize("kind", ["W8A8", "FP8"])
def test_activations_are_quantized_where_the_format_says_so(folder: Path, tmp_path: Path, kind: str) -> None:
    """Weights are the file's, and the input of each layer is rounded per token: 8 bits throughout, not weights alone."""
    pytest.importorskip("compressed_tensors")
    matrices = packed_checkpoints.write(tmp_path / "packed", folder, kind)
    model = load(tiny_models.spec(tmp_path / "packed", "v"))
    assert set(model.findings()["quantized"].values()) == {8}
    name = "model.layers.0.mlp.up_proj"
    layer, matrix = model.native.get_submodule(name), matrices[name]
    assert torch.equal(layer.weight, matrix)
    inputs = torch.randn(1, 5, matrix.shape[1], generator=torch.Generator().manual_seed(0))
    largest = inputs.abs().amax(-1, keepdim=True)
    with torch.inference_mode():
        outputs = layer(inputs)
    if kind == "W8A8":
        rounded = (inputs / (largest / 127.5)).round().clamp(-128, 127) * (largest / 127.5)
    else:
        rounded = (inputs / (largest / 448)).to(torch.float8_e4m3fn).float() * (largest / 448)
    assert torch.allclose(outputs, rounded @ matrix.T, atol=1e-5)
    assert not torch.allclose(outputs, inputs @ matrix.T, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "name"), [("auto-gptq", "bits"), ("autoawq", "bits"), ("autoawq", "group_size")]
)
def test_a_format_with_a_null_in_it(folder: Path, tmp_path: Path, kind: str, name: str) -> None:
    """It is refused by the library in one line, or read as what the library takes it for; never a traceback."""
    pytest.importorskip(LIBRARY[kind])
    packed_checkpoints.write(tmp_path / "packed", folder, kind)
    file = tmp_path / "packed" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"][name] = None
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        load(tiny_models.spec(tmp_path / "packed", "v"))


def test_another_version_of_compressed_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library keeps its classes elsewhere, it is used as it is."""
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors.pack_quantized.base", None)
    with zero_points.packed_zero_points():
        pass


def test_both_types_give_the_same_within_their_precision(folder: Path, tmp_path: Path) -> None:
    """bfloat16 is computed in where it is asked for, and changes little."""
    pytest.importorskip("compressed_tensors")
    packed_checkpoints.write(tmp_path / "packed", folder, "W4A16")
    scores = {
        dtype: logprobs(load(tiny_models.spec(tmp_path / "packed", "v", dtype=dtype)))
        for dtype in ("float32", "bfloat16")
    }
    assert 0 < np.abs(scores["float32"] - scores["bfloat16"]).mean() < 0.1


def test_a_packed_layer_with_a_tensor_less_is_refused(folder: Path, tmp_path: Path) -> None:
    """A missing scale would be made up; its name is in the error."""
    pytest.importorskip("compressed_tensors")
    from safetensors.torch import load_file, save_file

    packed_checkpoints.write(tmp_path / "packed", folder, "W4A16")
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, tmp_path / "packed" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks tensors: model\.layers\.1\.mlp\.up_proj\.weight_scale"):
        load(tiny_models.spec(tmp_path / "packed", "v"))


# --- checkpoints that a library saves


def bitsandbytes(**settings: Any) -> Any:
    pytest.importorskip("bitsandbytes")
    return transformers.BitsAndBytesConfig(**settings)


def torchao(name: str, **settings: Any) -> Any:
    library = pytest.importorskip("torchao.quantization")
    return transformers.TorchAoConfig(getattr(library, name)(**settings))


def intx4() -> Any:
    library = pytest.importorskip("torchao.quantization")
    return torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4, granularity=library.PerGroup(32))


SAVED = {
    "bitsandbytes int8": (lambda: bitsandbytes(load_in_8bit=True), 8),
    "bitsandbytes nf4": (lambda: bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"), 4),
    "bitsandbytes fp4": (lambda: bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4"), 4),
    "torchao int8": (lambda: torchao("Int8WeightOnlyConfig"), 8),
    "torchao intx4": (intx4, 4),
}


def save_quantized(folder: Path, out: Path, config: Any) -> Path:
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, quantization_config=config, device_map="cpu"
        )
        model.save_pretrained(out)  # before any pass: bitsandbytes corrupts nf4 otherwise
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, out / name)
    return out


@pytest.mark.parametrize("kind", list(SAVED))
def test_what_a_library_saves_loads_with_its_bits(folder: Path, tmp_path: Path, kind: str) -> None:
    """Saved and loaded it scores as the live model does; the preflight check and the headers accept the file."""
    make, bits = SAVED[kind]
    out = save_quantized(folder, tmp_path / "saved", make())
    assert preflight(out).quantization is not None
    model = load(tiny_models.spec(out, "v"))
    assert set(model.findings()["quantized"].values()) == {bits}
    assert len(model.findings()["quantized"]) == LAYERS
    live = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=make(), device_map="cpu"
    )
    ids = torch.from_numpy(np.stack([window.ids for window in windows()]))
    with torch.inference_mode():
        logs = live(ids).logits[:, :-1].float().log_softmax(-1)
    theirs = logs.gather(2, ids[:, 1:, None])[..., 0].flatten().numpy()
    ours = logprobs(model)
    # bitsandbytes computes int8 in float16, and nf4 in the type that was said: float32 here
    assert np.abs(ours - theirs).mean() < (1e-2 if "bitsandbytes" in kind else 1e-4)
    assert np.abs(ours - dense(folder, {})).mean() > 1e-3


def test_nf4_computes_in_the_type_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """A checkpoint that was saved for bfloat16 computes in float32 when the study says so."""
    config = bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    out = save_quantized(folder, tmp_path / "saved", config)
    model = load(tiny_models.spec(out, "v", dtype="float32"))
    assert model.native.model.layers[0].mlp.up_proj.compute_dtype == torch.float32
    again = logprobs(load(tiny_models.spec(out, "v", dtype="bfloat16")))
    assert 0 < np.abs(logprobs(model) - again).mean() < 0.1


def test_quantos_own_files(folder: Path, tmp_path: Path) -> None:
    """optimum-quanto writes no section into config.json; the file beside it says what it is."""
    quanto = pytest.importorskip("optimum.quanto")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = quanto.QuantizedModelForCausalLM.quantize(model, weights=quanto.qint4, exclude="lm_head")
    made.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, tmp_path / "saved" / name)
    loaded = load(tiny_models.spec(tmp_path / "saved", "v"))
    assert set(loaded.findings()["quantized"].values()) == {4}
    ids = torch.from_numpy(np.stack([window.ids for window in windows()]))
    with torch.no_grad():
        logs = model(ids).logits[:, :-1].log_softmax(-1)
    theirs = logs.gather(2, ids[:, 1:, None])[..., 0].flatten().numpy()
    assert np.abs(logprobs(loaded) - theirs).max() < 1e-4


# --- recipes that are carried out when the model is loaded


def recipe_spec(folder: Path, **table: Any) -> Any:
    recipe = from_table("v", table, folder)
    return replace(tiny_models.spec(folder, "v"), recipe=recipe, source=recipe.method)


@pytest.mark.parametrize(
    ("library", "table", "bits"),
    [
        ("bitsandbytes", {"bits": 8}, 8),
        ("bitsandbytes", {"bits": 4, "type": "nf4"}, 4),
        ("bitsandbytes", {"bits": 4, "type": "fp4", "double_quant": False}, 4),
        ("torchao", {"bits": 8}, 8),
        ("torchao", {"bits": 4, "group_size": 32}, 4),
        ("torchao", {"bits": 8, "group_size": 32}, 8),
        ("quanto", {"bits": 8}, 8),
        ("quanto", {"bits": 4}, 4),
        ("quanto", {"bits": 2}, 2),
    ],
)
def test_recipes_on_load(folder: Path, library: str, table: dict[str, Any], bits: int) -> None:
    """The baseline's folder is quantized as it loads; fewer bits move the scores further."""
    pytest.importorskip({"quanto": "optimum.quanto"}.get(library, library))
    model = load(recipe_spec(folder, method=library, **table))
    assert model.findings()["quantized"] == dict.fromkeys(model.findings()["quantized"], bits)
    assert len(model.findings()["quantized"]) == LAYERS
    off = np.abs(logprobs(model) - dense(folder, {})).mean()
    low, high = {8: (1e-4, 0.15), 4: (0.05, 1.5), 2: (0.5, 50)}[bits]
    assert low < off < high


def test_a_recipe_on_load_takes_an_unquantized_baseline(folder: Path, tmp_path: Path) -> None:
    """Rounding what is rounded already would be measured as something that nobody ships."""
    pytest.importorskip("torchao")
    packed_checkpoints.write(tmp_path / "packed", folder, "W4A16")
    with pytest.raises(ConfigError, match=r"is quantized already \(compressed-tensors\)"):
        load(recipe_spec(tmp_path / "packed", method="torchao"))


# --- what cannot be loaded here


def stated(folder: Path, target: Path, section: dict[str, Any]) -> Path:
    """Copy a checkpoint whose configuration says that it is quantized."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    return target


@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8", "mxfp4"])
def test_a_format_of_other_machines_names_the_machine(folder: Path, tmp_path: Path, method: str) -> None:
    """transformers would dequantize it to bfloat16 on a CPU and compute something else."""
    target = stated(folder, tmp_path / "v", {"quant_method": method})
    with pytest.raises(
        NotMeasurableError, match=r"CUDA device of compute capability \d\.\d or later"
    ) as caught:
        load(tiny_models.spec(target, "v"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("gptq", "gptq"),
        ("bitsandbytes", "bitsandbytes"),
        ("torchao", "torchao"),
        ("compressed-tensors", "compressed-tensors"),
        ("auto-round", "autoround"),
    ],
)
def test_a_missing_library_names_its_extra(
    folder: Path, tmp_path: Path, method: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the pip install, before anything is loaded."""
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda *_: None)
    target = stated(folder, tmp_path / "v", {"quant_method": method, "bits": 4})
    with pytest.raises(MissingExtraError, match=rf"pip install 'pytest-quantgate\[{extra}\]'"):
        load(tiny_models.spec(target, "v"))


def test_a_recipe_on_load_without_its_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a recipe: it is the library that is missing, not the checkpoint that is damaged."""
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtraError, match=r"pytest-quantgate\[quanto\]"):
        load(recipe_spec(folder, method="quanto"))


def test_packed_scales_of_another_type_are_said(folder: Path, tmp_path: Path) -> None:
    """torchao's tensors compute in the type that they were saved in, whatever is asked for."""
    out = save_quantized(folder, tmp_path / "saved", torchao("Int8WeightOnlyConfig"))
    with pytest.raises(ObservationError, match='set dtype = "float32"'):
        load(tiny_models.spec(out, "v", dtype="bfloat16"))


def test_an_unknown_method_is_left_to_transformers(folder: Path, tmp_path: Path) -> None:
    """What transformers does not know either is one line, no traceback."""
    target = stated(folder, tmp_path / "v", {"quant_method": "nonsense"})
    with pytest.raises((CheckpointError, NotMeasurableError), match="nonsense") as caught:
        load(tiny_models.spec(target, "v"))
    assert "\n" not in str(caught.value)
