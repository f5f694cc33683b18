"""The gguf recipe: conversions have the logits of transformers, and quantizations are llama.cpp's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402
from tokenizers.pre_tokenizers import Digits, Sequence, Split  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pytest_quantgate.backends.gguf import load  # noqa: E402
from pytest_quantgate.backends.transformers import load as load_transformers  # noqa: E402
from pytest_quantgate.checkpoint import preflight  # noqa: E402
from pytest_quantgate.errors import CheckpointError, ConfigError  # noqa: E402
from pytest_quantgate.interfaces import Window  # noqa: E402
from pytest_quantgate.metrics.tokens import divergence  # noqa: E402
from pytest_quantgate.quantizers import gguf as library  # noqa: E402
from pytest_quantgate.quantizers import gguf_architectures, gguf_vocabulary, gguf_weights  # noqa: E402
from pytest_quantgate.quantizers.gguf_importance import importance  # noqa: E402
from pytest_quantgate.quantizers.gguf_vocabulary import EXPRESSIONS  # noqa: E402
from pytest_quantgate.recipe import from_table  # noqa: E402
from pytest_quantgate.spec import ModelSpec  # noqa: E402

GROUPED = {**tiny_models.SHAPE, "num_key_value_heads": 2}
WIDE = {**GROUPED, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
NETWORKS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=False)),
    "llama tied, biased": lambda: LlamaForCausalLM(
        LlamaConfig(**GROUPED, tie_word_embeddings=True, attention_bias=True, rms_norm_eps=1e-3)
    ),
    "llama 3 rope": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, rope_parameters=LLAMA3)),
    "llama linear rope": lambda: LlamaForCausalLM(
        LlamaConfig(**GROUPED, rope_parameters={"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0})
    ),
    "llama wide heads": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, head_dim=32)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED, tie_word_embeddings=True)),
    "qwen2 head, theta": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **GROUPED, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
        )
    ),
    "qwen2 yarn": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **GROUPED,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=32)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **GROUPED,
            head_dim=32,
            query_pre_attn_scalar=32,
            final_logit_softcapping=5.0,
            attn_logit_softcapping=2.0,
            sliding_window=32,
        )
    ),
}
TOLERANCE = 2e-4
"""Of a log-probability, float32 against float32: the two sum in other orders."""

GELU_TOLERANCE = 3e-3
"""With llama.cpp's GELU, which it reads from a table in float16."""


def save(folder: Path, network: Any, tokenizer: Any = None) -> Path:
    """Write a checkpoint whose norms and biases count, too."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.mul_(4)
            else:
                weight.add_(0.3 * torch.randn(weight.shape))
            assert weight.abs().max() > 0, name
    network.save_pretrained(folder)
    (tokenizer or tiny_models.tokenizer()).save_pretrained(folder)
    return folder


def make(folder: Path, out: Path, root: Path | None = None, **keys: Any) -> Path:
    """Quantize a checkpoint."""
    out.mkdir()
    recipe = from_table("v", {"method": "gguf", **keys}, root or folder)
    library.quantizer.quantize(recipe, tiny_models.spec(folder), out, lambda done, total: None)
    return out


def logprobs(model: Any, ids: Any) -> np.ndarray:
    """Return all log-probabilities (T - 1, vocabulary) of a window."""
    everything = np.broadcast_to(np.arange(model.vocab_size), (len(ids) - 1, model.vocab_size))
    (scores,) = model.score([Window(ids)], at=[everything])
    return np.asarray(scores.at, dtype=np.float64)


def random_ids(length: int = 100) -> np.ndarray:
    return np.random.default_rng(0).integers(1, tiny_models.VOCABULARY, length)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_conversion_has_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    """Float32 weights and a float32 cache give transformers' log-probabilities to rounding, whatever the architecture."""
    torch.manual_seed(0)
    folder = save(tmp_path / "hf", NETWORKS[kind]())
    made = make(folder, tmp_path / "gguf", type="F32")
    assert [path.name for path in made.iterdir()] == ["model.gguf"]
    ours = load(tiny_models.spec(made, backend="gguf", options=(("kv_cache", "f32"),)))
    theirs = load_transformers(tiny_models.spec(folder))
    expected = logprobs(theirs, random_ids())
    assert expected.std() > 0.3
    tolerance = GELU_TOLERANCE if kind == "gemma2" else TOLERANCE
    assert np.abs(logprobs(ours, random_ids()) - expected).max() < tolerance
    assert ours.bos_id == theirs.bos_id
    ours.close()


def without_window(writer: Any, config: Any) -> None:
    """Describe a model as if its windows were as long as the context."""
    config.sliding_window = config.max_position_embeddings
    gguf_architectures.describe(writer, config)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        ("llama", "permuted", lambda tensor, heads: tensor),
        ("gemma2", "describe", without_window),
        ("llama 3 rope", "extra_tensors", lambda config: {}),
    ],
)
def test_the_tolerance_tells_a_wrong_conversion(
    kind: str, name: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries in another order, no window, frequencies as they are: each is far above it."""
    torch.manual_seed(0)
    folder = save(tmp_path / "hf", NETWORKS[kind]())
    monkeypatch.setattr(gguf_weights, name, wrong)
    ours = load(tiny_models.spec(make(folder, tmp_path / "gguf", type="F32"), options=(("kv_cache", "f32"),)))
    expected = logprobs(load_transformers(tiny_models.spec(folder)), random_ids())
    assert np.abs(logprobs(ours, random_ids()) - expected).max() > 10 * GELU_TOLERANCE


# --- tokenizers


CASES = (
    "Don't stop, 12345 times 6.7!  The  river's\n\n gate\topens\r\nwhen WATER falls; naïve café 你好 🚀 it's"
)


def trained(pre_tokenizer: Any) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with this pre-tokenizer, and special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny_models.VOCABULARY,
        special_tokens=["<end>", "<|user|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([tiny_models.text(), CASES * 3, library.CHECK_TEXT * 99], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", additional_special_tokens=["<|user|>"]
    )


def split_by(expression: str) -> Any:
    from tokenizers import Regex

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return Sequence([Split(Regex(expression), "isolated"), plain])


PRE_TOKENIZERS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: Sequence(
        [Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    **{
        name: (lambda expression=expression: split_by(expression)) for expression, name in EXPRESSIONS.items()
    },
}


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_pre_tokenizer_has_its_name_in_llama_cpp(name: str, tmp_path: Path) -> None:
    """The converted vocabulary gives the tokenizer's own ids, and the text back."""
    tokenizer = trained(PRE_TOKENIZERS[name]())
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}\n{% endfor %}"
    folder = save(tmp_path / "hf", NETWORKS["llama"](), tokenizer)
    model = load(tiny_models.spec(make(folder, tmp_path / "gguf", type="F16")))
    there = AutoTokenizer.from_pretrained(folder)
    text = CASES + "<|user|>" + tiny_models.text(300)
    ids = there(text, add_special_tokens=False)["input_ids"]
    assert model.encode(text).tolist() == ids
    assert model.decode(ids) == there.decode(ids) == text
    chat = [{"role": "user", "content": "when water falls"}]
    expected = there.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert model.encode_chat(chat).tolist() == expected
    model.close()


def pieces(*, bos: bool, prefix: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer on characters with bytes for the rest, as Llama 2 has it."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=tiny_models.VOCABULARY,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=5,
        show_progress=False,
    )
    backend.train_from_iterator(tiny_models.text().split(), trainer)
    kept = json.loads(backend.to_str())
    kept["added_tokens"] = kept["added_tokens"][: len(special)]
    made = Tokenizer.from_str(json.dumps(kept))
    if bos:
        from tokenizers import processors

        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(("bos", "prefix"), [(True, True), (False, True), (True, False)])
def test_a_tokenizer_of_pieces(tmp_path: Path, *, bos: bool, prefix: bool) -> None:
    """Scores stand for the merges' order, bytes for what has no piece, and Llama's leading blank is there, or Gemma's not."""
    folder = save(tmp_path / "hf", NETWORKS["llama"](), pieces(bos=bos, prefix=prefix))
    model = load(tiny_models.spec(make(folder, tmp_path / "gguf", type="F16")))
    there = AutoTokenizer.from_pretrained(folder)
    for text in (CASES, tiny_models.text(500), "a"):
        assert model.encode(text).tolist() == there(text, add_special_tokens=False)["input_ids"]
    assert model.bos_id == (1 if bos else None)
    model.close()


def test_a_vocabulary_smaller_than_the_head_is_padded(tmp_path: Path) -> None:
    """Rows of the embedding without a token are kept, so the logits are as many."""
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": 384}))
    folder = save(tmp_path / "hf", network)
    model = load(
        tiny_models.spec(make(folder, tmp_path / "gguf", type="F32"), options=(("kv_cache", "f32"),))
    )
    assert model.vocab_size == 384
    expected = logprobs(load_transformers(tiny_models.spec(folder)), random_ids())
    assert np.abs(logprobs(model, random_ids()) - expected).max() < TOLERANCE


# --- what is refused


def changed(folder: Path, out: Path, **keys: Any) -> Path:
    """Copy a checkpoint with another configuration."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **keys}))
    return out


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("gemma") / "hf", NETWORKS["gemma2"]())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"query_pre_attn_scalar": 16}, "query_pre_attn_scalar is 16, llama.cpp takes 32"),
        ({"layer_types": ["full_attention", "full_attention"]}, "do not take turns"),
        ({"hidden_activation": "relu"}, "activation is relu"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "scaled by 'dynamic'",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    gemma: Path, tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    folder = changed(gemma, tmp_path / "hf", **keys)
    with pytest.raises(ConfigError, match=said):
        make(folder, tmp_path / "gguf")


def test_an_unknown_architecture_names_those_that_are_known(tmp_path: Path) -> None:
    folder = tiny_models.save(tmp_path / "hf", "gpt2")
    with pytest.raises(
        ConfigError, match=r"a gpt2 model \(it converts: llama, mistral, qwen2, qwen3, gemma2\)"
    ):
        make(folder, tmp_path / "gguf")


def test_an_unknown_pre_tokenizer(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", NETWORKS["llama"](), trained(split_by(r"\w\w")))
    with pytest.raises(ConfigError, match=r"no name in llama\.cpp is known for its pre-tokenizer"):
        make(folder, tmp_path / "gguf")


def test_a_tokenizer_that_llama_cpp_reads_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids are compared: a wrong name is found out."""
    folder = save(tmp_path / "hf", NETWORKS["llama"](), trained(PRE_TOKENIZERS["gpt-2"]()))
    monkeypatch.setattr(gguf_vocabulary, "_pre_tokenizer", lambda settings, folder: "llama-bpe")
    with pytest.raises(ConfigError, match=r"llama.cpp's token \d+ is \[\d+\], transformers' \[\d+\]"):
        make(folder, tmp_path / "gguf")


def test_a_window_that_slides_in_transformers_alone_ends_the_context(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=24)))
    made = make(folder, tmp_path / "gguf", type="F16")
    assert preflight(made).config["max_position_embeddings"] == 24


def test_weights_that_float16_cannot_hold(tmp_path: Path) -> None:
    network = NETWORKS["llama"]()
    with torch.no_grad():
        network.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    folder = save(tmp_path / "hf", network)
    with pytest.raises(CheckpointError, match='not finite in float16; write type = "BF16" or "F32"'):
        make(folder, tmp_path / "gguf", type="F16")


def test_a_tensor_too_many(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "hf", NETWORKS["llama"]())
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra.weight": torch.zeros(4, 4)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.layers.0.extra.weight is none that a llama model has"):
        make(folder, tmp_path / "gguf")


def test_llama_cpps_reason_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A tensor that is missing is llama.cpp's to find; what it says is in the error and not on the terminal."""
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "hf", NETWORKS["llama"]())
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    capfd.readouterr()
    with pytest.raises(CheckpointError, match=r"blk.1.ffn_up.weight") as caught:
        make(folder, tmp_path / "gguf")
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")


# --- quantization


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose rows are multiples of 256, as K-quants need."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("wide")
    folder = save(home / "hf", Qwen2ForCausalLM(Qwen2Config(**WIDE, tie_word_embeddings=False)))
    (folder / "calibration.txt").write_text(tiny_models.text(4000).replace(".\n", ".\n\n"))
    return folder


def distance(model: Any, reference: np.ndarray) -> float:
    """Return the mean KL divergence from a reference of all log-probabilities."""
    found = logprobs(model, random_ids())
    kld, _ = divergence(reference, found, found.min(-1), reference.shape[1])
    return float(kld.mean())


def test_fewer_bits_are_further_away(wide: Path, tmp_path: Path) -> None:
    """Q8_0 to Q2_K: the tensors have the type's bits, files shrink, and the divergence grows."""
    reference = logprobs(load_transformers(tiny_models.spec(wide)), random_ids())
    bits, sizes, distances = [], [], []
    for kind in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"):
        made = make(wide, tmp_path / kind, type=kind)
        found = preflight(made)
        model = load(tiny_models.spec(made, backend="gguf"))
        section = found.quantization or {"bits": 16, "file_type": "F16"}
        assert section["file_type"] == kind
        assert model.remarks() == ()
        assert min(set(model.findings()["quantized"].values()) or {16}) == section["bits"]
        bits.append(section["bits"])
        sizes.append(sum(found.weight_files.values()))
        distances.append(distance(model, reference))
        model.close()
    assert bits == [16, 8, 6, 5, 4, 3, 2]
    assert sizes == sorted(sizes, reverse=True)
    assert distances == sorted(distances)
    assert distances[0] < 1e-4
    assert distances[-1] > 1e-2


def test_importance_is_the_mean_square_of_what_goes_in(wide: Path) -> None:
    """Against hidden states that transformers gives out: the first layer's queries read the normalized embedding."""
    samples = [random_ids(20).tolist(), random_ids(33)[::-1].tolist()]
    found = importance(wide, samples, "cpu", lambda done: None)
    model = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32)
    with torch.no_grad():
        states = torch.cat([model.get_input_embeddings()(torch.tensor(ids)) for ids in samples])
        expected = model.model.layers[0].input_layernorm(states).square().mean(0).numpy()
    assert np.allclose(found["blk.0.attn_q.weight"], expected, rtol=1e-5)
    assert np.array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])
    assert len(found) == 7
    assert found["blk.0.ffn_down.weight"].shape == (512,)
    assert "output.weight" not in found


def test_calibration_data_change_the_codes_for_the_better(wide: Path, tmp_path: Path) -> None:
    """With an importance matrix the same type has other bytes, twice the same, and on that text a lower divergence."""
    keys = {"type": "Q2_K", "calibration": "calibration.txt", "samples": 16, "max_length": 64}
    plain = make(wide, tmp_path / "plain", type="Q2_K")
    one, two = make(wide, tmp_path / "one", **keys), make(wide, tmp_path / "two", **keys)
    assert (one / "model.gguf").read_bytes() == (two / "model.gguf").read_bytes()
    assert (one / "model.gguf").read_bytes() != (plain / "model.gguf").read_bytes()
    theirs = load_transformers(tiny_models.spec(wide))
    ids = theirs.encode(tiny_models.text(1500))[:300]
    reference = logprobs(theirs, ids)
    found = {}
    for folder in (plain, one):
        other = logprobs(load(tiny_models.spec(folder)), ids)
        found[folder] = divergence(reference, other, other.min(-1), reference.shape[1])[0].mean()
    assert found[one] < found[plain]


def test_progress_counts_samples_and_steps(wide: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    keys = {
        "method": "gguf",
        "type": "Q4_0",
        "calibration": "calibration.txt",
        "samples": 3,
        "max_length": 64,
    }
    out = tmp_path / "out"
    out.mkdir()
    library.quantizer.quantize(
        from_table("v", keys, wide), tiny_models.spec(wide), out, lambda *done: seen.append(done)
    )
    assert seen == [(number, 6) for number in (1, 2, 3, 4, 5, 6)]
    assert [path.name for path in out.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("kind", "absent", "bits", "family"),
    [("Q4_K_M", "Q4_K", 5, "K-quants"), ("IQ4_XS", "IQ4_XS", 4, "I-quants")],
)
def test_narrow_rows_get_another_type_and_it_is_said(
    tmp_path: Path, kind: str, absent: str, bits: int, family: str
) -> None:
    """llama.cpp falls back without a word; the bits that are reported are those that are there."""
    torch.manual_seed(0)
    folder = save(tmp_path / "hf", NETWORKS["qwen2"]())
    made = make(folder, tmp_path / "gguf", type=kind)
    section = preflight(made).quantization
    assert section is not None
    assert absent not in section["types"]
    assert section["bits"] == bits
    model = load(tiny_models.spec(made))
    (remark,) = model.remarks()
    assert remark.startswith(
        f"{kind} was asked for, but 100% of the weights lie in rows that are no multiple of 256, which {family} need"
    )
    assert model.findings()["remarks"] == [remark]


def test_a_gguf_baseline_is_quantized_as_it_is(wide: Path, tmp_path: Path) -> None:
    """The same bytes of weights as from safetensors; an importance matrix and a quantized source are refused."""
    source = make(wide, tmp_path / "f32", type="F32")
    direct, again = (
        make(wide, tmp_path / "direct", type="Q4_0"),
        make(source, tmp_path / "again", type="Q4_0"),
    )
    assert (direct / "model.gguf").read_bytes() == (again / "model.gguf").read_bytes()
    with pytest.raises(ConfigError, match=r"quantized already \(Q4_0\)"):
        make(again, tmp_path / "twice", type="Q4_0")
    with pytest.raises(ConfigError, match="no importance matrix can be made of"):
        make(source, tmp_path / "x", wide, type="Q4_0", calibration="calibration.txt", samples=2)


def test_a_calibration_file_that_changed(wide: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one two three\n")
    recipe = from_table("v", {"method": "gguf", "calibration": "c.txt", "samples": 1}, tmp_path)
    (tmp_path / "c.txt").write_text("other words\n")
    with pytest.raises(ConfigError, match="has changed since the recipe was read"):
        library.quantizer.quantize(
            recipe, ModelSpec("b", "b", "x", path=str(wide)), tmp_path, lambda *_: None
        )
