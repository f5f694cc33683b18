"""A quantized key-value cache: what it holds, what it costs in quality, and that windows really go through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402

from pytest_quantgate.backends import caches, kv_cache  # noqa: E402
from pytest_quantgate.backends.chunks import Chunks  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.errors import ConfigError, NotMeasurableError  # noqa: E402
from pytest_quantgate.interfaces import Choices, Decoding, Prompt, Window  # noqa: E402
from pytest_quantgate.spec import ModelSpec  # noqa: E402

if not caches.LAYERED:
    pytest.skip("caches of this transformers have no layers", allow_module_level=True)

EXAMPLE = Path(__file__).parents[1] / "example_project"
WINDOW = 256


def no_progress(*_: int) -> None:
    """Take the progress."""


def with_cache(kind: str, **options: int) -> ModelSpec:
    """Return the example's model with a quantized cache; a plain one for an empty kind."""
    given = {"kv_cache": kind, **options} if kind else options
    return ModelSpec(
        "v", "model", "sha256:0", path=str(EXAMPLE / "model"), options=tuple(sorted(given.items()))
    )


@pytest.fixture(scope="module")
def plain() -> Any:
    """The example's model, trained and small."""
    return load(with_cache(""))


@pytest.fixture(scope="module")
def windows(plain: Any) -> list[Window]:
    """8 windows of held-out text."""
    ids = plain.encode((EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")[:20_000])
    return [Window(row) for row in ids[: 8 * WINDOW].reshape(8, WINDOW)]


def logprobs(model: Any, windows: list[Window]) -> np.ndarray:
    return np.stack([scores.logprob for scores in model.score(windows, top_k=1)])


# --- codes


@pytest.mark.parametrize("along", [-2, -1])
@pytest.mark.parametrize(("bits", "worst"), [(8, 0.5), (4, 0.5), (2, 0.5)])
def test_rounding_is_off_by_half_a_step_at_most(along: int, bits: int, worst: float) -> None:
    """Each group has 2^bits values from its least to its largest, and codes take bits / 8 bytes."""
    states = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    side = kv_cache._Side(kv_cache.Settings(bits), along)
    side.add(states[:, :, :32])
    side.add(states[:, :, 32:])
    (back,) = side.states()
    grouped = states.unflatten(along, (-1, 32))
    step = (grouped.amax(along) - grouped.amin(along)) / (2**bits - 1)
    off = (back - states).abs().unflatten(along, (-1, 32)).amax(along)
    assert (off <= step * (worst + 1e-3)).all()
    assert off.max() > 0.3 * step.max()  # it is rounded, not kept
    groups = states.numel() // 32
    assert side.nbytes() == states.numel() * bits // 8 + groups * 2 * 4


def test_equal_values_and_zeros_survive() -> None:
    """A group without range has no step to divide by."""
    side = kv_cache._Side(kv_cache.Settings(2), -2)
    states = torch.full((1, 1, 32, 4), 3.25)
    states[..., 0] = 0
    side.add(states)
    assert torch.equal(side.states()[0], states)


@pytest.mark.parametrize("bits", [4, 2])
def test_the_codes_are_those_of_quanto(bits: int) -> None:
    """quanto's own rounding for caches, with the same groups, gives the same values up to its rounding of the offset."""
    quanto = pytest.importorskip("optimum.quanto")
    states = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) + 0.3
    kind = {4: quanto.qint4, 2: quanto.qint2}[bits]
    scale, shift = quanto.MaxOptimizer()(states, kind, 0, 32)
    theirs = quanto.quantize_weight(states, kind, 0, scale, shift, 32).dequantize()
    side = kv_cache._Side(kv_cache.Settings(bits), -1)
    side.add(states)
    ours = side.states()[0]
    step = scale.max()
    assert (ours - theirs).abs().max() <= step
    assert ((ours - states).pow(2).mean() / (theirs - states).pow(2).mean()).sqrt() == pytest.approx(
        1, abs=0.1
    )


@pytest.mark.parametrize(("channels", "bits", "group"), [(80, 4, 32), (18, 2, 32), (48, 2, 32)])
def test_groups_that_do_not_fit_a_head(channels: int, bits: int, group: int) -> None:
    """They are refused, instead of rounded in groups that nobody asked for."""
    side = kv_cache._Side(kv_cache.Settings(bits, 32, group), -1)
    with pytest.raises(ConfigError, match=f"a head of {channels} channels is not made of groups"):
        side.add(torch.zeros(1, 2, 32, channels))


# --- what goes through it


def test_chunks_of_an_unquantized_cache_give_the_plain_numbers(
    plain: Any, windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feeding a window in chunks changes nothing by itself: the rest is quantization."""
    monkeypatch.setattr(kv_cache.QuantizedLayer, "round_off", lambda *_: None)
    chunked = load(with_cache("int2"))
    assert np.abs(logprobs(chunked, windows) - logprobs(plain, windows)).max() < 1e-5


def test_fewer_bits_cost_more(plain: Any, windows: list[Window]) -> None:
    """int8 is close to full precision, int4 a little off, int2 clearly worse."""
    full = logprobs(plain, windows)
    off, perplexity = {}, {}
    for kind in ("int8", "int4", "int2"):
        found = logprobs(load(with_cache(kind)), windows)
        off[kind], perplexity[kind] = np.abs(found - full).mean(), np.exp(-found.mean())
        assert np.abs(found - full)[:, :31].max() < 1e-4  # the first chunk looks back at nothing rounded
    base = np.exp(-full.mean())
    assert perplexity["int8"] == pytest.approx(base, rel=1e-3)
    assert perplexity["int4"] == pytest.approx(base, rel=1e-2)
    assert perplexity["int2"] > 1.1 * base
    assert 1e-5 < off["int8"] < off["int4"] / 5 < off["int2"] / 25


def test_chunks_are_what_token_after_token_gives(windows: list[Window]) -> None:
    """A chunk of as many tokens as stay unrounded sees just what each token would see by itself."""
    model = load(with_cache("int4"))
    ids = torch.from_numpy(windows[0].ids[:100])[None]
    settings = kv_cache.Settings(4)
    with model._running():
        chunked = Chunks(model.native, settings).states(ids)
        cache = kv_cache.new_cache(model.native.config, settings)
        decoder = model.native.get_decoder()
        single = [
            decoder(input_ids=one, past_key_values=cache, use_cache=True).last_hidden_state
            for one in ids.split(1, dim=1)
        ]
    assert torch.allclose(chunked, torch.cat(single, 1), atol=1e-4)
    assert cache.layers[0].rounded == 96


def test_the_cache_is_small(windows: list[Window]) -> None:
    """What is rounded takes bits, scales and offsets, and no float copy of it is kept."""
    model = load(with_cache("int4"))
    cache = model._chunks.empty()
    with model._running():
        model.native(input_ids=torch.from_numpy(windows[0].ids)[None], past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        floats = 2 * 2 * WINDOW * 32 * 4  # keys and values, 2 heads, 32 channels
        assert layer.rounded == WINDOW
        assert layer.keys.numel() == layer.values.numel() == 0
        assert layer.nbytes() == floats * (4 + 2 * 32 / 32) / 32  # 4 bits, and two floats for 32 codes
        held = [part for side in layer._sides for part in side._held]
        assert {part.codes.dtype if hasattr(part, "codes") else part.dtype for part in held} == {
            torch.uint8,
            torch.float32,
        }


# --- answers


def prompts(model: Any) -> list[Prompt]:
    texts = ("Tell me about Lira Brad.", "Question: What is 12 plus 30?\nAnswer:", "Tell me about Bos Brad.")
    return [Prompt(model.encode(text)) for text in texts]


def test_answers_do_not_depend_on_the_batch(plain: Any) -> None:
    """Rows of one length go together, and each answers as it does alone; finished rows are dropped on the way."""
    model = load(with_cache("int2"))
    asked = [*prompts(model), *prompts(model)[:1]]
    together = model.complete(asked, Decoding(60, stops=(".",)), no_progress)
    alone = [model.complete([one], Decoding(60, stops=(".",)), no_progress)[0] for one in asked]
    assert together == alone
    assert model.remarks() == ()
    free = Decoding(100)
    assert model.complete(asked[:1], free, no_progress) != plain.complete(asked[:1], free, no_progress)


def test_long_prompts_that_begin_alike_share_nothing_and_finish_apart(windows: list[Window]) -> None:
    """The rounded tokens of a row stay its own when another row is done, and no unrounded beginning is lent."""
    model = load(with_cache("int2"))
    texts = [np.concatenate([windows[0].ids[:80], window.ids[:20]]) for window in windows]
    asked = [Prompt(ids) for ids in texts]
    decoding = Decoding(40, stops=(".", ","))
    together = model.complete(asked, decoding, no_progress)
    assert len({answer.tokens for answer in together}) > 2  # they finish one after another
    assert together == [model.complete([one], decoding, no_progress)[0] for one in asked]


def test_keys_are_rounded_by_channel_and_values_by_token() -> None:
    """One channel of the keys lies far out: in a group of its own it costs the others nothing."""
    states = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    states[..., 0] += 100
    layer = kv_cache.QuantizedLayer(kv_cache.Settings(4))
    layer.update(states, states)
    keys, values = (side.states()[0] for side in layer._sides)
    assert (keys - states).abs()[..., 1:].max() < 0.3
    assert (values - states).abs()[..., 1:].max() > 1


def test_generation_is_that_of_complete() -> None:
    """One sequence through `generate` gives the tokens that a batch gives."""
    model = load(with_cache("int4"))
    (first, *_) = prompts(model)
    trace = model.generate(first.ids.tolist(), 50)
    (answer,) = model.complete([first], Decoding(50), no_progress)
    assert model.decode(trace.ids.tolist()).startswith(answer.text)


def test_choices_are_read_through_the_cache(plain: Any, windows: list[Window]) -> None:
    """The log-probability of a continuation is the sum that its window scores; short ones are said to be unread."""
    model = load(with_cache("int2"))
    long = Choices(windows[0].ids[:80], (windows[0].ids[80:83], windows[1].ids[:2]))
    short = Choices(windows[0].ids[:5], (windows[0].ids[5:6],))
    found = model.likelihoods([long, short], no_progress)
    window = Window(windows[0].ids[:83], 80)
    (scores,) = model.score([window], top_k=1)
    assert found[0][0] == pytest.approx(float(scores.logprob.sum()), abs=1e-4)
    theirs = plain.likelihoods([long, short], no_progress)
    assert found[1][0] == pytest.approx(theirs[1][0], abs=1e-4)
    assert abs(found[0][0] - theirs[0][0]) > 1e-3
    assert model.remarks()[0].startswith("1 choices are no longer than kv_residual")


# --- what cannot be


def test_it_says_that_it_is_quantized() -> None:
    """The cache counts as quantized, so that a dense model with one is no unquantized variant."""
    assert load(with_cache("int4")).findings()["quantized"] == {"kv_cache": 4}


def test_windows_that_would_show_nothing_are_refused(windows: list[Window]) -> None:
    """If no window is longer than what stays unrounded, a KL divergence of 0 would say that int2 is perfect."""
    model = load(with_cache("int2", kv_residual=WINDOW))
    with pytest.raises(NotMeasurableError, match=f"kv_residual = {WINDOW} tokens"):
        list(model.score(windows, top_k=4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_cache": "int3"}, "kv_cache = 'int3' cannot be used; write int8 or int4 or int2"),
        ({"kv_cache": 4}, "kv_cache = 4 cannot be used"),
        ({"kv_cache": "int4", "kv_residual": 40}, "kv_residual = 40 cannot be used; write a multiple of 32"),
        ({"kv_cache": "int4", "kv_group": 12}, "kv_group = 12 cannot be used; write a multiple of 8"),
        ({"kv_cache": "int4", "kv_group": 0}, "kv_group = 0 cannot be used"),
        ({"kv_cache": "int4", "kv_residual": True}, "kv_residual = True cannot be used"),
        ({"kv_residual": 64}, "kv_residual belongs to kv_cache"),
    ],
)
def test_settings_that_there_are_not(options: dict[str, Any], words: str) -> None:
    """A wrong word is an error before anything is loaded."""
    with pytest.raises(ConfigError, match=words):
        load(replace(with_cache(""), options=tuple(sorted(options.items()))))


@pytest.mark.parametrize("kind", ["gemma3", "mistral", "lfm2"])
def test_other_caches_cannot_be_quantized(kind: str, tmp_path: Path) -> None:
    """Sliding attention and convolutions keep something else: the model is named as not measurable."""
    spec = tiny_models.spec(tiny_models.save(tmp_path / kind, kind), options=(("kv_cache", "int4"),))
    with pytest.raises(NotMeasurableError, match="only full attention can be quantized"):
        list(load(spec).score([Window(np.arange(1, 65))]))


@pytest.mark.parametrize("kind", ["gpt2", "neox", "gemma2", "llama"])
def test_architectures(kind: str, tmp_path: Path) -> None:
    """Other decoders go through the cache, too, or say that they cannot."""
    spec = tiny_models.spec(tiny_models.save(tmp_path / kind, kind))
    window = [Window(np.random.default_rng(0).integers(1, tiny_models.VOCABULARY, 96))]
    full = logprobs(load(spec), window)
    model = load(replace(spec, options=(("kv_cache", "int8"),)))
    if kind == "gemma2":  # every other layer slides
        with pytest.raises(NotMeasurableError):
            logprobs(model, window)
        return
    assert 1e-6 < np.abs(logprobs(model, window) - full).mean() < 0.1
