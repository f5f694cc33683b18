"""Each kind of server, asked as it is documented, over a model whose every log-probability is known in closed form."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2")
pytest.importorskip("transformers")

import fake_servers
import tiny_models as tiny
from fake_servers import TABLE, Fake, Faults

from pytest_quantgate.backends.server import ServerModel, load
from pytest_quantgate.backends.server_text import Text
from pytest_quantgate.interfaces import Choices, Decoding, Prompt, Window
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.parse import parse
from pytest_quantgate.spec import ModelSpec, Observation
from pytest_quantgate.verdict import judge

KINDS = ("vllm", "sglang", "llama.cpp", "openai")
BY_ID = KINDS[:3]
Start = Callable[..., tuple[ServerModel, Fake]]


def quiet(_done: int, _total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer."""
    made = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(made)
    (made / "config.json").write_text(
        '{"model_type": "llama", "vocab_size": 320, "max_position_embeddings": 512}'
    )
    return made


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Return a function that starts a fake of a kind and a model on it."""
    fakes: list[Fake] = []
    models: list[ServerModel] = []

    def make(kind: str, faults: Faults | None = None, **options: Any) -> tuple[ServerModel, Fake]:
        text = Text(ModelSpec("v", "", "", path=str(folder)))
        pieces = tuple(piece or "\N{REPLACEMENT CHARACTER}" for piece in text.pieces)
        words = tuple(i for i, piece in enumerate(pieces) if piece.startswith(" ") and len(piece) > 3)
        rows = fake_servers.table(words) if kind == "openai" else TABLE
        fakes.append(Fake(kind, faults or Faults(), pieces, rows))
        spec = ModelSpec("v", "", "w", path=str(folder), backend="server")
        given = {"server": fakes[-1].start(), "request_limit": 20, **options}
        models.append(load(dataclasses.replace(spec, options=tuple(given.items()))))
        return models[-1], fakes[-1]

    yield make
    for model in models:
        model.close()
    for fake in fakes:
        fake.stop()


def windows() -> list[Window]:
    """Return windows of letters and words, one scored from its middle on."""
    rng = np.random.default_rng(3)
    return [
        Window(rng.integers(1, 320, 40)),
        Window(rng.integers(1, 320, 30), 12),
        Window(rng.integers(1, 320, 9)),
    ]


def expected(fake: Fake, window: Window) -> np.ndarray:
    """Return the distributions (S, V) at the scored tokens."""
    return fake.table[window.ids[window.start - 1 : -1]]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_server_tells_is_what_the_model_says(start: Start, kind: str) -> None:
    """Log-probabilities to float32's rounding; the most probable token; NaN for what was not told, never a number."""
    model, fake = start(kind)
    asked = [np.argsort(-expected(fake, window))[:, :8] for window in windows()]
    asked = [np.concatenate([ids, ids[:, ::-1] * 0 + 7], axis=1) for ids in asked]
    for window, ids, scores in zip(windows(), asked, model.score(windows(), at=asked), strict=True):
        rows = expected(fake, window)
        places = np.arange(len(rows))
        np.testing.assert_allclose(scores.logprob, rows[places, window.ids[window.start :]], rtol=1e-6)
        told = ~np.isnan(scores.at)
        np.testing.assert_allclose(scores.at[told], np.take_along_axis(rows, ids, 1)[told], rtol=1e-6)
        assert np.isnan(scores.floor).all()
        if kind != "openai":
            assert told[:, :8].all()
            assert (scores.top1 == rows.argmax(-1)).all()
        else:
            known = scores.top1 >= 0
            assert (scores.top1 == rows.argmax(-1))[known].all()
            assert known.mean() > 0.9


@pytest.mark.parametrize("kind", ["sglang", "llama.cpp"])
def test_the_whole_vocabulary_has_a_floor(start: Start, kind: str) -> None:
    """Where every log-probability is told, the smallest bounds what a truncated sum can miss."""
    model, fake = start(kind)
    window = windows()[2]
    (scores,) = model.score([window], top_k=320)
    np.testing.assert_allclose(scores.floor, expected(fake, window).min(-1), rtol=1e-6)
    assert scores.ids.shape == (8, 320)


@pytest.mark.parametrize(("kind", "told"), [("vllm", 20), ("openai", 5)])
def test_a_server_that_tells_fewer(start: Start, kind: str, told: int) -> None:
    """Its limit is taken from its refusal, once; a baseline keeps so many, all windows alike."""
    model, fake = start(kind)
    found = list(model.score(windows(), top_k=64))
    assert {scores.ids.shape[1] for scores in found} <= ({told} if kind == "vllm" else {2, 3, 4, 5})
    for window, scores in zip(windows(), found, strict=True):
        rows = np.take_along_axis(expected(fake, window), scores.ids, 1)
        np.testing.assert_allclose(scores.at, rows, rtol=1e-6)
        assert (np.diff(scores.at) <= 0).all()
    asked = len(fake.asked)
    list(model.score(windows(), top_k=64))
    assert len(fake.asked) == asked + 3  # nothing is refused a second time


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_sums(start: Start, kind: str) -> None:
    """The likelihood of a choice is the sum over its tokens, each given what is before it."""
    model, fake = start(kind)
    rng = np.random.default_rng(5)
    asked = [
        Choices(rng.integers(1, 320, 6), (rng.integers(1, 320, 1), rng.integers(1, 320, 3))) for _ in range(5)
    ]
    for one, found in zip(asked, model.likelihoods(asked, quiet), strict=True):
        for ids, value in zip(one.continuations, found, strict=True):
            whole = np.concatenate([one.context, ids])
            sums = sum(fake.table[whole[t - 1], whole[t]] for t in range(len(one.context), len(whole)))
            assert value == pytest.approx(sums, rel=1e-6)


@pytest.mark.parametrize("kind", BY_ID)
def test_tokens_come_back_as_ids_with_their_times(start: Start, kind: str) -> None:
    """A timed continuation has exactly the tokens that the model makes, and each its time."""
    model, fake = start(kind)
    trace = model.generate([5, 9], 12)
    assert trace.ids.tolist() == fake.new([5, 9], 12, stop_at_end=False)
    assert (np.diff(trace.seconds) >= 0).all()
    assert trace.seconds[0] > 0


def test_text_alone_gives_tokens_too(start: Start) -> None:
    """Where a stream has no ids, a piece is a token; the plain protocol cannot be told to go on."""
    model, fake = start("openai")
    trace = model.generate([5, 9], 12)
    assert trace.ids.tolist() == fake.new([5, 9], 12, stop_at_end=False)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_end_where_they_should(start: Start, kind: str) -> None:
    """Cut before the first stop; why an answer ended; as many tokens as were made; many at once, in order."""
    model, fake = start(kind)
    prompts = [Prompt(np.array([number + 1])) for number in range(20)]
    texts = [fake.text(fake.new([number + 1], 6, stop_at_end=True)) for number in range(20)]
    found = model.complete(prompts, Decoding(6), quiet)
    assert [answer.text for answer in found] == texts
    assert {(answer.tokens, answer.ended) for answer in found} == {(6, "length")}
    stop = texts[0][3:5]
    (cut,) = model.complete(prompts[:1], Decoding(6, stops=(stop,)), quiet)
    assert (cut.text, cut.ended) == (texts[0][: texts[0].index(stop)], "stop")


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_says_how(start: Start, kind: str) -> None:
    """Ids go in as ids, without a second BOS; seeds differ by prompt; no sampling default of the server's is used."""
    model, fake = start(kind)
    prompts = [Prompt(np.array([3]), stream) for stream in range(3)]
    model.complete(prompts, Decoding(2, temperature=0.5, top_p=0.9, seed=4), quiet)
    list(model.score(windows()))
    bodies = [body.get("sampling_params", body) for _, body in fake.asked]
    assert all(isinstance(body.get("prompt", body.get("input_ids")), list) for _, body in fake.asked)
    seeds = {body.get("seed", body.get("sampling_seed")) for body in bodies[:3]}
    assert len(seeds) == 3
    for body in bodies[:3]:
        assert (body["temperature"], body["top_p"]) == (0.5, 0.9)
    if kind != "openai":
        assert all(body["min_p"] == 0 and body["top_k"] in (0, -1) for body in bodies)
    if kind == "vllm":
        assert all(body["add_special_tokens"] is False for body in bodies)


def test_timed_prompts_pass_by_the_cache(start: Start) -> None:
    """vLLM gets a salt of its own for each, llama-server is told not to use its cache."""
    for kind, sign in (("vllm", "cache_salt"), ("llama.cpp", "cache_prompt")):
        model, fake = start(kind)
        for _ in range(2):
            model.generate([3], 2)
        told = [body[sign] for _, body in fake.asked]
        assert told == [False, False] if sign == "cache_prompt" else len(set(told)) == 2


@pytest.mark.parametrize(
    ("kind", "version"), [("vllm", "0.33.0"), ("sglang", "0.5.6"), ("llama.cpp", "b9999-abc"), ("openai", "")]
)
def test_the_kind_is_found(start: Start, kind: str, version: str) -> None:
    """From who owns the model; version and context are those that the server tells."""
    model, _ = start(kind)
    assert model.remarks() == (f"answered by {kind} {version} as tiny".replace("  ", " "),)
    assert model.max_length == 512
    assert model.memory() == {}
    assert model.findings()["unseen"] is True


def test_special_tokens_stop_by_id(start: Start) -> None:
    """A text shows no special token, so it must end the answer itself."""
    model, fake = start("vllm")
    model.complete([Prompt(np.array([3]))], Decoding(2, stops=("<end>", "x")), quiet)
    assert fake.asked[-1][1]["stop_token_ids"] == [0]


def test_lists_out_of_step_are_refused(start: Start) -> None:
    """A server that tells beside each token what it says of the next one is found out by its own continuation."""

    def late(reply: Any) -> Any:
        table = reply["choices"][0]["logprobs"]
        if table:
            for name in ("token_logprobs", "top_logprobs"):
                table[name] = [*table[name][1:], table[name][-1]]
        return reply

    model, _ = start("openai", Faults(edit=late))
    with pytest.raises(Exception, match="do not belong to the prompt's tokens"):
        list(model.score(windows()))


def test_no_torch_is_needed(folder: Path) -> None:
    """A machine without torch can ask a server."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
        "from pytest_quantgate.backends import server\n"
        "from pytest_quantgate.backends.server_text import Text\n"
        "from pytest_quantgate.spec import ModelSpec\n"
        f"print(Text(ModelSpec('v', '', '', path={str(folder)!r})).encode('the river').tolist())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout.startswith("["), result.stderr


def test_a_divergence_from_a_server_keeps_no_limit(start: Start, tmp_path: Path) -> None:
    """Of equal distributions whose tails are not told: 0 as far as is told, which decides nothing below a limit."""
    (tmp_path / "corpus.txt").write_text("the river rises in the mountains and flows past the old town " * 20)
    protocol = TOKENS.protocol({}, {"corpus": "corpus.txt", "window": 32, "top_k": 16}, tmp_path)

    def observe(kind: str, reference: Observation | None) -> Observation:
        model, _ = start(kind)
        return TOKENS.observe(SimpleNamespace(model=model, spec=model.spec), protocol, reference, quiet)

    found = observe("vllm", observe("sglang", None))
    assert set(found.arrays) >= {"outside", "unranked"}
    outcomes = {
        text: judge(parse(text), lambda metric: TOKENS.estimate(metric, found, None)).outcome
        for text in ("kld.mean < 0.1", "kld.max < 0.1", "kld.mean > -0.1", "top1_agreement > 0.99")
    }
    assert list(outcomes.values()) == ["INCONCLUSIVE", "INCONCLUSIVE", "PASS", "PASS"]
