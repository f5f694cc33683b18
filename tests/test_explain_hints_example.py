"""The example's first try, made and measured for real: its gate fails, and says what its second try changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "example_project"

pytest.importorskip("gptqmodel")


@pytest.mark.slow
def test_the_first_try_is_explained_and_the_second_is_not_accused(pytester, monkeypatch):
    """Groups and domain first, which cost most; and neither loading nor measuring anything for it."""
    monkeypatch.delenv("QUANTGATE_STORE", raising=False)
    calibrated = {"first": "calibration_wrong.txt", "second": "calibration_chat.jsonl"}
    recipes = {"first": "group_size = 128", "second": "group_size = 32, desc_act = true"}
    variants = "".join(
        f'[variants.{name}]\nquantize = {{ method = "gptq", bits = 4, {recipes[name]},'
        f' calibration = "{EXAMPLE / "data" / calibrated[name]}" }}\n'
        for name in recipes
    )
    (pytester.path / "quantgate.toml").write_text(
        f'baseline = "{EXAMPLE / "model"}"\ndtype = "float32"\n'
        f'[tokens]\ncorpus = "{EXAMPLE / "data" / "heldout.txt"}"\nprotocol = "gptq"\nwindow = 256\nlimit = 60\n'
        f'{variants}[gates]\nq = "ppl.ratio < 1.15 and ppl.within_expected < 1.5"\n'
    )
    done = pytester.runpytest_subprocess("--quantgate", "--quantgate-report", "out", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, failed=1)
    found = json.loads((pytester.path / "out" / "report.json").read_text())["findings"]
    assert {one["variant"] for one in found} == {"first"}
    assert [one["cause"] for one in found][:2] == ["group_size", "calibration_domain"]
    assert {"desc_act", "calibration_format", "worse_than_usual"} <= {one["cause"] for one in found}
    done.stdout.fnmatch_lines(
        ["why (*", "  group_size = 128 *", "  calibrated on another*", "  desc_act = false*"]
    )
