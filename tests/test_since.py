"""Against an earlier run: the language, the paired figures, and what cannot be compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate import damages, kld, ppl, ppl_delta, since
from pytest_quantgate.earlier import Earlier
from pytest_quantgate.errors import GateError, GateSyntaxError, NotMeasurableError
from pytest_quantgate.gate import Comparison, Metric
from pytest_quantgate.history import History, Run
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.parse import parse, parse_metric
from pytest_quantgate.report import Change
from pytest_quantgate.report.changes import lines
from pytest_quantgate.spec import Estimate, ModelSpec, Observation, Protocol, Step
from pytest_quantgate.store import Store
from pytest_quantgate.units import Quantity

# --- the language


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("since('v1.2').ppl.delta < 0.05", lambda: since("v1.2").ppl.delta < 0.05),
        ('since("v1.2") . ppl_delta<0.05', lambda: since("v1.2").ppl_delta < 0.05),
        (r"since('it\'s').kld.mean.ratio >= 1", lambda: since("it's").kld.mean.ratio >= 1),
        ("since('a').ppl(protocol='gptq').drop <= 1", lambda: since("a").ppl(protocol="gptq").drop <= 1),
        ("1 > since('out/report.json').disk.recovery", lambda: since("out/report.json").disk.recovery < 1),
    ],
)
def test_text_and_python_agree(text, gate):
    """Both forms are one value, and its text parses back to it."""
    assert parse(text) == gate()
    assert parse(str(gate())) == gate()
    assert gate() != replace(gate(), metric=replace(gate().metric, since="another"))
    assert gate() != replace(gate(), metric=replace(gate().metric, since=""))


@pytest.mark.parametrize(
    ("text", "message", "carets"),
    [
        ("since('v1').ppl < 1", r"write since\('v1'\).ppl.delta or .ratio", "^" * 19),
        ("ppl < 1 and since('v1').kld.mean < 1", r"write since\('v1'\).kld.mean.delta", "^" * 24),
        ("since(v1).ppl.delta < 1", "a run in quotes", "^^"),
        ("since.ppl.delta < 1", r"expected '\(' and an earlier run", "^"),
        ("since('v1') < 1", r"expected '\.' and a metric after since\('v1'\)", "^"),
        ("since('').ppl.delta < 1", "names no run", "^" * 4),
        ("since('a\tb').ppl.delta < 1", "name a run by its id", "^"),
        ("since('v1').since('v2').ppl.delta < 1", "'since' is no metric name", "^"),
    ],
)
def test_text_that_is_no_gate(text, message, carets):
    """A mistake after since(...) is shown where it is, with what to write."""
    with pytest.raises(GateSyntaxError, match=message) as raised:
        parse(text)
    assert carets in str(raised.value).splitlines()[-1]


def test_python_that_is_no_gate():
    """Without a relation there is nothing to compare, and a run has a name."""
    with pytest.raises(GateError, match=r"say how: write since\('v1'\)\.ppl\.delta or \.ratio"):
        since("v1").ppl < 1  # noqa: B015  it raises
    for nothing in ("", 3, None, "a\nb"):
        with pytest.raises(GateError, match="name a run"):
            since(nothing)
    with pytest.raises(GateError, match="'since' is no metric name"):
        Metric("since")
    assert not hasattr(since("v1"), "_private")


# --- the figures


def observation(kld, logprob=None, agree=None, delta_p=None, window=None, **facts):
    count = len(kld)
    return Observation(
        {
            "window": np.repeat(np.arange(count // 4), 4) if window is None else np.asarray(window),
            "logprob": np.asarray(-np.ones(count) if logprob is None else logprob, np.float32),
            "kld": np.asarray(kld, np.float32),
            "kld_excess": np.zeros(count, np.float32),
            "agree": np.asarray(np.ones(count) if agree is None else agree, np.uint8),
            "delta_p": np.asarray(np.zeros(count) if delta_p is None else delta_p, np.float32),
        },
        {"top_k": 64, **facts},
    )


REFERENCE = Observation({"ids": np.arange(50, dtype=np.uint16)})
spans = st.lists(st.floats(0.125, 4, width=32), min_size=16, max_size=16)


def changed(text, now, then, ids=REFERENCE, then_ids=REFERENCE):
    return TOKENS.change(parse_metric(f"since('v1').{text}"), (now, ids), (then, then_ids))


@given(spans, spans)
@settings(max_examples=40, deadline=None)
def test_relations_agree(x, y):
    """The relations of a mean are those of the two means, and their intervals follow from one another."""
    now, then = (
        observation(x, delta_p=x, logprob=np.negative(x)),
        observation(y, delta_p=y, logprob=np.negative(y)),
    )
    for metric, value in (
        ("kld.mean", np.mean),
        ("delta_p.mean", np.mean),
        ("delta_p.rms", lambda z: math.sqrt(np.mean(np.square(z)))),
        ("ppl", lambda z: math.exp(np.mean(z))),
    ):
        ours, theirs = (float(value(np.asarray(z, np.float32).astype(float))) for z in (x, y))
        found = {
            name: changed(f"{metric}.{name}", now, then)
            for name in ("delta", "ratio", "log_ratio", "drop", "recovery")
        }
        assert found["delta"].value == pytest.approx(ours - theirs, abs=1e-9)
        assert found["ratio"].value == pytest.approx(ours / theirs)
        assert found["log_ratio"].value == pytest.approx(math.log(ours / theirs), abs=1e-9)
        assert found["recovery"] == found["ratio"]
        assert found["drop"].value == -found["delta"].value
        assert (found["drop"].low, found["drop"].high) == pytest.approx(
            (-found["delta"].high, -found["delta"].low)
        )
        assert math.log(found["ratio"].low) == pytest.approx(found["log_ratio"].low, abs=1e-9)
        assert all(one.low <= one.value <= one.high for one in found.values())


def test_the_interval_is_paired():
    """Terms that differ by a constant have a difference without any spread, however they vary."""
    x = np.linspace(0.1, 9, 40)
    estimate = changed("kld.mean.delta", observation(x + 0.5), observation(x))
    assert (estimate.value, estimate.unit) == (pytest.approx(0.5, abs=1e-6), "nat")
    assert estimate.high - estimate.low < 1e-5
    assert estimate.unpaired[1] - estimate.unpaired[0] > 1
    assert estimate.clusters == 10


def test_intervals_cover():
    """The interval of a difference of means holds the true one at its stated rate: 400 draws of 30 windows."""
    rng = np.random.default_rng(7)
    covered = {"delta": 0, "ratio": 0}
    for _ in range(400):
        common = rng.gamma(2, 1, 120) + np.repeat(rng.gamma(2, 1, 30), 4)
        x, y = common * rng.uniform(1.0, 1.4, 120), common
        for relation, truth in (("delta", 4 * 0.2), ("ratio", 1.2)):
            found = changed(f"kld.mean.{relation}", observation(x), observation(y))
            covered[relation] += found.low <= truth <= found.high
    # binomial(400, 0.95): 361 is 4 standard deviations below
    assert min(covered.values()) > 361


def test_percentiles_and_zeros():
    """A percentile's difference has no interval; a ratio to nothing is not measurable."""
    now, then = observation(np.arange(16.0)), observation(np.arange(16.0) / 2)
    assert changed("kld.p90.delta", now, then).value == pytest.approx(13.5 / 2)
    assert changed("kld.p90.delta", now, then).low is None
    nothing = observation(np.zeros(16))
    for text in ("kld.mean.ratio", "delta_p.rms.ratio", "kld.max.recovery"):
        with pytest.raises(NotMeasurableError):
            changed(text, now, nothing)
    assert changed("delta_p.rms.delta", now, nothing).value == 0
    with pytest.raises(NotMeasurableError, match="measured alone"):
        alone = Observation({key: now.arrays[key] for key in ("window", "logprob")})
        changed("kld.mean.delta", now, alone)


def test_items_that_do_not_align():
    """Other tokens or other windows are refused; the first that differs is named."""
    now = observation(np.ones(16))
    other = Observation({"ids": np.where(np.arange(50) == 7, 99, np.arange(50)).astype(np.uint16)})
    with pytest.raises(NotMeasurableError, match="do not align: token 7 has the id 7 now, 99 then"):
        changed("ppl.delta", now, now, then_ids=other)
    shorter = Observation({"ids": np.arange(40, dtype=np.uint16)})
    with pytest.raises(NotMeasurableError, match=r"token 40 is in one run only \(50 now, 40 then\)"):
        changed("ppl.delta", now, now, then_ids=shorter)
    with pytest.raises(NotMeasurableError, match="scored token 4 has the window 1 now, 0 then"):
        changed("ppl.delta", now, observation(np.ones(16), window=np.repeat([0, 1], 8)))
    with pytest.raises(NotMeasurableError, match="baseline's observation is not in the store any more"):
        changed("ppl.delta", now, now, then_ids=None)


def test_lines():
    """The summary's text: one line per variant, a reason once."""
    found = lines(
        [
            Change("good", "v1", "ppl", Estimate(0.0131, low=0.0092, high=0.0171)),
            Change("good", "v1", "kld.mean", Estimate(-0.002, "nat")),
            *[Change("bad", "v1", name, reason="gone") for name in ("ppl", "kld.mean")],
        ]
    )
    assert found == (
        ("v1", "good", "ppl +0.0131 [+0.0092, +0.0171], kld.mean -0.002 nat"),
        ("v1", "bad", "gone"),
    )


# --- finding the earlier observations


def step(**changes):
    made = Step(
        "pytest_quantgate.metrics.tokens:TOKENS",
        ModelSpec("good", "x", "sha256:0"),
        Protocol.of("tokens", window=4),
    )
    return replace(made, **changes)


@pytest.fixture
def past(tmp_path):
    """An earlier run v1 of the variant `good`, and what looks for it."""
    store, history = Store(tmp_path), History(tmp_path)
    base = step(model=ModelSpec("baseline", "x", "sha256:1"))
    then = step(reference=base.key)
    store.put(base, REFERENCE)
    store.put(then, observation(np.ones(16)))
    history.add(Run("20261121-041500-0000", tag="v1"), {}, {"good": [then]})
    return Earlier(history, store), store, then, base


METRIC = parse_metric("since('v1').kld.mean.delta")
NOW = (observation(np.ones(16) * 2), REFERENCE)


def test_found_again(past):
    """The same step of other weights is compared; another baseline is noted."""
    earlier, _, then, _ = past
    new = replace(then, model=ModelSpec("good", "y", "sha256:2", dtype="bfloat16"))
    found = earlier.estimate(METRIC, new, NOW)
    assert (found.value, found.note) == (pytest.approx(1), "")
    other = replace(new, reference=replace(then, device="b").key)
    assert earlier.estimate(METRIC, other, NOW).note == "the baseline is another than in v1"


def test_a_damaged_copy_is_its_variant(past):
    """A self-test sets a damaged copy against the earlier variant, so that such a gate can catch the damage."""
    earlier, _, then, _ = past
    copy = damages.damaged(then.model, next(iter(damages.DAMAGES)))
    assert earlier.estimate(METRIC, replace(then, model=copy), NOW).value == pytest.approx(1)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (lambda then: replace(then, protocol=Protocol.of("tokens", window=8)), "measured otherwise in v1: protocol.window: 4, now 8"),
        (lambda then: replace(then, device="cuda"), "measured otherwise in v1: device: none, now cuda"),
        (lambda then: replace(then, observe="pytest_quantgate.metrics.generation:GENERATION"), "v1 has no observation of good"),
        (lambda then: replace(then, model=replace(then.model, name="new")), "v1 judged no variant 'new'; it judged: good"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(past, now, reason):
    """Another protocol, device or variant is not measurable, and the reason says which."""
    earlier, _, then, _ = past
    with pytest.raises(NotMeasurableError, match=reason):
        earlier.estimate(METRIC, now(then), NOW)


def test_gone_from_the_store(past):
    """Observations that were pruned are named by run and key."""
    earlier, store, then, _ = past
    for path in store.older(-1):
        if path.stem == then.key:
            path.unlink()
    with pytest.raises(NotMeasurableError, match=f"of v1 is not in the store any more .key {then.key[:12]}"):
        earlier.estimate(METRIC, then, NOW)
    with pytest.raises(GateError, match="say how"):
        earlier.estimate(replace(METRIC, relation=""), then, NOW)


# --- a session


def test_a_gate_on_a_regression(study):
    """since('v1').ppl.delta is the difference to the earlier checkpoint of the same name, paired."""
    study.gates(release="kld.mean < 99")
    study.run("--quantgate-tag", "v1")
    study.log()
    study.variant("good", seed=1, damage=0.2)
    study.gates(
        worse="since('v1').ppl.delta < 0.001",
        far="since('v1').kld.mean.delta < 0.5 and since('v1').disk.ratio <= 1",
        faster="since('v1').tokens_per_second.ratio > 0.5 or since('v1').bits_per_weight.drop >= 0",
    )
    result = study.run("--quantgate-against", "v1", "--quantgate-report", "out")
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.fnmatch_lines(
        ["*good: since('v1').ppl.delta = 0.* tokens): gate since('v1').ppl.delta < 0.001 missed by*"]
    )
    result.stdout.fnmatch_lines(
        ["against v1: good ppl +0.* [[]+0.*, +0.*], kld.mean +0.* nat [[]*, top1_agreement -*",
         "against v1: bad ppl 0 [[]0, 0], kld.mean 0 nat [[]0, 0], top1_agreement 0 [[]0, 0]"]
    )  # fmt: skip
    # what has not changed is not measured, and the earlier checkpoint is not needed
    assert {line for line in study.log() if line.startswith("score")} == {"score good"}
    report = json.loads((study.path / "out" / "report.json").read_text())
    assert [(c["variant"], c["metric"]) for c in report["changes"]][:2] == [
        ("good", "ppl"),
        ("good", "kld.mean"),
    ]
    assert "### Changes" in (study.path / "out" / "report.md").read_text()


def test_a_report_is_a_run(study):
    """The path of a report.json names its run; the observations are found by the keys in it."""
    study.gates(release="kld.mean < 99")
    study.run("--quantgate-report", "old")
    (study.path / ".quantgate" / "history.sqlite").unlink()
    study.gates(same="since('old/report.json').kld.mean.delta <= 0")
    result = study.run("--quantgate-against", "old/report.json")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["against 2026*: good ppl 0 *"])


UNKNOWN = "unknown run 'v9'; tags: v1; latest runs: 2* (quantgate history lists all)"


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_an_unknown_run_is_a_usage_error(study, workers):
    """A run that is not there ends the session at collection with exit code 4 and the runs there are."""
    if workers:
        pytest.importorskip("xdist")
    study.gates(release="kld.mean < 99")
    study.run("--quantgate-tag", "v1")
    result = study.run("--quantgate-against", "v9", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {UNKNOWN}"])
    study.gates(release="since('v9').ppl.delta < 1")
    result = study.run(*workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: quantgate.toml*: {UNKNOWN}"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_damaged_history_is_a_usage_error(study):
    """Where an earlier run is asked for, a history that cannot be read ends the session in one line."""
    study.gates(release="since('v1').ppl.delta < 1")
    (study.path / ".quantgate").mkdir()
    (study.path / ".quantgate" / "history.sqlite").write_bytes(b"damaged" * 999)
    result = study.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *the history is damaged*"])


def test_what_cannot_be_compared_is_unmeasured(study):
    """Another corpus than before: the gate is unmeasured with the reason, and fails under --quantgate-strict."""
    study.gates(release="kld.mean < 99")
    study.run("--quantgate-tag", "v1")
    study.tables["tokens"] = study.tables["tokens"].replace("256", "128")
    study.gates(release="since('v1').ppl.delta < 1")
    result = study.run("--quantgate-against", "v1", "-rs")
    result.assert_outcomes(skipped=2)
    reason = "good tokens was measured otherwise in v1: protocol.window: 256, now 128"
    result.stdout.fnmatch_lines(
        [f"*{reason}*", f"against v1: {reason.replace('good tokens', 'good good tokens')}"]
    )
    study.run("--quantgate-strict").assert_outcomes(failed=2)


def test_a_statistic_or_relation_that_is_not_there(study):
    """since(...) allows every relation, and no statistic or relation more."""
    for gate, message in (
        ("since('v1').kld.p12.delta < 1", "unknown quantity of kld 'p12'"),
        ("since('v1').vram.delta < 1", "needs a unit; write a limit such as 2GiB"),
        ("since('v1').disk.drop < 1s", "is measured in B"),
        ("since('v1').disk.ratio < 1B", "is a pure number"),
    ):
        study.gates(release=gate)
        study.run().stderr.fnmatch_lines([f"ERROR: *{message}*"])


def test_words():
    """The words of the language that tests import are the same values."""
    assert since("v1").ppl_delta == replace(ppl_delta, since="v1")
    assert since("v1").kld.mean.delta == replace(kld.mean, relation="delta", since="v1")
    assert Comparison(replace(ppl.delta, since="a"), "<", Quantity(1)) == (since("a").ppl.delta < 1)
