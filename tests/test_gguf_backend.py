"""The GGUF backend on the example's trained model: the numbers of transformers, llama.cpp's own ways, and bad files."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models
from gguf_files import ARRAY, FLOAT32, STRING, UINT32
from transformers import AutoConfig, AutoTokenizer

from pytest_quantgate.backends import gguf_text
from pytest_quantgate.backends.gguf import load
from pytest_quantgate.backends.gguf_scores import chosen, token_scores
from pytest_quantgate.backends.transformers import load as load_transformers
from pytest_quantgate.checkpoint.gguf import read_gguf
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    NotMeasurableError,
    ObservationError,
)
from pytest_quantgate.interfaces import Choices, Decoding, Prompt, Window
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.quantizers.gguf_weights import write_gguf
from pytest_quantgate.registry import Registry

EXAMPLE = Path(__file__).parents[1] / "example_project"
CHAT = (
    {"role": "user", "content": "Tell me about Lira Brad."},
    {"role": "user", "content": "What is 3 plus 4?"},
)


def nothing(done: int, total: int) -> None:
    pass


def spec(path: Path, **options: Any) -> Any:
    return tiny_models.spec(path, "variant", backend="gguf", options=tuple(sorted(options.items())))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's model as GGUF, in float32 and float16."""
    made = tmp_path_factory.mktemp("gguf")
    folder = EXAMPLE / "model"
    config, tokenizer = (kind.from_pretrained(folder) for kind in (AutoConfig, AutoTokenizer))
    for kind in ("F32", "F16"):
        write_gguf(folder, config, tokenizer, kind, made / f"{kind}.gguf")
    return made


@pytest.fixture(scope="module")
def theirs() -> Any:
    return load_transformers(tiny_models.spec(EXAMPLE / "model"))


@pytest.fixture(scope="module")
def ours(home: Path) -> Any:
    """The float32 file with a float32 cache: only the order of sums differs from transformers."""
    return load(spec(home / "F32.gguf", kv_cache="f32"))


@pytest.fixture(scope="module")
def windows(theirs: Any) -> list[Window]:
    text = (EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")
    ids = theirs.encode(text[:12_000])
    return [Window(ids[at : at + 256], 1 + at % 512 // 8) for at in range(0, len(ids) - 256, 256)]


def mean(scores: list[Any]) -> float:
    return float(np.concatenate([one.logprob for one in scores]).mean(dtype=np.float64))


def test_perplexity_is_that_of_transformers(
    home: Path, ours: Any, theirs: Any, windows: list[Window]
) -> None:
    """Float32: to 1e-6 relative. Float16 file and cache, llama.cpp's usual way: to 1e-4, token by token to 0.3."""
    expected = list(theirs.score(windows, top_k=16))
    found = list(ours.score(windows, top_k=16))
    assert len(found) == len(windows) > 8
    assert math.isclose(math.exp(-mean(found)), math.exp(-mean(expected)), rel_tol=1e-6)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.logprob, other.logprob, atol=2e-3)
        assert np.allclose(one.floor, other.floor, atol=2e-3)
        assert np.allclose(one.at, other.at, atol=2e-3)
        assert np.array_equal(one.top1, one.ids[:, 0])
        assert (one.top1 == other.top1).mean() > 0.995
        assert (np.diff(one.at, axis=1) <= 0).all()
        assert [one.logprob.dtype, one.at.dtype, one.floor.dtype] == ["float32"] * 3
        assert [one.top1.dtype, one.ids.dtype] == ["int64"] * 2
    half = load(spec(home / "F16.gguf"))
    usual = list(half.score(windows, at=[one.ids for one in expected]))
    assert math.isclose(math.exp(-mean(usual)), math.exp(-mean(expected)), rel_tol=1e-4)
    assert (
        max(np.abs(one.logprob - other.logprob).max() for one, other in zip(usual, expected, strict=True))
        < 0.3
    )
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(usual, expected, strict=True))
    half.close()


def test_text_is_the_same_both_ways(ours: Any, theirs: Any) -> None:
    """Text, special tokens in it, conversations, and back."""
    text = (EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")[
        :20_000
    ] + " <|im_end|>\nna\u00efve \U0001f680 "
    ids = theirs.encode(text)
    assert np.array_equal(ours.encode(text), ids)
    assert ours.decode(ids.tolist()) == theirs.decode(ids.tolist()) == text
    assert len(ours.encode("")) == 0
    for message in CHAT:
        assert np.array_equal(ours.encode_chat([message]), theirs.encode_chat([message]))
    assert (ours.vocab_size, ours.max_length, ours.bos_id) == (
        theirs.vocab_size,
        theirs.max_length,
        theirs.bos_id,
    )


def test_windows_do_not_touch_each_other(ours: Any, home: Path, windows: list[Window]) -> None:
    """What ran before, and in how many batches, changes nothing but the order of sums."""
    alone = next(iter(ours.score(windows[3:4]))).logprob
    ours.generate(windows[0].ids.tolist(), 5)
    together = list(ours.score(windows[:5]))[3].logprob
    assert np.array_equal(alone, together)
    small = load(spec(home / "F32.gguf", kv_cache="f32", batch=32, threads=2))
    assert np.allclose(next(iter(small.score(windows[3:4]))).logprob, alone, atol=2e-3)
    small.close()


def test_a_context_grows_with_what_is_asked(home: Path, windows: list[Window]) -> None:
    """Past the length that the model was made for, too, as transformers does it."""
    model = load(spec(home / "F32.gguf"))
    first = next(iter(model.score(windows[:1]))).logprob
    long = np.concatenate([window.ids for window in windows[:4]])
    (scores,) = model.score([Window(long, 700)])
    assert len(scores.logprob) == len(long) - 700
    assert np.array_equal(next(iter(model.score(windows[:1]))).logprob, first)
    model.close()


# --- generation and answers


def test_greedy_answers_are_those_of_transformers(ours: Any, theirs: Any) -> None:
    for message in CHAT:
        ids = ours.encode_chat([message]).tolist()
        found, expected = (model.generate(ids, 40, stop_at_end=True) for model in (ours, theirs))
        assert found.ids.tolist() == expected.ids.tolist()
        assert len(found.seconds) == len(found.ids)
        assert (np.diff(found.seconds) > 0).all()
    assert len(ours.generate(ids, 60).ids) == 60


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(25),
        Decoding(25, stops=(".", "nothing")),
        Decoding(40, stops=("<|im_end|>",)),
        Decoding(3),
        Decoding(20, temperature=0.9, top_p=0.9, seed=3),
    ],
)
def test_completions_are_those_of_transformers(ours: Any, theirs: Any, decoding: Decoding) -> None:
    """Stops, ends and limits; the random numbers of a prompt are its own, so sampled answers agree as well."""
    prompts = [Prompt(ours.encode_chat([message]), stream) for stream, message in enumerate(CHAT * 2)]
    seen: list[tuple[int, int]] = []
    found = ours.complete(prompts, decoding, lambda *done: seen.append(done))
    assert found == theirs.complete(prompts, decoding, nothing)
    assert seen == [(number, 4) for number in (1, 2, 3, 4)]


def test_likelihoods_are_sums_of_scores(ours: Any, theirs: Any) -> None:
    """Against transformers, and against the same model's own scores without a shared beginning."""
    text = (EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")
    shared = text[:600]
    choices = tuple(ours.encode(word) for word in (" the", " a beetle and a", " Lira", "."))
    asked = [Choices(ours.encode(shared + text[at : at + 80]), choices) for at in (700, 900, 1100)]
    found = ours.likelihoods(asked, nothing)
    expected = theirs.likelihoods(asked, nothing)
    for number, one in enumerate(asked):
        assert np.allclose(found[number], expected[number], atol=5e-3)
        for choice, ids in enumerate(choices):
            whole = Window(np.concatenate([one.context, ids]), len(one.context))
            (scores,) = ours.score([whole])
            assert math.isclose(found[number][choice], scores.logprob.sum(dtype=np.float64), abs_tol=5e-3)


def test_what_is_shared_is_fed_once(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten questions with one long beginning feed little more than one."""
    fed = []
    feed = type(ours.native)._feed
    monkeypatch.setattr(
        type(ours.native),
        "_feed",
        lambda self, part, at, wanted: (fed.append(len(part)), feed(self, part, at, wanted)),
    )
    context = np.arange(3, 203)
    asked = [
        Choices(np.append(context, [number]), (np.array([7]), np.array([8]))) for number in range(300, 310)
    ]
    ours.likelihoods(asked, nothing)
    assert sum(fed) == 201 + 9


# --- cache and options


def test_a_quantized_cache_is_a_variant(home: Path, windows: list[Window], ours: Any) -> None:
    """Keys and values in 8 and 4 bits go through windowed scores, more with fewer bits; it is found as a module."""
    exact, off = list(ours.score(windows[:6])), {}
    for kind, bits in (("f16", 0), ("q8_0", 8), ("int8", 8), ("q4_0", 4)):
        model = load(spec(home / "F32.gguf", kv_cache=kind))
        scores = list(model.score(windows[:6]))
        off[kind] = max(np.abs(a.logprob - b.logprob).max() for a, b in zip(scores, exact, strict=True))
        assert model.findings()["quantized"] == ({"kv_cache": bits} if bits else {})
        model.close()
    assert 0 < off["f16"] < off["q8_0"] == off["int8"] < off["q4_0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kv_cache": "q3"}, "kv_cache = 'q3' is not one of f32"),
        ({"kv_cache": "q8_0", "flash_attention": False}, "kv_cache = 'q8_0' needs it"),
        ({"flash_attention": "yes"}, "write true or false"),
        ({"threads": 0}, "threads = 0: write a whole number from 1"),
        ({"batch": 2.5}, "batch = 2.5"),
        ({"n_gpu": 1}, "has no option 'n_gpu'"),
    ],
)
def test_options_that_cannot_be_used(home: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(spec(home / "F32.gguf", **options))


def test_damage_cannot_be_tried(home: Path) -> None:
    """What the gates' self-test would change in memory is not measurable; it is not passed over in silence."""
    with pytest.raises(NotMeasurableError, match="does not let weights of a GGUF file be changed"):
        load(spec(home / "F32.gguf", inflicted="scales_zeroed", inflicted_seed=0))


def test_flash_attention_gives_nearly_the_same(home: Path, windows: list[Window], ours: Any) -> None:
    model = load(spec(home / "F32.gguf", flash_attention=True))
    exact, found = (mean(list(one.score(windows[:6]))) for one in (ours, model))
    assert exact != found
    assert abs(exact - found) < 1e-3
    model.close()


def test_a_gpu_that_the_build_has_not(home: Path) -> None:
    import llama_cpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build has a GPU")
    model = tiny_models.spec(home / "F32.gguf", backend="gguf", device="cuda")
    with pytest.raises(
        NotMeasurableError, match="is built for the CPU alone, device = 'cuda'; set device = \"cpu\""
    ):
        load(model)


# --- what it is


def test_findings_and_memory(ours: Any, home: Path) -> None:
    found = ours.findings()
    assert found["nonfinite"] == found["remarks"] == []
    assert len(found["dense"]) == 1 + 4 * 7
    assert "token_embd" in found["dense"]
    assert ours.remarks() == ()
    assert ours.load_seconds > 0
    model = load(spec(home / "F32.gguf"))
    model.generate([1, 2, 3], 2)
    assert 1e5 < model.memory()["ram"] < 1e9
    model.close()
    model.close()


def test_weights_that_are_not_finite(home: Path, tmp_path: Path, windows: list[Window]) -> None:
    """A NaN is found by its tensor's name, and no score is made of it."""
    data = bytearray((home / "F32.gguf").read_bytes())
    at = read_gguf(home / "F32.gguf", "x").offsets["blk.2.ffn_up.weight"]
    data[at + 4 : at + 8] = np.float32(np.nan).tobytes()
    (tmp_path / "nan.gguf").write_bytes(data)
    model = load(spec(tmp_path / "nan.gguf"))
    assert model.findings()["nonfinite"] == ["blk.2.ffn_up.weight"]
    with pytest.raises(ObservationError, match="not finite"):
        list(model.score(windows[:1]))
    with pytest.raises(ObservationError, match="not finite"):
        model.likelihoods([Choices(windows[0].ids, (windows[0].ids[:1],))], nothing)
    model.close()


def test_reading_logits() -> None:
    """Against a plain log-softmax in float64; one infinite logit among many is an error."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(70, 300)).astype(np.float32)
    targets = rng.integers(0, 300, 70)
    wide = logits.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    for top_k in (0, 1, 7, 300):
        found = token_scores([logits[:40], logits[40:]], targets, top_k, None)
        assert np.allclose(found.logprob, expected[np.arange(70), targets], atol=1e-5)
        largest = -np.sort(-logits, axis=-1)[:, :top_k]
        assert np.array_equal(np.take_along_axis(logits, found.ids, -1), largest)
        assert np.allclose(found.at, np.take_along_axis(expected, found.ids, -1), atol=1e-5)
        assert np.allclose(found.floor, expected.min(-1), atol=1e-5)
    for bad in (np.nan, np.inf, -np.inf):
        logits[33, 5] = bad
        with pytest.raises(ObservationError, match="not finite"):
            token_scores([logits], targets, 1, None)


def test_a_nucleus_is_drawn_from() -> None:
    """With the chances 0.5, 0.3, 0.2 and a nucleus of 0.6, two tokens are left, at 5 to 3."""
    row = np.log(np.array([0.3, 0.2, 0.5], dtype=np.float32))
    decoding = Decoding(1, temperature=1.0, top_p=0.6)
    assert [chosen(row, drawn, decoding) for drawn in (0.0, 0.62, 0.63, 0.999)] == [2, 2, 0, 0]
    assert chosen(row, 0.0, Decoding(1)) == 2


# --- bad files


def test_another_vocabulary_is_another_model(
    home: Path, tmp_path: Path, ours: Any, windows: list[Window]
) -> None:
    """The tokens observer refuses it by its ids; ids beyond the vocabulary never reach C code."""
    folder = tiny_models.save(tmp_path / "hf", "llama")
    write_gguf(
        folder,
        AutoConfig.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        "F16",
        tmp_path / "o.gguf",
    )
    other = load(spec(tmp_path / "o.gguf"))
    corpus = EXAMPLE / "data" / "heldout.txt"
    arguments = {"protocol": "gptq", "window": 256, "limit": 4, "corpus": str(corpus)}
    protocol = TOKENS.protocol(arguments, {}, tmp_path)
    reference = TOKENS.observe(tiny_models.Subject(ours), protocol, None, nothing)
    with pytest.raises(ObservationError, match="the tokenizer of variant differs from the baseline's"):
        TOKENS.observe(tiny_models.Subject(other), protocol, reference, nothing)
    with pytest.raises(ObservationError, match="not in the model's vocabulary of 320"):
        list(other.score(windows[:1]))
    with pytest.raises(ObservationError, match="the baseline knows the id 1000"):
        list(other.score([Window(np.arange(5))], at=[np.full((4, 1), 1000)]))
    for ids in ([5, 1000], [-1]):
        with pytest.raises(ObservationError, match="no token has the id"):
            other.decode(ids)
    with pytest.raises(ObservationError, match="no chat template"):
        other.encode_chat(CHAT[:1])
    other.close()


def test_a_file_cut_short_never_reaches_llama_cpp(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In its header, its metadata, its list of tensors and its data."""
    data = (home / "F16.gguf").read_bytes()
    names = read_gguf(home / "F16.gguf", "x").offsets
    listed = data.index(b"blk.3.ffn_up.weight")
    for size in (10, 24, 5_000, listed, names["blk.0.attn_q.weight"] + 7, len(data) - 100):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            load(spec(tmp_path / "cut.gguf"))
    assert capfd.readouterr() == ("", "")


def test_what_llama_cpp_cannot_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its reason is in the error, and nothing of it on the terminal."""
    strange = {"general.architecture": (STRING, "wonder"), "tokenizer.ggml.model": (STRING, "gpt2")}
    path = gguf_files.write(tmp_path, metadata=strange)
    with pytest.raises(
        CheckpointError, match=r"llama\.cpp .* cannot load it .*unknown model architecture: 'wonder'"
    ):
        load(spec(path))
    bare = {"general.architecture": (STRING, "llama")}
    with pytest.raises(CheckpointError, match="no vocabulary in it"):
        load(spec(gguf_files.write(tmp_path, metadata=bare)))
    known = {
        **strange,
        "general.architecture": (STRING, "llama"),
        "llama.context_length": (UINT32, 64),
        "llama.embedding_length": (UINT32, 64),
        "llama.block_count": (UINT32, 1),
        "llama.feed_forward_length": (UINT32, 64),
        "llama.attention.head_count": (UINT32, 2),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, 1e-5),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b"])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
    }
    with pytest.raises(CheckpointError, match=r"\(llama_model_load: .*'token_embd\.weight' not found"):
        load(spec(gguf_files.write(tmp_path, metadata=known)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for m in %}", "template refuses"),
        ("{{ messages + 1 }}", "template refuses"),
    ],
)
def test_a_template_that_refuses_or_attacks(ours: Any, template: str, said: str) -> None:
    """Templates come with the file: they run in a sandbox, and their errors are one line."""
    tokenizer = gguf_text.GgufTokenizer("variant", ours.native.vocab, template)
    with pytest.raises(ObservationError, match=said) as caught:
        tokenizer.encode_chat(CHAT)
    assert "\n" not in str(caught.value)


def test_a_template_prints_one_date(ours: Any) -> None:
    tokenizer = gguf_text.GgufTokenizer("variant", ours.native.vocab, "{{ strftime_now('%Y-%m-%d') }}")
    assert ours.decode(tokenizer.encode_chat([]).tolist()) == "2025-01-01"


# --- the library


def test_a_missing_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pytest_quantgate.backends.gguf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pytest-quantgate\[gguf\]'"):
        Registry().get("backends", "gguf")


def test_torch_is_not_needed() -> None:
    """The backend imports neither torch nor transformers, and leaves nothing on the terminal."""
    code = (
        "import sys, pytest_quantgate.backends.gguf\n"
        "assert not {'torch', 'transformers', 'gguf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
