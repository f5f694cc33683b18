"""Damage in the transformers backend: it changes what the model says, the same way each time, and no file."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402

from pytest_quantgate.backends.damage import KINDS, _lowered  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.damages import DAMAGES, damaged  # noqa: E402
from pytest_quantgate.errors import NotMeasurableError, UnknownNameError  # noqa: E402
from pytest_quantgate.interfaces import Window  # noqa: E402

DENSE = ("scales_zeroed", "layers_exchanged", "rotary_base", "kv_heads", "fp8_layer")
PACKED = ("zero_points", "group_order", "zero_point")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_models.spec(tiny_models.save(tmp_path_factory.mktemp("llama"), "llama", bos=True), "v")


def logprobs(spec):
    """Return the log-probabilities of 60 tokens, and the id of the BOS token."""
    model = load(spec)
    ids = model.encode(tiny_models.text(400))[:61]
    scored = next(iter(model.score([Window(ids)])))
    bos = model.bos_id
    model.close()
    return scored.logprob, bos


def digests(spec):
    from pathlib import Path

    files = sorted(Path(spec.path).iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_kind_has_a_function_and_a_grade():
    """The names that a self-test tries are those that the backend knows."""
    assert set(KINDS) == set(DAMAGES)


@pytest.mark.parametrize("kind", DENSE)
def test_damage_changes_the_scores_the_same_way_each_time(llama, kind):
    """Two loads with the same seed agree bit by bit, and differ from the undamaged model."""
    before = digests(llama)
    once, again = (logprobs(damaged(llama, kind, 7))[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert np.isfinite(once).all()
    assert np.abs(once - logprobs(llama)[0]).max() > 1e-4
    assert digests(llama) == before


def test_the_bos_token_is_forgotten(llama):
    """The stream then lacks it, which the token metrics refuse."""
    assert logprobs(llama)[1] == 0
    assert logprobs(damaged(llama, "missing_bos"))[1] is None


@pytest.mark.parametrize("kind", PACKED)
def test_a_dense_model_has_no_groups_and_no_zero_points(llama, kind):
    with pytest.raises(NotMeasurableError, match=f"{kind} cannot be tried: the model has no packed"):
        load(damaged(llama, kind))


@pytest.mark.parametrize(
    ("kind", "lacks"),
    [("rotary_base", "rotary embedding"), ("kv_heads", "k_proj and v_proj"), ("missing_bos", "BOS")],
)
def test_what_a_model_lacks_is_named(tmp_path, kind, lacks):
    """GPT-2 has learned positions and one fused projection."""
    spec = tiny_models.spec(tiny_models.save(tmp_path, "gpt2"), "v")
    with pytest.raises(NotMeasurableError, match=lacks):
        load(damaged(spec, kind))


def test_an_unknown_kind_is_refused(llama):
    with pytest.raises(UnknownNameError, match="did you mean 'kv_heads'"):
        load(damaged(llama, "kv_head"))


def test_the_rotary_base_becomes_the_other_one(llama):
    """From 10,000 to 1,000,000: the table of inverse frequencies is what that base gives."""
    model = load(damaged(llama, "rotary_base"))
    table = model.native.model.rotary_emb.inv_freq
    expected = 1e6 ** (-torch.arange(len(table)) / len(table))
    torch.testing.assert_close(table, expected)


def test_exchanged_layers_still_generate(llama):
    """Each layer writes to the cache of its new place: one token at a time gives what one pass gives."""
    model = load(damaged(llama, "layers_exchanged"))
    prompt = model.encode(tiny_models.text(60)).tolist()
    traced = model.generate(prompt, 6).ids
    ids = np.concatenate([prompt, traced])
    scored = next(iter(model.score([Window(ids, len(prompt))])))
    np.testing.assert_array_equal(scored.top1, traced)


def test_moved_heads_equal_permuted_weights(llama):
    """The hook does what rolling the rows of the projections' weights by one head does."""
    hooked, plain = load(damaged(llama, "kv_heads")), load(llama)
    rows = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    name = "model.layers.1.self_attn.k_proj"
    weight = plain.native.get_submodule(name).weight
    moved = rows @ weight.roll(16, dims=0).T
    torch.testing.assert_close(hooked.native.get_submodule(name)(rows), moved)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_field_of_a_packed_word_is_lowered(bits):
    """Only that field changes, by one, and 0 wraps to the largest, whatever the word's sign."""
    words = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, 500)).to(torch.int32)
    words[:2] = torch.tensor([0, -1])
    for field in (0, 32 // bits - 1):
        before = words.numpy().view(np.uint32).astype(np.uint64)
        after = _lowered(words, field, bits).numpy().view(np.uint32).astype(np.uint64)
        shift, most = np.uint64(field * bits), np.uint64(2**bits - 1)
        np.testing.assert_array_equal((after >> shift) & most, (((before >> shift) & most) - 1) & most)
        np.testing.assert_array_equal(after & ~(most << shift), before & ~(most << shift))


# --- packed weights, really quantized


@pytest.fixture(scope="module", params=["gptq", "awq"])
def packed(request, tmp_path_factory):
    """A tiny model, really quantized to 4 bits in groups of 32."""
    pytest.importorskip("gptqmodel", exc_type=ImportError)
    pytest.importorskip("optimum")
    from pytest_quantgate.quantizers.gptqmodel import quantizer
    from pytest_quantgate.recipe import from_table

    folder = tmp_path_factory.mktemp(request.param)
    base = tiny_models.spec(tiny_models.save(folder / "base", "qwen2"))
    draw = random.Random(5)
    lines = [" ".join(draw.choices(tiny_models.WORDS, k=24)) for _ in range(16)]
    (folder / "words.txt").write_text("\n".join(lines))
    table = {
        "method": request.param, "bits": 4, "group_size": 32, "samples": 16, "max_length": 48,
        "calibration": "words.txt",
    }  # fmt: skip
    (folder / "out").mkdir()
    quantizer.quantize(from_table("v", table, folder), base, folder / "out", lambda done, total: None)
    assert "quantization_config" in json.loads((folder / "out" / "config.json").read_text())
    return tiny_models.spec(folder / "out", "v")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "missing_bos"])
def test_packed_weights_are_damaged(packed, kind):
    """The forward pass changes for every kind, the same way each time; the checkpoint does not."""
    before = digests(packed)
    once, again = (logprobs(damaged(packed, kind, 3))[0] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, logprobs(packed)[0])
    assert digests(packed) == before


@pytest.mark.slow
def test_packed_zero_points_are_one_too_low(packed):
    """A layer's weights grow by exactly one scale each: that is what the kernel computes with."""
    name = "model.layers.0.mlp.down_proj"
    made = {}
    for kind in ("", "zero_points"):
        model = load(damaged(packed, kind) if kind else packed)
        module = model.native.get_submodule(name)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            made[kind] = module(torch.eye(module.in_features)) - module(torch.zeros(1, module.in_features))
        scales = module.scales.float().repeat_interleave(32, dim=0)
    torch.testing.assert_close(
        made["zero_points"] - made[""], scales, rtol=1e-2, atol=2e-4
    )  # the product is float16
