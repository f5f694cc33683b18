"""Where it fails: packed files opened by hand, weights and layers compared, parts put back, and the signs they leave."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from pytest_quantgate.backends import layers, weighing
from pytest_quantgate.backends import transformers as backend
from pytest_quantgate.backends.dequantizing import Tensors
from pytest_quantgate.errors import CheckpointError, ConfigError, NotMeasurableError
from pytest_quantgate.explain.where_signs import signs
from pytest_quantgate.interfaces import Window
from pytest_quantgate.restorations import dequantized, restored

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def silent(done, total):
    """Take no notice of progress."""


# --- packed files, against packers that share nothing with the reader


def packed_rows(codes, bits):
    """Pack codes (K, N) along K as GPTQ does: bit by bit, as Python integers."""
    rows, columns = codes.shape
    words = np.zeros((rows * bits // 32, columns), dtype=np.uint32)
    for column in range(columns):
        whole = sum(int(code) << (bits * row) for row, code in enumerate(codes[:, column]))
        for place in range(len(words)):
            words[place, column] = (whole >> (32 * place)) & 0xFFFFFFFF
    return torch.from_numpy(words.view(np.int32).copy())


def nibbles(codes):
    """Pack codes (R, N) along N as AWQ does: eight to a word, in its order."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), dtype=np.uint32)
    for word, place in itertools.product(range(words.shape[1]), range(8)):
        words[:, word] |= codes[:, word * 8 + AWQ_ORDER[place]].astype(np.uint32) << np.uint32(4 * place)
    return torch.from_numpy(words.view(np.int32).copy())


def write(folder, tensors, section):
    folder.mkdir()
    save_file(
        {f"m.{name}": tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"quantization_config": section}))
    return Tensors(folder)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_a_gptq_file_is_dequantized_to_the_last_digit(tmp_path, bits, form):
    """Codes, zero-points of both formats and an order of groups of its own give scale * (code - zero)."""
    draw = np.random.default_rng(bits)
    codes, zeros = draw.integers(0, 1 << bits, (64, 32)), draw.integers(1, 1 << bits, (2, 32))
    scales = torch.from_numpy(draw.random((2, 32)).astype(np.float32))
    index = torch.from_numpy(draw.integers(0, 2, 64).astype(np.int32))
    stored = zeros - 1 if form == "gptq" else zeros
    tensors = {
        "qweight": packed_rows(codes, bits), "qzeros": packed_rows(stored.T, bits).T,
        "scales": scales, "g_idx": index,
    }  # fmt: skip
    section = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form}
    found = write(tmp_path / "v", tensors, section).codes("m")
    wanted = scales.numpy()[index] * (codes - zeros[index]).astype(np.float32)
    assert np.array_equal(found.weight().numpy(), wanted.T)
    assert found.bits == bits


def test_an_awq_file_is_dequantized_to_the_last_digit(tmp_path):
    """Its eight codes to a word are in an order of their own, and the zero-points are as they are."""
    draw = np.random.default_rng(0)
    codes, zeros = draw.integers(0, 16, (64, 32)), draw.integers(0, 16, (2, 32))
    scales = torch.from_numpy(draw.random((2, 32)).astype(np.float32))
    tensors = {"qweight": nibbles(codes), "qzeros": nibbles(zeros), "scales": scales}
    found = write(tmp_path / "v", tensors, {"quant_method": "awq", "bits": 4}).codes("m")
    groups = np.arange(64) // 32
    wanted = scales.numpy()[groups] * (codes - zeros[groups]).astype(np.float32)
    assert np.array_equal(found.weight().numpy(), wanted.T)


@pytest.mark.parametrize(
    "section",
    [{}, {"quant_method": "bitsandbytes"}, {"quant_method": "gptq"}, {"quant_method": "awq", "bits": 8}],
)
def test_another_layout_is_not_guessed(tmp_path, section):
    """What is not known to be GPTQ or AWQ has no codes; nor has a group that does not exist."""
    words = torch.zeros(8, 32, dtype=torch.int32)
    tensors = {"qweight": words, "qzeros": words[:2, :4], "scales": torch.ones(2, 32)}
    assert write(tmp_path / "v", tensors, section).codes("m") is None
    gptq = {"quant_method": "gptq", "bits": 4}
    bad = {**tensors, "g_idx": torch.full((64,), 9, dtype=torch.int32)}
    assert write(tmp_path / "w", bad, gptq).codes("m") is None


def test_a_folder_without_sound_safetensors_is_refused(tmp_path):
    """One line, with the file."""
    with pytest.raises(CheckpointError, match="no safetensors"):
        Tensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        Tensors(tmp_path)


# --- a loaded model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("base"), "qwen2")


def changed(base, folder, **tensors):
    """Copy a checkpoint, with some of its tensors replaced."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    known = load_file(folder / "model.safetensors")
    save_file({**known, **{name.replace("__", "."): value.contiguous() for name, value in tensors.items()}},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    return folder


def loaded(spec):
    return backend.load(spec)


def logprobs(model):
    windows = [Window(np.arange(5, 60) * 3 % 300), Window(np.arange(7, 50) % 300)]
    return np.concatenate([scores.logprob for scores in model.score(windows)])


def test_the_error_of_a_module_is_what_was_done_to_it(base, tmp_path):
    """SQNR against the closed form 20 log10(1 / e) for a relative error e; the rest is equal."""
    name = "model.layers.1.mlp.up_proj.weight"
    weight = load_file(base / "model.safetensors")[name]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    worse = weight + 0.1 * noise * weight.norm() / noise.norm()
    folder = changed(base, tmp_path / "v", **{name: worse})
    rows = weighing.weigh(loaded(tiny_models.spec(folder, "v")), str(base), silent)
    found = {row["name"]: row for row in rows}
    assert found.pop("model.layers.1.mlp.up_proj")["sqnr"] == pytest.approx(20.0, abs=1e-3)
    assert len(found) == 13  # 2 layers of 7, less that one; the head is tied and not stored
    assert {row["sqnr"] for row in found.values()} == {weighing.EQUAL_DB}


def test_exchanged_layers_are_recognised(base, tmp_path):
    """Each module has its twin in the other layer."""
    known = load_file(base / "model.safetensors")
    swapped = {
        name: known[
            name.replace(".layers.0.", ".layers.9.").replace(".layers.1.", ".layers.0.").replace(".9.", ".1.")
        ]
        for name in known
    }
    folder = changed(base, tmp_path / "v", **swapped)
    rows = weighing.weigh(loaded(tiny_models.spec(folder, "v")), str(base), silent)
    inside = [row for row in rows if ".layers." in row["name"]]
    assert all(row["twin_cosine"] > 0.999 for row in inside)
    (finding,) = signs("v", [{**row, "bits": 4} for row in inside])
    assert finding.cause == "layers_swapped"
    assert finding.text == "layer 0's weights are layer 1's, layer 1's weights are layer 0's"


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2", "mistral", "lfm2"])
def test_all_parts_put_back_are_the_baseline(tmp_path, kind):
    """A variant whose layers, embeddings and norms are restored scores as the baseline does; one layer is between."""
    base = tiny_models.save(tmp_path / "base", kind)
    worse = tiny_models.save(tmp_path / "v", kind, noise=0.3)
    baseline = tiny_models.spec(base)
    variant = tiny_models.spec(worse, "v")
    stored = {name.split(".")[0] for name in load_file(base / "model.safetensors")}  # a tied head is not
    parts = [name for name, _ in loaded(variant).native.named_children() if name in stored]
    whole = logprobs(loaded(restored(variant, parts, baseline)))
    assert np.array_equal(whole, logprobs(loaded(baseline)))
    layer = layers.decoder_layers(loaded(variant).native)[0][0]
    one = logprobs(loaded(restored(variant, [layer], baseline)))
    assert not np.array_equal(one, logprobs(loaded(variant)))
    assert not np.array_equal(one, whole)


def test_one_matrix_is_put_back(base, tmp_path):
    """Only that one changes, its bias with it; a name that is not there is refused."""
    worse = tiny_models.save(tmp_path / "v", "qwen2", noise=0.3)
    spec, name = tiny_models.spec(worse, "v"), "model.layers.1.self_attn.q_proj"
    model = loaded(restored(spec, [name], tiny_models.spec(base)))
    ours, theirs = dict(model.native.named_parameters()), load_file(base / "model.safetensors")
    equal = {key for key, value in ours.items() if key in theirs and torch.equal(value, theirs[key])}
    assert {f"{name}.weight", f"{name}.bias"} <= equal
    assert not [key for key in equal if key.endswith("proj.weight") and not key.startswith(name)]
    with pytest.raises(ConfigError, match=r"no module 'model\.layers\.9' to put back"):
        loaded(restored(spec, ["model.layers.9"], tiny_models.spec(base)))


def test_a_matrix_in_moved_scales_is_put_back_into_them(base, tmp_path):
    """AWQ divides a norm by s and multiplies the inputs of the matrices behind it: the product is compared and kept."""
    known = load_file(base / "model.safetensors")
    scale = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5
    changes = {
        "model.layers.0.input_layernorm.weight": known["model.layers.0.input_layernorm.weight"] / scale
    }
    for part in "qkv":
        name = f"model.layers.0.self_attn.{part}_proj.weight"
        changes[name] = known[name] * scale
    folder = changed(base, tmp_path / "v", **changes)
    spec = tiny_models.spec(folder, "v")
    model = loaded(spec)
    assert np.allclose(logprobs(model), logprobs(loaded(tiny_models.spec(base))), atol=1e-4)
    rows = {row["name"]: row for row in weighing.weigh(model, str(base), silent)}
    assert rows["model.layers.0.self_attn.q_proj"]["sqnr"] > 100  # equal but for the rounding of the fit
    back = loaded(restored(spec, ["model.layers.0.self_attn.q_proj"], tiny_models.spec(base)))
    assert np.allclose(logprobs(back), logprobs(model), atol=1e-4)


def test_a_model_without_modules_here_is_not_measurable(base):
    """A server or a worker has no torch module: one line says what to do."""

    class Elsewhere:
        native = None
        spec = tiny_models.spec(base, "far", backend="server")

    with pytest.raises(NotMeasurableError, match="far: its layers cannot be looked at"):
        weighing.weigh(Elsewhere(), str(base), silent)


def test_a_large_bias_takes_no_digits():
    """In half precision a module is asked without its bias, which is put back."""

    class Packed(torch.nn.Module):
        in_features, bits, qweight = 64, 4, torch.zeros(1)

        def __init__(self):
            super().__init__()
            self.matrix = torch.randn(32, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
            self.bias = torch.full((32,), 1000.0, dtype=torch.bfloat16)

        def forward(self, inputs):
            return inputs @ self.matrix.T + self.bias

    module = Packed()
    assert torch.equal(layers.effective(module, torch.zeros(1, dtype=torch.bfloat16)), module.matrix.float())
    assert torch.equal(module.bias, torch.full((32,), 1000.0, dtype=torch.bfloat16))


def test_states_are_the_library_s_own(base):
    """The outputs of all layers but the last, which transformers shows after the norm, equal its hidden states."""
    model = loaded(tiny_models.spec(base))
    ids = np.arange(3, 40)
    found, names = layers.states(model, [ids], rows=1000)
    with torch.no_grad():
        theirs = model.native(input_ids=torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
    assert names == ["model.layers.0", "model.layers.1"]
    assert found.shape == (2, len(ids), 64)
    assert np.array_equal(found[0], theirs[1][0].numpy())
    few, _ = layers.states(model, [ids, ids], rows=8)
    assert few.shape == (2, 8, 64)


def test_derived_models_have_identities_of_their_own(base):
    """What is put back, and from which weights, belongs to the key of an observation."""
    spec, baseline = tiny_models.spec(base, "v"), tiny_models.spec(base)
    made = [spec, dequantized(spec), restored(spec, ["a"], baseline), restored(spec, ["a", "b"], baseline)]
    assert len({json.dumps(one.identity(), sort_keys=True) for one in made}) == 4
    assert restored(spec, ["b", "a", "b"], baseline) == restored(spec, ["a", "b"], baseline)


def test_the_ratio_is_bounded():
    """No infinity and no NaN reaches the store."""
    one = torch.ones(4)
    assert weighing.sqnr(one, one) == weighing.EQUAL_DB
    assert weighing.sqnr(torch.zeros(4), one) == -weighing.EQUAL_DB
    assert weighing.sqnr(one, torch.full((4,), math.nan)) == -weighing.EQUAL_DB
    assert weighing.sqnr(one, 1.1 * one) == pytest.approx(20.0, abs=1e-4)
