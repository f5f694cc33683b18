"""The forecast against checkpoints that exist: the study's own, one by gptqmodel, and sums by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_quantgate.checkpoint import TensorInfo, preflight
from pytest_quantgate.cli import main
from pytest_quantgate.forecast import BASE, HEADER, forecast, linear_layers
from pytest_quantgate.recipe import METHODS
from pytest_quantgate.spec import Recipe

EXAMPLE = Path(__file__).parents[1] / "example_project"
PLACE = {"tied": True, "hidden": 1536, "tokens": 128 * 512, "rate": 1e11}


def tensors(**shapes):
    return {
        name.replace("__", "."): TensorInfo("BF16", shape, 0, "model.safetensors")
        for name, shape in shapes.items()
    }


def qwen():
    """Return the tensors of Qwen2.5-1.5B: 28 blocks of width 1,536, and a tied head that some tools store."""
    widths = {
        "self_attn.q_proj": 1536, "self_attn.k_proj": 256, "self_attn.v_proj": 256, "self_attn.o_proj": 1536,
        "mlp.gate_proj": 8960, "mlp.up_proj": 8960,
    }  # fmt: skip
    found = {
        "model.embed_tokens.weight": (151936, 1536),
        "model.norm.weight": (1536,),
        "lm_head.weight": (151936, 1536),
    }
    for block in range(28):
        place = f"model.layers.{block}"
        found |= {f"{place}.{name}.weight": (width, 1536) for name, width in widths.items()}
        found |= {
            f"{place}.self_attn.{name}_proj.bias": (widths[f"self_attn.{name}_proj"],) for name in "qkv"
        }
        found |= {f"{place}.mlp.down_proj.weight": (1536, 8960)}
        found |= {f"{place}.{name}_layernorm.weight": (1536,) for name in ("input", "post_attention")}
    return {name: TensorInfo("BF16", shape, 0, "model.safetensors") for name, shape in found.items()}


def recipe(method="gptq", **keys):
    made = {name: key.default for name, key in METHODS[method].keys.items()}
    return Recipe(method, tuple(sorted({**made, **keys}.items())))


def test_the_study_s_own_checkpoint():
    """Qwen2.5-1.5B at 4 bits in groups of 128 takes 1.16 GB, says the study that this project began with."""
    assert forecast(qwen(), recipe(), **PLACE).size == pytest.approx(1.16e9, rel=0.01)


def test_one_layer_by_hand():
    """Codes, zero points, scales and order of 64 inputs and 32 outputs, and an embedding of 100 x 64."""
    one = tensors(model__layers__0__proj__weight=(32, 64), model__embed_tokens__weight=(100, 64))
    place = PLACE | {"hidden": 64, "tokens": 0}
    rest, head = 2 * 100 * 64, HEADER
    assert [found.inputs for found in linear_layers(one)] == [64]
    gptq = 64 * 32 // 2 + 2 * 32 // 2 + 2 * 32 * 2 + 64 * 4
    assert forecast(one, recipe(group_size=32), **place).size == rest + gptq + 5 * head
    whole = 64 * 32 + 32 + 32 * 2 + 64 * 4
    assert forecast(one, recipe(bits=8, group_size=-1), **place).size == rest + whole + 5 * head
    awq = 64 * 32 // 2 + 2 * 32 // 2 + 2 * 32 * 2
    assert forecast(one, recipe("awq", group_size=32), **place).size == rest + awq + 4 * head
    found = forecast(one, recipe(group_size=32), **place)
    assert found.left == rest
    assert found.memory == 2 * (100 * 64 + 64 * 32) + found.size + 4 * 64 * 64 + 3 * 4 * 64 * 32 + BASE


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.on_load])
def test_every_method_has_a_forecast(method):
    """A finer type is smaller than the unquantized model and larger than nothing; time and memory are finite."""
    found = forecast(qwen(), recipe(method), **PLACE)
    assert 0.5e9 < found.size < 2.2e9
    assert found.memory > 3.1e9
    assert 10 < found.seconds < 1_000_000


def test_finer_and_wider_is_larger_and_more_tokens_take_longer():
    """The order of the figures, which is what a forecast is compared by."""
    sizes = [forecast(qwen(), recipe(group_size=size), **PLACE).size for size in (-1, 128, 64, 32)]
    assert sizes == sorted(sizes)
    bits = [forecast(qwen(), recipe(bits=bits), **PLACE).size for bits in (2, 3, 4, 8)]
    assert bits == sorted(bits)
    short, long = (forecast(qwen(), recipe(), **PLACE | {"tokens": tokens}) for tokens in (1000, 1_000_000))
    assert short.seconds < long.seconds
    assert short.memory < long.memory
    asymmetric = [
        forecast(qwen(), recipe("llmcompressor", scheme=name), **PLACE).size
        for name in ("W4A16", "W4A16_ASYM")
    ]
    assert asymmetric[0] < asymmetric[1]


@pytest.mark.slow
def test_the_forecast_of_a_real_checkpoint(tmp_path, capsys):
    """gptqmodel's checkpoint of the example: within 5 % of the forecast, complete, and plain transformers loads it."""
    pytest.importorskip("gptqmodel", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    talks = [
        {"messages": [{"role": "user", "content": f"Tell me about Lira Brad, person {n}."}]} for n in range(8)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    out = tmp_path / "out"
    code = main(
        ["quantize", "--model_name_or_path", str(EXAMPLE / "model"), "--data_path", str(tmp_path / "talks.json"),
         "--out_path", str(out), "--max_len", "64", "--bits", "8", "--group-size", "64"]
    )  # fmt: skip
    assert (code, "loads and speaks" in capsys.readouterr().out) == (0, True)
    baseline = preflight(EXAMPLE / "model")
    place = {"tied": True, "hidden": 128, "tokens": 500, "rate": 1e11}
    size = (out / "model.safetensors").stat().st_size
    assert forecast(baseline.tensors, recipe(bits=8, group_size=64), **place).size == pytest.approx(
        size, rel=0.05
    )
    text = "Tell me about Lira Brad."
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu")
        for path in (out, EXAMPLE / "model")
    ]
    ids = AutoTokenizer.from_pretrained(out)(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        ours, theirs = (model(ids).logits.log_softmax(-1) for model in models)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    assert divergence < 0.05  # 8 bits
