"""The gptqmodel quantizer on a tiny random model: complete checkpoints, no traces, the same bytes twice."""

from __future__ import annotations

import json
import os
import random
import sys

import pytest

pytest.importorskip("gptqmodel", exc_type=ImportError)
pytest.importorskip("optimum")

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from pytest_quantgate.errors import CheckpointError, ConfigError
from pytest_quantgate.quantizers import gptqmodel as library
from pytest_quantgate.quantizers.isolation import KEPT_LINES, Tail, isolated
from pytest_quantgate.recipe import from_table
from pytest_quantgate.spec import ModelSpec

pytestmark = pytest.mark.slow
SETTINGS = {"samples": 8, "max_length": 24, "calibration": "words.txt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project folder: a two-layer Qwen2 with random weights in `base`, and words.txt."""
    made = tmp_path_factory.mktemp("project")
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=257, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True, eos_token_id=0,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(made / "base")
    vocabulary = {sign: number for number, sign in enumerate(["<end>", *sorted(ByteLevel.alphabet())])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token=None, eos_token="<end>", pad_token="<end>"
    )
    tokenizer.save_pretrained(made / "base")
    (made / "base" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    generation = {"do_sample": False, "eos_token_id": 0, "temperature": 1.0}
    (made / "base" / "generation_config.json").write_text(json.dumps(generation))
    draw = random.Random(5)
    lines = ["".join(draw.choices("abcdefgh ", k=draw.randint(11, 30))) for _ in range(8)]
    (made / "words.txt").write_text("\n".join(lines))
    return made


def baseline(folder, name="base"):
    return ModelSpec("baseline", name, "sha256:0", path=str(folder / name), dtype="bfloat16")


def quantize(folder, out, progress=lambda done, total: None, base="base", **keys):
    out.mkdir()
    recipe = from_table("v", {**SETTINGS, **keys}, folder)
    library.quantizer.quantize(recipe, baseline(folder, base), out, progress)
    return out


@pytest.fixture(scope="module")
def made(folder):
    """A GPTQ checkpoint of the tiny model, and what was seen while it was made."""
    seen = []
    out = quantize(
        folder,
        folder / "gptq",
        lambda *event: seen.append(event),
        method="gptq",
        group_size=32,
        desc_act=True,
    )
    return out, seen


def test_the_checkpoint_is_complete_and_says_what_it_is(made):
    """Weights, configuration and companions are there, nothing else, and the configuration repeats the recipe."""
    out, _ = made
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "quantize_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    stated = json.loads((out / "config.json").read_text())["quantization_config"]
    assert {key: stated[key] for key in ("bits", "group_size", "desc_act", "sym", "quant_method")} == {
        "bits": 4, "group_size": 32, "desc_act": True, "sym": True, "quant_method": "gptq",
    }  # fmt: skip
    assert not stated["meta"]["act_group_aware"]
    assert any(name.endswith("qweight") for name in load_file(out / "model.safetensors"))


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
)
def test_the_baselines_own_files_are_kept_byte_for_byte(folder, made, name):
    """Saving a tokenizer anew may change it, and both models must see the same ids."""
    assert (made[0] / name).read_bytes() == (folder / "base" / name).read_bytes()


def test_progress_counts_the_layers(made):
    """It never goes back and ends at the last layer."""
    _, seen = made
    assert seen == sorted(seen)
    assert seen[-1] == (2, 2)


def test_two_runs_give_the_same_bytes(folder, made, tmp_path):
    """A recipe is content-addressed: what else was drawn at random before does not matter."""
    torch.rand(3)
    random.random()
    again = quantize(folder, tmp_path / "again", method="gptq", group_size=32, desc_act=True)
    for path in again.iterdir():
        assert path.read_bytes() == (made[0] / path.name).read_bytes(), path.name


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_load_again(folder, tmp_path, bits):
    """Every width of the vocabulary makes a checkpoint; fewer bits are further from the baseline."""
    out = quantize(folder, tmp_path / "out", method="gptq", bits=bits, group_size=32)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["bits"] == bits


@pytest.mark.parametrize("group_size", [16, -1])
def test_the_smallest_and_the_whole_group_work(folder, tmp_path, group_size):
    """The ends of the vocabulary of group sizes make checkpoints that load."""
    out = quantize(folder, tmp_path / "out", method="gptq", group_size=group_size)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["group_size"] == group_size


@pytest.mark.parametrize("zero_point", [True, False])
def test_awq_works_on_this_machine(folder, tmp_path, zero_point):
    """AWQ checkpoints come from the same quantizer, and state their zero point."""
    out = quantize(folder, tmp_path / "awq", method="awq", group_size=32, zero_point=zero_point)
    stated = json.loads((out / "config.json").read_text())["quantization_config"]
    assert (stated["quant_method"], stated["group_size"], stated["zero_point"]) == ("awq", 32, zero_point)


def test_an_error_in_a_thread_of_the_library_raises(folder, tmp_path, monkeypatch):
    """By itself gptqmodel ends the process without a word when one of its threads fails."""

    def fail(*arguments, **keys):
        raise AssertionError("in a thread")

    monkeypatch.setattr(library.loop_processor.LoopProcessor, "_async_log_writer", fail)
    with pytest.raises(CheckpointError, match="AssertionError: in a thread"):
        quantize(folder, tmp_path / "out", method="gptq", group_size=32)


def test_layers_too_narrow_for_awq_are_named(folder, tmp_path):
    """gptqmodel's AWQ asserts output widths of whole 64s: said before it starts."""
    config = json.loads((folder / "base" / "config.json").read_text())
    with isolated():
        narrow = Qwen2ForCausalLM(Qwen2Config(**config | {"num_attention_heads": 4, "head_dim": 32}))
        narrow.to(torch.bfloat16).save_pretrained(folder / "narrow")
    for path in (folder / "base").glob("*token*"):
        (folder / "narrow" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"multiples of 64, model.layers.0.self_attn.k_proj has 32"):
        quantize(folder, tmp_path / "out", base="narrow", method="awq", group_size=32)


def test_no_traces_are_left(folder, tmp_path, capfd, monkeypatch):
    """Nothing is printed, no file lies in the current folder, environment and random state are as before."""
    monkeypatch.chdir(tmp_path)
    environment, state, python_state = dict(os.environ), torch.get_rng_state(), random.getstate()
    quantize(folder, tmp_path / "out", method="gptq", group_size=32)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert dict(os.environ) == environment
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state


def test_a_failure_is_one_line_with_the_librarys_last_words(folder, tmp_path, monkeypatch, capfd):
    """The method, the recipe, the reason and what was printed last make one message; the terminal stays clean."""

    def fail(*arguments, **keys):
        sys.stdout.write("first\nsecond\nreading layer 7\n")
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr(library.GPTQModel, "load", fail)
    with pytest.raises(CheckpointError) as caught:
        quantize(folder, tmp_path / "out", method="gptq", bits=3)
    message = str(caught.value)
    assert message.startswith("gptqmodel could not make gptq (")
    assert "bits = 3" in message
    assert "of base: RuntimeError: no room for it" in message
    assert message.endswith("reading layer 7")
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_weights_that_are_nan_do_not_become_a_checkpoint(folder, tmp_path):
    """A baseline with one NaN in its embedding gives an error, not a folder that answers with NaN."""
    broken = folder / "nan"
    broken.mkdir(exist_ok=True)
    for path in (folder / "base").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        quantize(folder, tmp_path / "out", base="nan", method="gptq", group_size=32)


def test_a_calibration_file_that_changed_is_refused(folder, tmp_path):
    """The recipe's identity names the content it was read with: another content is another recipe."""
    (folder / "moving.txt").write_text("twelve letters\n")
    recipe = from_table("v", {"method": "gptq", "calibration": "moving.txt", "samples": 1}, folder)
    (folder / "moving.txt").write_text("other letters\n")
    with pytest.raises(ConfigError, match="has changed since the recipe was read"):
        library.quantizer.quantize(recipe, baseline(folder), tmp_path, lambda done, total: None)


def test_too_few_samples_are_a_usage_error(folder, tmp_path):
    """What is wrong with the calibration file is said as such, not as a failure of the library."""
    with pytest.raises(ConfigError, match=r"has 8 samples of at least 11 tokens, samples = 9 asked"):
        quantize(folder, tmp_path / "out", method="gptq", samples=9)


def test_eight_bits_stay_close_to_the_baseline(folder, tmp_path):
    """The checkpoint is the baseline's: at 8 bits its logits are within 5 % of theirs, and not equal."""
    out = quantize(folder, tmp_path / "out", method="gptq", bits=8, group_size=32)
    ids = torch.arange(1, 33)[None]
    with isolated(), torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        dense, small = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)(input_ids=ids).logits.float()
            for path in (folder / "base", out)
        )
    distance = float((dense - small).norm() / dense.norm())
    assert 0 < distance < 0.05


def test_the_tail_keeps_the_last_lines():
    """Blank lines and redrawn progress are no lines of their own worth keeping."""
    tail = Tail()
    for number in range(10):
        tail.write(f"line {number}\n\n")
    tail.write("10 %\r20 %")
    shown = str(tail).split(" | ")
    assert shown[-2:] == ["10 %", "20 %"]
    assert len(shown) == KEPT_LINES
