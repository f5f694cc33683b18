"""Why did it fail: known troubles of tools, and what a calibration file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.explain import Facts, calibration, from_facts
from pytest_quantgate.explain.facts import Shape
from pytest_quantgate.scheme import Scheme
from pytest_quantgate.spec import Estimate

EXAMPLE = Path(__file__).parents[1] / "example_project"
CORPUS = (EXAMPLE / "data" / "heldout.txt").read_bytes()
WRONG, CHAT = "data/calibration_wrong.txt", "data/calibration_chat.jsonl"
SOUND = {"quantized_layers": 28, "bits": [4], "problems": []}


def causes(facts):
    return [one.cause for one in from_facts(facts)]


# --- troubles


@pytest.mark.parametrize(
    ("facts", "cause", "word"),
    [
        (Facts("v", errors=("cannot import name 'AutoGPTQForCausalLM' from 'auto_gptq'",)), "import", "version"),
        (Facts("v", errors=("v: loading (gptqmodel is not installed) needs an extra: pip …",)), "import", "missing"),
        (Facts("v", shape=Shape(10**9, 64, 64, nbytes=2 * 10**9),
               errors=("CUDA out of memory. Tried to allocate 2 GiB",)), "memory", "memory"),
        (Facts("v", files=frozenset({"gptq.safetensors", "config.json"}), errors=("no weights",)), "not_renamed",
         "gptq.safetensors"),
        (Facts("v", files=frozenset({"gptq_model-4bit-128g.safetensors"})), "not_renamed", "renamed"),
        (Facts("v", files=frozenset({"model.safetensors", "config.json"}), errors=("no tokenizer",)), "support_files",
         "tokenizer files"),
        (Facts("v", sanity={"problems": [{"what": "gibberish: perplexity 900", "causes": ["x"]}]}), "gibberish",
         "gibberish"),
        (Facts("v", sanity={"problems": [{"what": "not quantized: all 28 linear layers are dense", "causes": []}]}),
         "not_quantized", "dense"),
        (Facts("v", Scheme("gptq", 4), speed=Estimate(0.42), device="cpu"), "slower", "CPU"),
        (Facts("v", Scheme("gptq", 4), speed=Estimate(0.42), device="cuda"), "slower", "cuda"),
    ],
)  # fmt: skip
def test_troubles_of_the_guide(facts, cause, word):
    """Each is known by its message, files or figures, and says what to do."""
    found = next(one for one in from_facts(facts) if one.cause == cause)
    assert word in found.text
    assert found.advice or cause == "not_quantized"


def test_the_forecast_of_memory():
    """The course page's 340 GB for 140 GB of weights."""
    facts = Facts("v", shape=Shape(70 * 10**9, 8192, 8192, nbytes=140 * 10**9), errors=("out of memory",))
    assert f"{340e9 / 2**30:.1f} GiB" in from_facts(facts)[0].evidence


def test_a_sound_folder_has_no_trouble():
    """Names as transformers writes them; a speed above the baseline's."""
    files = frozenset(file.name for file in (EXAMPLE / "model").iterdir())
    facts = Facts("v", Scheme("gptq", 4), files=files, speed=Estimate(1.3), sanity=SOUND)
    assert causes(facts) == []


# --- calibration files


def test_distance_grows_with_the_difference():
    """The halves of a corpus are alike; the threshold lies between the example's two calibration files."""
    half = len(CORPUS) // 2
    assert calibration.distance(CORPUS[:half], CORPUS[half:]) < 0.02
    chat, wrong = (calibration.read(EXAMPLE / name, 128).text for name in (CHAT, WRONG))
    assert calibration.distance(chat, CORPUS) < 0.3
    assert 0.8 < calibration.distance(wrong, CORPUS) <= 1


def test_a_short_text_of_the_same_kind_is_near():
    """What a few hundred bytes differ by chance is taken off."""
    assert calibration.distance(CORPUS[5000:5400], CORPUS) < 0.15


@pytest.mark.parametrize(
    ("name", "text", "kind", "samples"),
    [
        ("a.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n{"text": "plain"}\n', "text", 2),
        ("b.json", '[{"conversations": [{"from": "user", "value": "hi"}]}]', "conversations", 1),
        ("c.txt", "one\ntwo\n\n", "text", 2),
        ("d.txt", "one\nstill one\n\ntwo", "text", 2),
    ],
)
def test_calibration_files(tmp_path, name, text, kind, samples):
    """The shapes that quantizers read."""
    (tmp_path / name).write_text(text)
    found = calibration.read(tmp_path / name, 128)
    assert (found.kind, found.samples) == (kind, samples)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"{"),
        ("b.json", b"[" * 5000),
        ("c.txt", b"\n\n"),
        ("d.txt", b"\xff\xfe"),
        ("none.txt", None),
    ],
)
def test_hostile_calibration_files(tmp_path, name, content):
    """No file makes an explanation fail."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = calibration.read(tmp_path / name, 128)
    assert found is None or 0 <= calibration.distance(found.text, CORPUS) <= 1
