"""llama-cpp-python's server, run for real: its figures are those of the same library in this process."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2")
pytest.importorskip("gguf")
pytest.importorskip("fastapi")
llama_cpp = pytest.importorskip("llama_cpp")
pytest.importorskip("torch")

import tiny_gguf  # noqa: E402

from pytest_quantgate.backends import transformers  # noqa: E402
from pytest_quantgate.backends.server import ServerModel, load  # noqa: E402
from pytest_quantgate.errors import NotMeasurableError, ObservationError  # noqa: E402
from pytest_quantgate.gate import Metric  # noqa: E402
from pytest_quantgate.interfaces import Choices, Decoding, Prompt, Window  # noqa: E402
from pytest_quantgate.metrics.generation import GENERATION  # noqa: E402
from pytest_quantgate.metrics.tokens import TOKENS  # noqa: E402
from pytest_quantgate.spec import ModelSpec, Observation  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "example_project"
FLAGS = "--logits_all true --n_ctx 512 --interrupt_requests false --n_threads 2 --n_threads_batch 2"
ROUNDING = 5e-6  # of a log-probability: float32 logits, two orders of summation
PPL = Metric("ppl")
SETTINGS = {"corpus": "corpus.txt", "window": 192, "limit": 1, "top_k": 16}


def quiet(_done: int, _total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example's model as GGUF: as it is, without BOS, and as a file whose tokenizer begins texts with one."""
    folder = tmp_path_factory.mktemp("gguf")
    model = EXAMPLE / "model"
    (folder / "corpus.txt").write_text((EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")[:1500])
    return {
        "plain": tiny_gguf.write(model, folder / "plain.gguf", pre="qwen2"),
        "bos": tiny_gguf.write(model, folder / "bos.gguf", pre="qwen2", bos=0),
    }


def served(file: Path, flags: str = FLAGS) -> ServerModel:
    """Start a server for a file."""
    launch = f"{sys.executable} -m llama_cpp.server --model {file} --port {{port}} {flags}"
    options = (("launch", launch), ("request_limit", 60), ("start_limit", 120))
    return load(ModelSpec("served", "", "w", path=str(EXAMPLE / "model"), backend="server", options=options))


@pytest.fixture(scope="module")
def models(files: dict[str, Path]) -> Iterator[dict[str, ServerModel]]:
    """The servers of both files."""
    made = {name: served(file) for name, file in files.items()}
    yield made
    for model in made.values():
        model.close()


def in_process(file: Path, ids: np.ndarray) -> np.ndarray:
    """Return the distributions (T, V) after each token, by llama.cpp in this process."""
    engine = llama_cpp.Llama(
        str(file), logits_all=True, n_ctx=512, n_threads=2, n_threads_batch=2, verbose=False
    )
    try:
        engine.eval(ids.tolist())
        logits = engine.scores[: len(ids)].astype(np.float64)
    finally:
        engine.close()
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def words(model: ServerModel, count: int = 160) -> np.ndarray:
    """Return the first tokens of the held-out text."""
    return model.encode((EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")[:2000])[:count]


@pytest.mark.parametrize("name", ["plain", "bos"])
def test_log_probabilities_are_those_of_this_process(
    files: dict[str, Path], models: dict[str, ServerModel], name: str
) -> None:
    """Each within its rounding, and so the perplexity to a relative 1e-6; with BOS, and without (one place late)."""
    ids = words(models[name])
    ids = np.concatenate([[0], ids]) if name == "bos" else ids
    known = in_process(files[name], ids)
    places = np.arange(len(ids) - 1)
    expected = known[places, ids[1:]]
    asked = np.argsort(-known[:-1])[:, :16]
    (scores,) = models[name].score([Window(ids)], at=[asked])
    np.testing.assert_allclose(scores.logprob, expected, atol=ROUNDING)
    ours, theirs = (math.exp(-float(np.mean(part, dtype=np.float64))) for part in (scores.logprob, expected))
    assert ours == pytest.approx(theirs, rel=1e-6)
    told = ~np.isnan(scores.at)
    assert told.mean() > 0.95
    np.testing.assert_allclose(
        scores.at[told], np.take_along_axis(known[:-1], asked, 1)[told], atol=2 * ROUNDING
    )
    assert (scores.top1 == known[:-1].argmax(-1)).mean() > 0.99
    if name == "plain":  # the whole vocabulary was told
        np.testing.assert_allclose(scores.floor, known[:-1].min(-1), atol=2 * ROUNDING)


def observe(model: Any, files: dict[str, Path], reference: Observation | None = None) -> Observation:
    """Observe one window of the held-out text."""

    class Subject:
        spec = model.spec

    Subject.model = model  # type: ignore[attr-defined]
    protocol = TOKENS.protocol({}, SETTINGS, files["plain"].parent)
    return TOKENS.observe(Subject(), protocol, reference, quiet)


def test_metrics_against_a_baseline_of_transformers(
    files: dict[str, Path], models: dict[str, ServerModel]
) -> None:
    """The same weights in float32: perplexity and agreement as the baseline's, a divergence of nearly nothing."""
    spec = ModelSpec("baseline", "", "sha256:0", path=str(EXAMPLE / "model"))
    engine = transformers.load(spec)
    baseline = observe(engine, files)
    engine.close()
    variant = observe(models["plain"], files, baseline)
    ppl, reference = (TOKENS.estimate(PPL, one, None).value for one in (variant, baseline))
    assert ppl == pytest.approx(
        reference, rel=2e-3
    )  # llama.cpp sums in another order, and rounds the KV cache to half
    assert TOKENS.estimate(Metric("top1_agreement"), variant, baseline).value > 0.97
    kld = TOKENS.estimate(Metric("kld", statistic="mean"), variant, baseline)
    assert 0 <= kld.value < 1e-3


def test_choices_and_answers(files: dict[str, Path], models: dict[str, ServerModel]) -> None:
    """Sums over the tokens of a choice; the greedy text of this process; a stop cuts it."""
    model = models["plain"]
    ids = words(model, 60)
    asked = [Choices(ids[:40], (ids[40:43], ids[10:11]))]
    known = in_process(files["plain"], ids)
    (found,) = model.likelihoods(asked, quiet)
    assert found[0] == pytest.approx(sum(known[t - 1, ids[t]] for t in (40, 41, 42)), abs=4 * ROUNDING)
    assert found[1] == pytest.approx(known[39, ids[10]], abs=2 * ROUNDING)
    tokens = []
    for _ in range(12):
        tokens.append(int(in_process(files["plain"], np.array([*ids[:40], *tokens]))[-1].argmax()))
    text = model.decode(tokens)
    (answer,) = model.complete([Prompt(ids[:40])], Decoding(12), quiet)
    assert (answer.text, answer.tokens, answer.ended) == (text, 12, "length")
    (cut,) = model.complete([Prompt(ids[:40])], Decoding(12, stops=(text[4:7],)), quiet)
    assert (cut.text, cut.ended) == (text[: text.index(text[4:7])], "stop")
    trace = model.generate(ids[:40].tolist(), 12)
    assert trace.ids.tolist() == tokens


def test_drawn_answers_repeat(models: dict[str, ServerModel]) -> None:
    """The same seed and stream give the same text, another stream another."""
    ids = words(models["plain"], 8)
    prompts = [Prompt(ids, stream) for stream in (1, 1, 2, 3)]
    made = models["plain"].complete(prompts, Decoding(16, temperature=1.5, seed=3), quiet)
    assert made[0] == made[1]
    assert len({answer.text for answer in made}) > 1


def test_speed_alone_and_at_once(models: dict[str, ServerModel]) -> None:
    """This server takes one request after another: what waits has a late first token, and throughput does not rise."""

    class Subject:
        spec, model = models["plain"].spec, models["plain"]

    settings = {"prompt": "Tell me about Lira Brad.", "new_tokens": 10, "runs": 2, "warmup": 1}
    found = {}
    for count in (1, 4):
        protocol = GENERATION.protocol({"concurrent": count}, settings, Path())
        observed = GENERATION.observe(Subject(), protocol, None, quiet)
        for name in ("tokens_per_second", "ttft", "token_latency"):
            found[name, count] = GENERATION.estimate(Metric(name), observed, None).value
    assert found["ttft", 4] > 1.5 * found["ttft", 1]
    assert found["tokens_per_second", 4] > 0


def test_a_server_that_tells_no_log_probabilities(files: dict[str, Path]) -> None:
    """Perplexity is not measurable, and the flag to give is named; answers are."""
    model = served(files["plain"], "--n_ctx 512 --n_threads 2 --logits_all false")
    try:
        with pytest.raises(NotMeasurableError, match="start it with --logits_all true"):
            list(model.score([Window(words(model, 20))]))
        assert model.complete([Prompt(words(model, 20))], Decoding(4), quiet)[0].tokens == 4
        # its default: a stream is cut when another request comes
        with pytest.raises(ObservationError, match="without saying why"):
            model.generate_many([words(model, 20).tolist()] * 4, 60)
    finally:
        model.close()


def test_a_prompt_that_is_no_text(models: dict[str, ServerModel]) -> None:
    """Tokens that the server's tokenizer would cut otherwise are refused, not shifted."""
    ids = words(models["plain"], 30)
    whole = next(token for token in ids[5:].tolist() if len(models["plain"].decode([token]).strip()) > 2)
    letters = [int(models["plain"].encode(char)[0]) for char in models["plain"].decode([whole])]
    split = np.array([*letters, *ids])
    with pytest.raises(
        ObservationError, match="has no text that the server's tokenizer turns into the same tokens"
    ):
        list(models["plain"].score([Window(split)]))


def test_a_prompt_longer_than_its_context(models: dict[str, ServerModel]) -> None:
    """What the server says is the message."""
    ids = np.resize(words(models["plain"], 100), 600)
    with pytest.raises(ObservationError, match=r"status 400: .*context length is 512 tokens"):
        list(models["plain"].score([Window(ids)]))


def test_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends, and its last lines are the message."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ObservationError, match="the server ended with status 1"):
        served(tmp_path / "broken.gguf")
