"""The token observer on the fake model: windows, corpora, identity of the tokens, estimates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import (
    ConfigError,
    NotMeasurableError,
    ObservationError,
    UnknownNameError,
    UsageError,
)
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.tokens import TOKENS, divergence
from pytest_quantgate.metrics.windows import cut, resolved, stream
from pytest_quantgate.spec import ModelSpec, Observation, Protocol, Step
from pytest_quantgate.stats import clustered_mean, means

SETTINGS = {"corpus": "corpus.txt", "window": 64}


class Subject:
    """A fake model, loaded."""

    def __init__(self, name: str = "baseline", **options: Any) -> None:
        self.spec = ModelSpec(name, name, "sha256:0", options=tuple(options.items()))
        self.model = fakes.load(self.spec)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with a corpus of 2000 tokens."""
    (tmp_path / "corpus.txt").write_text(fakes.corpus(2000))
    return tmp_path


def nothing(_done: int, _total: int) -> None:
    """Report to nobody."""


def observe(root: Path, variant: Subject, **settings: Any) -> tuple[Observation, Observation]:
    """Observe the undamaged baseline, then the variant."""
    protocol = TOKENS.protocol({}, {**SETTINGS, **settings}, root)
    baseline = TOKENS.observe(Subject(), protocol, None, nothing)
    return baseline, TOKENS.observe(variant, protocol, baseline, nothing)


# --- windows


@given(st.integers(2, 400), st.integers(2, 60), st.integers(1, 60))
def test_sliding_scores_each_token_once(length: int, window: int, stride: int) -> None:
    """Whatever window and stride: every token but the first is scored once, with as much left context as fits."""
    stride = min(stride, window - 1)
    ids = np.arange(length)
    windows, used = cut(ids, resolved({"protocol": "sliding", "window": window, "stride": stride}), None)
    scored = np.concatenate([w.ids[w.start :] for w in windows])
    assert scored.tolist() == list(range(1, length))
    assert used == length
    assert all(len(w.ids) <= window and w.start >= 1 for w in windows)
    assert all(w.ids[w.start] - w.ids[0] >= min(w.ids[w.start], window - stride) for w in windows)


@given(st.integers(2, 400), st.integers(2, 60))
def test_gptq_windows(length: int, window: int) -> None:
    """Windows tile the text, score all but their first token, and the rest of the text is dropped."""
    windows, used = cut(np.arange(length), resolved({"protocol": "gptq", "window": window}), None)
    assert [int(w.ids[0]) for w in windows] == list(range(0, length - window + 1, window))
    assert {(len(w.ids), w.start) for w in windows} <= {(window, 1)}
    assert used == length // window * window


def test_llama_cpp_windows() -> None:
    """Chunks of 512 score their last 255 tokens, and BOS stands first in each, as in llama-perplexity."""
    parameters = resolved({"protocol": "llama.cpp"})
    windows, used = cut(stream(np.arange(1, 1100), "auto", 7777), parameters, 7777)
    assert (len(windows), used) == (2, 1024)
    assert [len(w.ids) - w.start for w in windows] == [255, 255]
    assert [w.ids[:2].tolist() for w in windows] == [[7777, 1], [7777, 513]]


def test_limit() -> None:
    """`limit` keeps the first windows, and only their tokens count as used."""
    windows, used = cut(np.arange(100), resolved({"protocol": "gptq", "window": 10, "limit": 3}), None)
    assert (len(windows), used) == (3, 30)


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"protocol": "gtpq"}, UnknownNameError, "did you mean 'gptq'"),
        ({"window": 1}, ConfigError, "at least 2"),
        ({"window": "big"}, ConfigError, "whole number"),
        ({"top_k": True}, ConfigError, "top_k"),
        ({"stride": 4}, ConfigError, "do not overlap"),
        ({"protocol": "sliding", "window": 8, "stride": 9}, ConfigError, "longer than the window"),
        ({"bos": "yes"}, UnknownNameError, "bos"),
    ],
)
def test_unusable_settings(wanted: dict[str, Any], error: type[Exception], words: str) -> None:
    """A setting that cannot be used is refused with one line that names it."""
    with pytest.raises(error, match=words):
        resolved(wanted)


# --- protocol and corpus


def test_identity_is_the_text(corpus: Path, tmp_path: Path) -> None:
    """The same text elsewhere has the same step key, another text another; JSON keeps where it lies."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "renamed.txt").write_text((corpus / "corpus.txt").read_text())
    (other / "changed.txt").write_text((corpus / "corpus.txt").read_text() + "!")
    spec = Subject().spec
    steps = [
        Step("x:y", spec, TOKENS.protocol({}, {**SETTINGS, "corpus": name}, root))
        for root, name in ((corpus, "corpus.txt"), (other, "renamed.txt"), (other, "changed.txt"))
    ]
    assert steps[0].key == steps[1].key != steps[2].key
    again = Step.from_json(json.loads(json.dumps(steps[1].to_json())))
    assert again.key == steps[1].key
    assert again.protocol.places == steps[1].protocol.places


def test_arguments_win_over_settings(corpus: Path) -> None:
    """`ppl("sliding")` names the protocol, and another protocol does not inherit the configured window."""
    protocol = TOKENS.protocol({"of": "sliding"}, SETTINGS, corpus)
    assert (protocol["protocol"], protocol["window"], protocol["stride"]) == ("sliding", 1024, 512)
    assert TOKENS.protocol({"window": 32}, SETTINGS, corpus)["window"] == 32


def test_formats_of_one_text(corpus: Path) -> None:
    """Text, JSON lines and Parquet of the same rows are the same corpus."""
    rows = ["one two", "three", "four"]
    (corpus / "a.txt").write_text("\n\n".join(rows))
    (corpus / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    names = ["a.txt", "a.jsonl"]
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        pass
    else:
        pq.write_table(pa.table({"text": rows}), corpus / "a.parquet")
        names.append("a.parquet")
    digests = {TOKENS.protocol({}, {"corpus": name}, corpus)["corpus"] for name in names}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "does not exist"),
        ("empty.txt", "  \n", "is empty"),
        ("rows.jsonl", '{"body": "x"}\n', "without the text field 'text'"),
        ("rows.jsonl", "{not json\n", "cannot be read"),
        ("rows.parquet", "not parquet", "cannot be read"),
    ],
)
def test_unusable_corpus(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    """A corpus that cannot be used is a usage error of one line that names the file."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        TOKENS.protocol({}, {"corpus": name}, tmp_path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("table", [{"pth": "x"}, {"path": "a", "dataset": "b"}, {}, 3])
def test_unusable_corpus_table(tmp_path: Path, table: object) -> None:
    """A corpus table with unknown or contradictory fields is refused."""
    with pytest.raises(ConfigError, match="corpus"):
        TOKENS.protocol({}, {"corpus": table}, tmp_path)


def test_too_short_too_long_and_changed(corpus: Path) -> None:
    """A text shorter than a window, a window longer than the model, a text that changed: one line each."""
    with pytest.raises(ObservationError, match="fewer than one window of 4000"):
        observe(corpus, Subject("v"), window=4000)
    (corpus / "corpus.txt").write_text(fakes.corpus(6000))
    with pytest.raises(ObservationError, match="does not fit the model's 4096 positions"):
        observe(corpus, Subject("v"), window=5000)
    protocol = TOKENS.protocol({}, SETTINGS, corpus)
    (corpus / "corpus.txt").write_text("another text " * 100)
    with pytest.raises(ObservationError, match="has changed"):
        TOKENS.observe(Subject(), protocol, None, nothing)


def test_another_tokenizer_is_refused(corpus: Path) -> None:
    """Different ids for the same text are an error that names the first place and both tokens."""
    with pytest.raises(ObservationError, match=r"token 0 is \d+ \('.'\), the baseline's \d+"):
        observe(corpus, Subject("v", tokenizer_shift=1))


def test_a_tokenizer_that_ends_early_is_refused(corpus: Path) -> None:
    """Equal ids as far as they go, but fewer windows of them."""
    shorter = Subject("v")
    encode = shorter.model.encode
    shorter.model.encode = lambda text: encode(text)[:-100]
    with pytest.raises(ObservationError, match=r"1856 tokens for 1984; copy the baseline's tokenizer files"):
        observe(corpus, shorter)


def test_a_bos_that_the_tokenizer_lacks(corpus: Path) -> None:
    """Asking for a BOS token of a model without one is an error that names the way out."""
    with pytest.raises(ObservationError, match=r'puts no BOS token before a text; use "auto"'):
        observe(corpus, Subject("v"), bos="always")


# --- estimates


def test_pure_damage(corpus: Path) -> None:
    """More damage, more of everything; none, exactly nothing."""
    found = {}
    for damage in (0.0, 0.1, 1.0):
        baseline, variant = observe(corpus, Subject("v", damage=damage))
        metrics = {"kld": "mean", "ppl": "", "top1_agreement": "", "delta_p": "rms"}
        found[damage] = [
            TOKENS.estimate(Metric(n, statistic=s), variant, baseline).value for n, s in metrics.items()
        ]
    assert found[0.0][0] == 0
    assert found[0.0][2:] == [1.0, 0.0]
    assert found[0.0][0] < found[0.1][0] < found[1.0][0]
    assert found[0.0][1] < found[0.1][1] < found[1.0][1]
    assert found[0.1][2] > found[1.0][2]


def test_paired_relations_agree(corpus: Path) -> None:
    """Delta, ratio and log ratio say the same, with intervals that hold their value and are tighter than unpaired."""
    baseline, variant = observe(corpus, Subject("v", damage=0.3))
    alone = [TOKENS.estimate(Metric("ppl"), observation, None) for observation in (variant, baseline)]
    delta, ratio, log = (
        TOKENS.estimate(Metric("ppl", relation=r), variant, baseline) for r in ("delta", "ratio", "log_ratio")
    )
    assert delta.value == pytest.approx(alone[0].value - alone[1].value)
    assert ratio.value == pytest.approx(alone[0].value / alone[1].value)
    assert log.value == pytest.approx(math.log(ratio.value))
    for estimate in (delta, ratio, log, *alone):
        assert estimate.low < estimate.value < estimate.high
    assert delta.high - delta.low < alone[0].high - alone[0].low


def test_intervals_need_two_windows(corpus: Path) -> None:
    """One window gives a value and no interval."""
    baseline, variant = observe(corpus, Subject("v", damage=0.3), limit=1)
    estimate = TOKENS.estimate(Metric("ppl", relation="ratio"), variant, baseline)
    assert (estimate.low, estimate.high) == (None, None)
    assert estimate.n == 63


def test_comparisons_need_the_baseline(corpus: Path) -> None:
    """A divergence of the baseline itself, or a delta without one, is not measurable; other tokens are an error."""
    baseline, variant = observe(corpus, Subject("v"))
    with pytest.raises(NotMeasurableError):
        TOKENS.estimate(Metric("kld", statistic="mean"), baseline, baseline)
    with pytest.raises(NotMeasurableError):
        TOKENS.estimate(Metric("ppl", relation="delta"), variant, None)
    shorter, _ = observe(corpus, Subject("v"), limit=2)
    with pytest.raises(ObservationError, match="same tokens"):
        TOKENS.estimate(Metric("ppl", relation="delta"), variant, shorter)


def test_truncation_is_noted(corpus: Path) -> None:
    """With K below the vocabulary the note states what is missed; with K at it there is none."""
    notes = []
    for top_k in (8, 64):
        baseline, variant = observe(corpus, Subject("v", damage=0.3), top_k=top_k)
        notes.append(TOKENS.estimate(Metric("kld", statistic="mean"), variant, baseline).note)
    assert "top 8" in notes[0]
    assert not notes[1]


def test_bytes_per_token(corpus: Path) -> None:
    """The baseline takes K * 6 bytes per token and a few more for a vocabulary below 65,536."""
    baseline, _ = observe(corpus, Subject("v"), top_k=16)
    size = sum(array.nbytes for array in baseline.arrays.values())
    assert 16 * 6 <= size / baseline.facts["tokens"] <= 16 * 6 + 14


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.01, 4.0))
def test_divergence_bounds(seed: int, top_k: int, noise: float) -> None:
    """For any two distributions: truncated <= exact <= truncated + excess, and both are exact at K = vocabulary."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, 40)) * 3
    p, q = (
        x - np.log(np.exp(x).sum(-1, keepdims=True))
        for x in (logits, logits + noise * rng.normal(size=(5, 40)))
    )
    exact = (np.exp(p) * (p - q)).sum(-1)
    ids = np.argsort(-p, axis=1)[:, :top_k]
    low, excess = divergence(np.take_along_axis(p, ids, 1), np.take_along_axis(q, ids, 1), q.min(-1), 40)
    assert (low <= exact + 1e-6).all()
    assert (exact <= low + excess + 1e-6).all()
    if top_k == 40:
        assert low == pytest.approx(exact)


# --- statistics


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (30, 2.0423), (10**6, 1.96)]
)
def test_t_quantile(freedom: int, quantile: float) -> None:
    """The quantiles of Student's t are those of the printed tables."""
    assert means.t_of(0.975, freedom) == pytest.approx(quantile, abs=1e-4)


def test_clustered_error() -> None:
    """Copies of a token add nothing: the error of clustered copies is that of the clusters."""
    values = np.random.default_rng(3).normal(size=40)
    alone = clustered_mean(values, np.arange(40))
    copied = clustered_mean(np.repeat(values, 5), np.repeat(np.arange(40), 5))
    assert copied.value == pytest.approx(alone.value)
    assert copied.error == pytest.approx(alone.error) == pytest.approx(values.std(ddof=1) / math.sqrt(40))


def test_protocol_without_places_is_as_before() -> None:
    """A protocol without data files has no places in its JSON."""
    assert "places" not in Protocol.of("x", a=1).to_json()
