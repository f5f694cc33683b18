"""What the quantizers share, what goes together in a recipe, and the libraries of other environments where there are any."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402

from pytest_quantgate.backends.modules import bits_of, weight_bytes  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.errors import CheckpointError, ConfigError, MissingExtraError  # noqa: E402
from pytest_quantgate.executors import remote  # noqa: E402
from pytest_quantgate.quantizers import making, schemes  # noqa: E402
from pytest_quantgate.recipe import from_table  # noqa: E402
from pytest_quantgate.registry import Registry  # noqa: E402
from pytest_quantgate.spec import ModelSpec  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "example_project"
CHAT = {"calibration": str(EXAMPLE / "data" / "calibration_chat.jsonl"), "samples": 32, "max_length": 128}


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_models.network("qwen2")


# --- shared


def test_progress_counts_each_layer_once_and_in_order(network: Any) -> None:
    """However often a library runs a layer, a person sees it begin once; layers that are skipped do not jump ahead."""
    seen: list[tuple[int, int]] = []
    with making.watched(network, lambda *event: seen.append(event)):
        states, positions = torch.randn(1, 3, 64), torch.arange(3)[None]
        rotary = network.model.rotary_emb(states, positions)
        network.model.layers[1](states, position_embeddings=rotary)
        assert seen == []
        for layer in (0, 0, 1, 1, 0):
            network.model.layers[layer](states, position_embeddings=rotary)
    assert seen == [(1, 2), (2, 2), (2, 2)]
    network.model.layers[0](states, position_embeddings=rotary)
    assert len(seen) == 3  # nothing is left behind in the model


def test_a_model_that_answers_nan_is_refused(network: Any) -> None:
    """The checkpoint that was just made is tried before it is kept."""
    making.check_logits(network, [1, 2, 3])
    broken = tiny_models.network("qwen2")
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with torch.no_grad(), pytest.raises(CheckpointError, match="NaN or infinite logits"):
        making.check_logits(broken, [1, 2, 3])


def test_a_failure_of_a_library_is_one_line() -> None:
    """It names library, recipe and what was raised."""
    recipe = from_table("v", {"method": "quanto"}, Path())
    spec = ModelSpec("baseline", "model", "sha256:0")
    from pytest_quantgate.quantizers.isolation import Tail

    output = Tail()
    output.write("the last words")
    with (
        pytest.raises(
            CheckpointError, match=r"thelib could not make quanto \(bits = 8\).*KeyError.*the last words"
        ),
        making.explained("thelib", recipe, spec, output),
    ):
        raise KeyError("a\nb")


# --- recipes of llm-compressor


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"scheme": "W8A8", "group_size": 32, **CHAT}, "W8A8 has no groups"),
        ({"scheme": "FP8_DYNAMIC", **CHAT}, 'write modifier = "round"'),
        ({"desc_act": True, "modifier": "awq", **CHAT}, 'desc_act belongs to modifier = "gptq"'),
        ({}, "name a calibration file"),
        ({"modifier": "awq"}, "name a calibration file"),
        ({"scheme": "FP8", "modifier": "round"}, "name a calibration file"),
    ],
)
def test_what_does_not_go_together_is_refused(table: dict[str, Any], words: str) -> None:
    """A parameter that would be passed over in silence is an error that says what to write."""
    with pytest.raises(ConfigError, match=words):
        schemes.check(from_table("v", {"method": "llmcompressor", **table}, Path()))


@pytest.mark.parametrize(
    "table",
    [
        {**CHAT},
        {"scheme": "W8A8", **CHAT},
        {"scheme": "W8A16", "modifier": "round", "group_size": 32},
        {"scheme": "FP8_DYNAMIC", "modifier": "round"},
    ],
)
def test_what_goes_together(table: dict[str, Any]) -> None:
    """Good recipes pass."""
    schemes.check(from_table("v", {"method": "llmcompressor", **table}, Path()))


# --- libraries of other environments


@pytest.mark.parametrize(
    ("method", "library"),
    [
        ("llmcompressor", "llmcompressor"),
        ("autoround", "auto_round"),
        ("auto-gptq", "auto_gptq"),
        ("autoawq", "awq"),
    ],
)
def test_a_library_that_is_not_here_names_its_extra(method: str, library: str) -> None:
    """One line instead of an import error."""
    from importlib.util import find_spec

    if find_spec(library):
        pytest.skip(f"{library} is installed here")
    with pytest.raises(MissingExtraError, match=rf"pytest-quantgate\[{method}\]"):
        Registry().get("quantizers", method)


OWN = {
    "llmcompressor": {"group_size": 32},
    "autoround": {"group_size": 32, "iterations": 3},
    "autoawq": {"group_size": 32},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", list(OWN))
def test_a_recipe_in_another_environment(method: str, tmp_path: Path) -> None:
    """Made there, loaded here: 4 bits in every layer, and the example's model still speaks.

    QUANTGATE_TEST_LLMCOMPRESSOR and its kin name the interpreter.
    """
    python = os.environ.get(f"QUANTGATE_TEST_{method.upper()}", "")
    if not python:
        pytest.skip(f"QUANTGATE_TEST_{method.upper()} names no interpreter")
    subprocess.run([python, "-c", "import torch"], check=True)
    recipe = from_table("v", {"method": method, **CHAT, **OWN[method]}, Path())
    baseline = ModelSpec("baseline", "model", "sha256:0", path=str(EXAMPLE / "model"), dtype="bfloat16")
    seen: list[tuple[int, int]] = []
    remote.quantize(
        Registry().reference("quantizers", method),
        "v",
        replace(recipe, python=python),
        baseline,
        tmp_path,
        limit=600.0,
        progress=lambda *event: seen.append(event),
    )
    assert seen == sorted(seen)
    assert seen[-1] == (4, 4)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (EXAMPLE / "model" / name).read_bytes()
    model = load(ModelSpec("v", "v", "sha256:1", path=str(tmp_path)))
    quantized = model.findings()["quantized"]
    assert len(quantized) == 28
    assert set(quantized.values()) == {4}
    prompt = "Question: What is 12 plus 30?\nAnswer:"
    trace = model.generate(model.encode(prompt).tolist(), 4)
    assert model.decode(trace.ids.tolist()).strip()


# --- what a loaded model is made of


def test_bytes_in_memory_fall_with_the_bits(tmp_path: Path) -> None:
    """Weights of an unquantized model are counted once where they are tied; quanto's codes take what bits say."""
    pytest.importorskip("optimum.quanto")
    folder = tiny_models.save(tmp_path / "base", "qwen2")
    plain = load(tiny_models.spec(folder)).native
    assert weight_bytes(plain) == sum(tensor.nbytes for tensor in plain.parameters())
    layers = sum(layer.weight.nbytes for name, layer in plain.named_modules() if name.endswith("_proj"))
    rest = weight_bytes(plain) - layers
    for bits in (8, 4, 2):
        spec = tiny_models.spec(folder, "v")
        recipe = from_table("v", {"method": "quanto", "bits": bits}, Path())
        found = load(replace(spec, recipe=recipe)).findings()["weight_bytes"] - rest
        assert layers * bits / 32 < found < layers * bits / 32 * 1.8  # scales and zero-points of small groups


def test_a_plain_float8_weight_is_quantized() -> None:
    """transformers' FP8Linear keeps an ordinary tensor of that type."""
    layer = torch.nn.Linear(4, 4)
    assert bits_of(layer) == 0
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert bits_of(layer) == 8
