"""Choices and answers in batches, from shared caches: the same numbers and texts as one at a time, on real networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tiny_models as tiny  # noqa: E402

from pytest_quantgate.backends.prefixes import groups  # noqa: E402
from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.errors import ObservationError  # noqa: E402
from pytest_quantgate.interfaces import Choices, Decoding, Prompt  # noqa: E402
from pytest_quantgate.tasks.plain import answering  # noqa: E402

PADDED, EQUAL, SINGLE = "padded", "equal", "single"
LAYOUTS = {
    "qwen2": PADDED, "llama": PADDED, "gpt2": PADDED, "neox": PADDED,
    "gemma2": EQUAL, "mistral": EQUAL, "gemma3": EQUAL,
    "lfm2": SINGLE, "falcon_h1": SINGLE,
}  # fmt: skip
SIDES = ("left", "right")


def quiet(_done: int, _total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from an architecture to its loaded model; each is made once."""
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = load(tiny.spec(tiny.save(tmp_path_factory.mktemp(kind), kind)))
        return made[kind]

    return get


def questions(count: int = 12, seed: int = 0) -> list[Choices]:
    """Return questions behind two long beginnings, the later ones with choices of several tokens."""
    rng = np.random.default_rng(seed)
    beginnings = [rng.integers(1, 320, 66), rng.integers(1, 320, 70)]
    found = []
    for number in range(count):
        own = rng.integers(1, 320, rng.integers(4, 25))
        long = number >= count - 4
        sizes = rng.integers(1, 5, 3) if long else np.ones(4, dtype=int)
        endings = tuple(rng.integers(1, 320, size) for size in sizes)
        found.append(Choices(np.concatenate([beginnings[number % 2], own]), endings))
    return found


class Plain:
    """A model without its fast ways: what `tasks.plain` goes round."""

    def __init__(self, model: Any) -> None:
        self.spec, self.score, self.generate = model.spec, model.score, model.generate
        self._tokenizer = model.tokenizer

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_shared_and_batched_is_as_one_by_one(loaded: Any, kind: str) -> None:
    """Log-probabilities within 1e-4 in float32, and the same texts, whatever the cache is made of."""
    model = loaded(kind)
    alone = answering(Plain(model))
    asked = questions()
    for ours, theirs in zip(model.likelihoods(asked, quiet), alone.likelihoods(asked, quiet), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    prompts = [Prompt(one.context) for one in questions(36)]  # enough that their beginnings are shared
    decoding = Decoding(12)
    ours, theirs = (one.complete(prompts, decoding, quiet) for one in (model, alone))
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    assert model._decoder._layout == LAYOUTS[kind]
    assert bool(model.remarks()) == (LAYOUTS[kind] == SINGLE)
    assert model._likelihoods._shares == (LAYOUTS[kind] != SINGLE)


@pytest.mark.parametrize("side", SIDES)
def test_the_side_that_a_tokenizer_pads_does_not_matter(loaded: Any, side: str, monkeypatch: Any) -> None:
    """Batches are padded by this package, not by the tokenizer."""
    model = loaded("qwen2")
    before = model.likelihoods(questions(), quiet)
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    after = model.likelihoods(questions(), quiet)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_cache_that_changes_the_numbers_is_not_shared(loaded: Any, monkeypatch: Any) -> None:
    """Where continuing from a cache is not what a plain pass gives, the plain pass counts, and it is said."""
    model = load(loaded("llama").spec)
    expected = model.likelihoods(questions(), quiet)
    broken = load(loaded("llama").spec)
    lent = broken._likelihoods._start

    def spoilt(ids: Any) -> Any:
        cache = lent(ids)
        for layer in cache.layers:
            layer.values = layer.values * 1.5
        return cache

    monkeypatch.setattr(broken._likelihoods, "_start", spoilt)
    found = broken.likelihoods(questions(), quiet)
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in zip(found, expected, strict=True))
    assert "the shared prompt is not cached: it changes a log-probability by" in broken.remarks()[0]


def test_what_questions_share_runs_once(loaded: Any, monkeypatch: Any) -> None:
    """The tokens that go through the decoder are the two beginnings, and the tails, padded."""
    model = load(loaded("qwen2").spec)
    asked = questions(16)
    model.likelihoods(asked[:4], quiet)  # probes done
    fed: list[int] = []
    decoder = model.native.get_decoder()
    decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    model.likelihoods(asked, quiet)
    plain = sum(len(one.context) * len(one.continuations) for one in asked)
    assert sum(fed) < 0.35 * plain


def test_out_of_memory_halves_the_batch(loaded: Any, monkeypatch: Any) -> None:
    """Choices and answers come out the same from the batches that fit."""
    model = load(loaded("qwen2").spec)
    asked = questions()
    prompts = [Prompt(one.context) for one in asked]
    expected = model.likelihoods(asked, quiet), model.complete(prompts, Decoding(6), quiet)
    reading, prefilling, sizes = model._likelihoods._read, model._decoder._prefill, []

    def limited(plain: Any) -> Any:
        def run(rows: Any, *rest: Any) -> Any:
            sizes.append(len(rows))
            if len(rows) > 3:
                raise RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
                )
            return plain(rows, *rest)

        return run

    monkeypatch.setattr(model._likelihoods, "_read", limited(reading))
    monkeypatch.setattr(model._decoder, "_prefill", limited(prefilling))
    found = model.likelihoods(asked, quiet), model.complete(prompts, Decoding(6), quiet)
    assert max(sizes) > 3
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found[1] == expected[1]


def test_an_error_that_is_not_memory_is_not_caught(loaded: Any, monkeypatch: Any) -> None:
    """Only running out of memory makes batches smaller."""
    model = load(loaded("qwen2").spec)

    def broken(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(model._likelihoods, "_read", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        model.likelihoods(questions(), quiet)


def test_nan_is_an_error_and_no_answer(loaded: Any) -> None:
    """A broken weight cannot become a wrong answer."""
    model = load(loaded("qwen2").spec)
    with torch.no_grad():
        model.native.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(ObservationError, match="not finite"):
        model.likelihoods([Choices(np.asarray([5, 6]), (np.asarray([7]),))], quiet)
    with pytest.raises(ObservationError, match="not finite"):
        model.complete([Prompt(np.asarray([5, 6]))], Decoding(3), quiet)


# --- answers


def test_each_row_has_its_own_stop(loaded: Any) -> None:
    """A stop ends its row, is cut off with what follows, and leaves the others alone."""
    model = loaded("llama")
    prompts = [Prompt(one.context) for one in questions()]
    whole = model.complete(prompts, Decoding(24), quiet)
    stop = whole[0].text[4:7]
    found = model.complete(prompts, Decoding(24, stops=(stop, "never said")), quiet)
    for before, after in zip(whole, found, strict=True):
        assert after.text == before.text.partition(stop)[0]
        assert (after.ended == "stop") == (stop in before.text)
        assert after.tokens <= before.tokens
    assert found[0].tokens < whole[0].tokens


def test_random_answers_belong_to_their_stream(loaded: Any) -> None:
    """An answer is the same in whatever batch it is made, another for another stream or seed."""
    model = loaded("llama")
    prompts = [Prompt(one.context, stream) for stream, one in enumerate(questions())]
    random = Decoding(16, temperature=1.0, top_p=0.9, seed=1)
    whole = model.complete(prompts, random, quiet)
    assert model.complete(prompts[::-1][:5], random, quiet) == whole[::-1][:5]
    same = [Prompt(prompts[0].ids, stream) for stream in range(4)]
    assert len({answer.text for answer in model.complete(same, random, quiet)}) == 4
    other = Decoding(16, temperature=1.0, top_p=0.9, seed=2)
    assert model.complete(prompts[:1], other, quiet) != whole[:1]


def test_drawn_tokens_follow_the_model(loaded: Any) -> None:
    """First tokens of many streams occur as often as their probability says, inside the nucleus and nowhere else."""
    model = loaded("llama")
    ids = questions()[0].context
    logits = model.native(torch.from_numpy(ids)[None]).logits[0, -1]
    chances = (logits / 0.7).softmax(-1).detach().numpy().astype(float)
    order = np.argsort(-chances)
    kept = order[: int(np.searchsorted(np.cumsum(chances[order]), 0.8)) + 1]
    count = 600
    decoding = Decoding(1, temperature=0.7, top_p=0.8)
    answers = model.complete([Prompt(ids, stream) for stream in range(count)], decoding, quiet)
    texts = [answer.text for answer in answers]
    shares: dict[str, float] = {}
    for token in kept:  # half a character reads alike, whichever half it is
        text = model.tokenizer.decode([token], skip_special_tokens=True)
        shares[text] = shares.get(text, 0.0) + chances[token] / chances[kept].sum()
    assert set(texts) <= set(shares)
    for text, share in shares.items():
        scatter = 5 * np.sqrt(share * (1 - share) / count)
        assert texts.count(text) / count == pytest.approx(share, abs=scatter + 0.01)


# --- what begins alike


def test_groups_are_those_that_begin_alike() -> None:
    """Two subjects and a stranger: two groups with their shared length, the stranger alone."""
    one, other = np.arange(100), np.arange(200, 260)
    rows = [
        np.concatenate([one, [1, 2, 3]]),
        np.concatenate([other, [9]]),
        np.asarray([7, 7, 7]),
        np.concatenate([one, [1, 5]]),
        np.concatenate([other, [4, 4]]),
        np.concatenate([one, [8]]),
    ]
    found = {frozenset(group.members): group.length for group in groups(rows, [len(row) - 1 for row in rows])}
    assert found == {frozenset({0, 3, 5}): 100, frozenset({1, 4}): 60, frozenset({2}): 0}


def test_what_must_run_for_a_row_is_not_shared() -> None:
    """Rows that are alike to the end share no more than they may."""
    rows = [np.arange(50), np.arange(50)]
    (group,) = groups(rows, [30, 40])
    assert group.length == 30
    assert groups([], []) == []


def test_checkpoints_are_made(tmp_path: Path) -> None:
    """Every architecture of this file can be saved and loaded."""
    assert set(LAYOUTS) <= set(tiny.KINDS)


def test_a_special_token_stops_though_no_text_shows_it(loaded: Any) -> None:
    """The end token of a conversation is often missing from generation_config."""
    model = load(loaded("llama").spec)
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    prompts = [Prompt(one.context) for one in questions()]
    (first, *_) = model.complete(prompts, Decoding(8), quiet)
    trace = model.generate(prompts[0].ids.tolist(), 8)
    model._decoder._tokenizer.convert_tokens_to_ids = lambda _stop: int(trace.ids[3])
    type(model.tokenizer).all_special_ids = property(lambda _self: [int(trace.ids[3])])
    try:
        (cut, *_) = model.complete(prompts[:1], Decoding(8, stops=("<|im_end|>",)), quiet)
    finally:
        del type(model.tokenizer).all_special_ids
    assert cut.ended == "end"
    assert cut.tokens <= 4 < first.tokens


def test_a_template_prints_no_date_of_today(loaded: Any) -> None:
    """Two models asked on two days get one prompt; a template that refuses is one error."""
    model = load(loaded("llama").spec)
    model.tokenizer.chat_template = (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    ids = model.encode_chat([{"role": "user", "content": "water"}])
    assert model.decode(ids.tolist()).startswith("01 Jan 2025")
    model.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(
        ObservationError, match="its chat template refuses the conversation: System role not supported"
    ):
        model.encode_chat([{"role": "user", "content": "water"}])
