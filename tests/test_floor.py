"""The noise floor: the baseline against itself, shown, taken off, and refused as a limit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import Study

from pytest_quantgate import kld, ppl, top1_agreement, vram
from pytest_quantgate.errors import NotMeasurableError
from pytest_quantgate.floor import raw, unchanged
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.spec import Observation

REPORT = ("--quantgate-report", "out")


def figures(study: Study) -> dict[str, dict[str, float]]:
    report = json.loads((study.path / "out" / "report.json").read_text())
    rows = [report["baseline"], *report["variants"]]
    return {row["name"]: {key: figure["value"] for key, figure in row["figures"].items()} for row in rows} | {
        "notes": dict.fromkeys(report["notes"], 0.0)
    }


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (ppl.delta, 0.0),
        (ppl.ratio, 1.0),
        (kld.p99, 0.0),
        (top1_agreement, 1.0),
        (ppl, None),
        (vram, None),
    ],
)
def test_what_a_model_that_has_not_changed_measures(metric, expected):
    """Only what compares with the baseline has a floor."""
    assert unchanged(metric) == expected


def test_what_the_floor_is_taken_off():
    """Of a perplexity it is the change that counts, of a divergence the figure itself."""
    assert raw(ppl.over_floor) == ppl.delta
    assert raw(kld.mean.over_floor) == kld.mean


def test_the_floor_is_measured_once_and_shown(study):
    """Four passes over the baseline, kept; the figures stand in its row, and name the change that made them."""
    study.gates(close="kld.mean < 0.1")
    done = study.run("--quantgate-floor", "-k", "good", *REPORT)
    assert done.ret == 0
    scored = [line for line in study.log() if line.startswith("score baseline with")]
    assert len(scored) == 4
    found = figures(study)
    assert 0 < found["baseline"]["kld.mean"] < 1e-4
    assert 0 < found["baseline"]["ppl.delta"] < 1e-2
    assert any("eager attention" in note for note in found["notes"])
    again = study.run("--quantgate-floor", "-k", "good", *REPORT)
    assert again.ret == 0
    assert not [line for line in study.log() if line.startswith("score")]
    assert figures(study) == found


def test_nothing_is_measured_unless_asked_for(study):
    """The floor costs passes of the baseline."""
    study.gates(close="kld.mean < 0.1")
    assert study.run("-k", "good").ret == 0
    assert not [line for line in study.log() if "baseline with" in line]


def test_over_floor_gates_the_excess(study):
    """A gate that names it needs no option; the excess is the figure less the floor, its interval too."""
    study.gates(
        excess="kld.mean.over_floor < 0.1 and ppl.over_floor < 1", plain="kld.mean < 0.1 and ppl.delta < 1"
    )
    done = study.run("-k", "good", *REPORT)
    assert done.ret == 0
    found = figures(study)
    for metric, excess in (("kld.mean", "kld.mean.over_floor"), ("ppl.delta", "ppl.over_floor")):
        over = found["good"][metric] - found["good"][excess]
        assert over == pytest.approx(found["baseline"][metric])


def test_a_limit_below_the_floor_is_refused(study):
    """Not even the baseline meets it: the gate fails, and says why, whatever the variant is."""
    study.gates(tight="kld.mean < 1e-12")
    done = study.run("--quantgate-floor", "-k", "good")
    assert done.ret == 1
    done.stdout.fnmatch_lines(
        ["*its limit lies below the noise floor of * with eager attention; raise the limit*"]
    )


def test_a_floor_under_confidence(study):
    """The excess keeps its sampling distribution: an interval at another level moves with it."""
    study.gates(excess="kld.mean.over_floor < 0.1")
    assert study.run("-k", "good", "--quantgate-confidence", "0.99").ret == 0


@pytest.mark.parametrize("gate", ["disk.over_floor < 1GiB", "top1_agreement.over_floor > 0.9"])
def test_metrics_without_a_floor(study, gate):
    """It is a mistake at collection."""
    study.gates(wrong=gate)
    done = study.run()
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*has no .over_floor*"])


@pytest.mark.parametrize("metric", [ppl.over_floor, kld.mean.over_floor])
def test_no_observation_alone_gives_an_excess(metric):
    """Who judges stored observations without a floor must not take the figure for the excess."""
    with pytest.raises(NotMeasurableError, match="needs the baseline's noise floor"):
        TOKENS.estimate(metric, Observation({"kld": np.zeros(2)}), Observation())
