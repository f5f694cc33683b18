import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate import imports
from pytest_quantgate.errors import UnknownNameError, UsageError
from pytest_quantgate.files import MalformedError
from pytest_quantgate.gate import Metric
from pytest_quantgate.imports import source
from pytest_quantgate.imports.values import Normal
from pytest_quantgate.parse import parse
from pytest_quantgate.registry import Registry
from pytest_quantgate.tasks import scores, sheet

Z = 1.959963984540054

GSM8K = {
    "name": "gsm8k",
    "alias": "gsm8k",
    "sample_len": 4,
    "exact_match,strict-match": 0.5,
    "exact_match_stderr,strict-match": 0.28867513459481287,
    "exact_match,flexible-extract": 0.75,
    "exact_match_stderr,flexible-extract": 0.25,
}
LM_EVAL = {
    "results": {
        "gsm8k": GSM8K,
        "wikitext": {"alias": "wikitext", "word_perplexity,none": 10.5, "word_perplexity_stderr,none": "N/A"},
        "exam": {"alias": "exam", "acc,none": 0.75, "acc_stderr,none": 0.2165, "sample_len": 4},
        "exam_a": {"alias": " - a", "acc,none": 0.5, "acc_stderr,none": 0.5, "brier_score,none": 0.25},
        "exam_b": {"alias": " - b", "acc,none": 1.0, "acc_stderr,none": 0.0, "loss,none": 0.5},
        "leaderboard": {" ": " ", "alias": "leaderboard"},
    },
    "groups": {"exam": {"alias": "exam", "acc,none": 0.75, "acc_stderr,none": 0.2165}},
    "group_subtasks": {"exam": ["exam_a", "exam_b"], "gsm8k": [], "leaderboard": ["gsm8k", "leaderboard"]},
    "configs": {
        "gsm8k": {"metric_list": [{"metric": "exact_match", "aggregation": "mean"}], "num_fewshot": 5}
    },
    "versions": {"gsm8k": 3.0},
    "n-shot": {"gsm8k": 5},
    "higher_is_better": {"exam_b": {"acc": True, "loss": False}},
    "n-samples": {
        "gsm8k": {"original": 1319, "effective": 4},
        "exam_a": {"effective": 2},
        "exam_b": {"effective": 2},
    },
    "config": {
        "model": "hf",
        "model_args": "pretrained=org/tiny,dtype=bfloat16,api_key=hush",
        "limit": 4.0,
        "gen_kwargs": None,
    },
    "lm_eval_version": "0.4.13",
    "date": 1755770000.5,
}


def sample(doc, score, *, name="exact_match", wanted="strict-match", **more):
    return {
        "doc_id": doc,
        "doc": {"question": f"What is {doc}?"},
        "target": f"#### {doc}",
        "arguments": {"gen_args_0": {"arg_0": f"Question: What is {doc}?\nAnswer:", "arg_1": {"until": []}}},
        "resps": [[f" {doc}"]],
        "filtered_resps": [f"{doc}"],
        "filter": wanted,
        "metrics": [name],
        "doc_hash": f"hash{doc}",
        name: score,
        **more,
    }


ASKED = [
    *(sample(doc, float(doc < 2)) for doc in (3, 0, 1, 2)),  # workers finish in any order
    *(sample(doc, doc < 3, wanted="flexible-extract") for doc in range(4)),
]


def written(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in value) if isinstance(value, list) else value
    path.write_bytes(
        text if isinstance(text, bytes) else (text if isinstance(text, str) else json.dumps(text)).encode()
    )
    return path


def of(found):
    return {one.metric: one for one in found}


def lm_eval(folder, value=None, **samples):
    extra = [
        written(folder, f"samples_{task}_2026-01-02T03-04-05.6.jsonl", rows) for task, rows in samples.items()
    ]
    return of(imports.read("lm-eval", written(folder, "results_1.json", value or LM_EVAL), extra))


def test_lm_eval_figures(tmp_path):
    """Shares of what is right become figures, named as a gate writes them; anything else is listed as skipped."""
    found = lm_eval(tmp_path)
    one = found["lm_eval('gsm8k', filter='strict-match', metric='exact_match')"]
    figure = one.figures[""]
    assert (figure.value, figure.n, figure.low) == (0.5, 4, pytest.approx(0.5 - Z * 0.28867513459481287))
    assert figure.at(0.9).high == pytest.approx(0.5 + 1.6448536 * 0.28867513459481287)
    assert one.made_by == "lm-eval 0.4.13"
    assert one.observation is None
    assert {
        "shots": 5,
        "limit": 4.0,
        "model": "org/tiny",
        "dtype": "bfloat16",
        "engine": "hf",
    }.items() <= one.protocol.items()
    assert "hush" not in str(one)
    assert [text.split(" (")[0] for text in one.protocol["skipped"]] == [
        "wikitext: word_perplexity", "exam_a: brier_score", "exam_b: loss",
    ]  # fmt: skip
    assert found["lm_eval('exam', metric='acc')"].figures[""].n == 4
    certain = found["lm_eval('exam_b', metric='acc')"].figures[""]
    assert (certain.low, certain.n) == (None, 2)
    assert "given as 0" in certain.note
    for text in found:
        assert str(parse(f"{text} >= 0.5").comparisons()[0].metric) == text


def test_lm_eval_before_0_4(tmp_path):
    """A metric's key had no filter, and there were no counts."""
    old = {
        "results": {"arc_easy": {"acc": 0.25, "acc_stderr": 0.01}},
        "versions": {"arc_easy": 0},
        "config": {},
    }
    one = lm_eval(tmp_path, old)["lm_eval('arc_easy', metric='acc')"]
    assert (one.figures[""].value, one.made_by) == (0.25, "lm-eval")
    assert "how many" in one.figures[""].note


def test_lm_eval_groups_of_groups(tmp_path):
    """A group counts each task below it once, however deep it lies, and also where a group holds itself."""
    tasks = {name: {"acc,none": 0.5} for name in ("top", "a", "b")}
    below = {"top": ["mid", "mid", "a"], "mid": ["a", "b", "top"]}
    sizes = {name: {"effective": 3} for name in ("a", "b")}
    config = {"model": "hf", "model_args": {"pretrained": "org/tiny", "dtype": "float16", "token": "hush"}}
    one = lm_eval(tmp_path, {"results": tasks, "group_subtasks": below, "n-samples": sizes, "config": config})
    top = one["lm_eval('top', metric='acc')"]
    assert top.figures[""].n == 6
    assert top.protocol == {"task": "top", "model": "org/tiny", "engine": "hf", "dtype": "float16"}


def test_lm_eval_samples_are_judged_like_our_own(tmp_path):
    """The samples become an observation, of which `tasks.scores` makes the same share, and pairs."""
    name = "lm_eval('gsm8k', filter='{}', metric='exact_match')"
    found = lm_eval(tmp_path, gsm8k=ASKED)
    strict, flexible = (
        found[name.format(which)].observation for which in ("strict-match", "flexible-extract")
    )
    assert strict.arrays[sheet.NUMBER].tolist() == [0, 1, 2, 3]
    assert sheet.texts(strict, "id")[3] == "gsm8k/3/hash3"
    assert [sheet.texts(strict, column)[1] for column in ("answer", "expected")] == ["1", "#### 1"]
    assert sheet.texts(strict, "question")[1].endswith("What is 1?\nAnswer:")
    assert scores.estimate(Metric("lm_eval"), strict, None).value == 0.5
    assert scores.estimate(Metric("lm_eval", relation="delta"), flexible, strict).value == 0.25
    assert strict.facts["items"] == flexible.facts["items"]


def test_lm_eval_group_of_samples(tmp_path):
    """A group has an observation where all its tasks have; its tasks are the subjects."""
    both = {task: [sample(doc, right, name="acc", wanted="none") for doc, right in enumerate(rights)] for task, rights in (("exam_a", (1.0, 0.0)), ("exam_b", (1.0, 1.0)))}  # fmt: skip
    whole = lm_eval(tmp_path, **both)["lm_eval('exam', metric='acc')"].observation
    assert whole.facts["groups"] == ["exam_a", "exam_b"]
    assert whole.arrays[sheet.NUMBER].tolist() == [0, 1, 2**32, 2**32 + 1]
    assert scores.estimate(Metric("lm_eval", statistic="macro"), whole, None).value == 0.75
    assert lm_eval(tmp_path, exam_a=both["exam_a"])["lm_eval('exam', metric='acc')"].observation is None


def test_lm_eval_scores_that_do_not_average(tmp_path):
    """A metric that is not the mean of its items' scores stays a figure, and says so."""
    rows = [sample(doc, 1.0, name="acc", wanted="none", f1=[1, 0]) for doc in range(2)]
    one = lm_eval(tmp_path, exam_a=rows)["lm_eval('exam_a', metric='acc')"]
    assert one.observation is None
    assert "pairs" in one.figures[""].note


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ASKED[1:], "3 samples under the filter 'strict-match', the results rest on 4"),
        ([*ASKED, sample(7, 1.0)], "5 samples"),
        ([*ASKED[:-1], ASKED[0]], "line 8: the document 3 stands there twice"),
        ([{**row, "exact_match": 1.0} for row in ASKED], "does not average to the 0.5"),
        ([{**ASKED[0], "exact_match": "1.0"}], "line 1.exact_match is '1.0', where a number belongs"),
        ([{**ASKED[0], "doc_id": True}], "line 1.doc_id is True"),
        ([{"doc_id": 1, "filter": "none"}], "line 1 has no 'filtered_resps'"),
        ([{key: ASKED[0][key] for key in ASKED[0] if key != "filter"}], "line 1 does not say which filter"),
        ([{**ASKED[0], "doc": {"x": math.nan}}], "line 1: the number NaN"),
        (b'{"doc_id": 1, "filte', "line 1: not JSON"),
        ([], "it is empty"),
    ],
)
def test_lm_eval_samples_of_another_run(tmp_path, rows, message):
    """Samples that are not those of the results are refused, by file and line."""
    with pytest.raises(UsageError) as caught:
        lm_eval(tmp_path, gsm8k=rows)
    assert message in str(caught.value)
    assert "samples_gsm8k_" in str(caught.value)


def test_lm_eval_samples_of_no_task(tmp_path):
    """A file's name says whose samples it has."""
    with pytest.raises(UsageError, match="no task that the results have"):
        lm_eval(tmp_path, other=ASKED)
    twice = [written(tmp_path, f"samples_gsm8k_{n}.jsonl", ASKED) for n in range(2)]
    with pytest.raises(UsageError, match="already"):
        imports.read("lm-eval", written(tmp_path, "r.json", LM_EVAL), twice)


def plain_log(running=(9.5, 8.25, 8.0), final=(8.0, 0.125), n_ctx=256):
    """Return what a plain run prints, with time stamps."""
    chunks = "".join(f"[{at}]{value:.4f}," for at, value in enumerate(running, 1))
    return f"""\
0.00.000.100 I build: 5234 (0123abcd) with cc (Debian) 14 for x86_64-linux-gnu
0.00.000.200 I llama_model_loader: loaded meta data with 9 key-value pairs and 5 tensors from m/tiny-q4.gguf (version GGUF V3 (latest))
0.00.000.300 I print_info: file type   = Q4_K - Medium
0.00.000.400 I perplexity: calculating perplexity over {len(running)} chunks, n_ctx={n_ctx}, batch_size=256, n_seq=1
0.00.000.500 I perplexity: 0.10 seconds per pass - ETA 0.00 minutes
{chunks}
0.00.000.600 I Final estimate: PPL = {final[0]:.4f} +/- {final[1]:.5f}

0.00.000.700 I llama_perf_context_print:        load time =       1.00 ms
"""


def divergence_log(ratio_error="0.003000"):
    """Return what a run with --kl-divergence prints, in the tool's formats."""
    quantiles = [
        (0.999, 2.5),
        (0.99, 0.75),
        (0.95, 0.3),
        (0.9, 0.2),
        (0.1, 0.0004),
        (0.05, 0.0001),
        (0.01, 0.0),
        (0.001, -2e-6),
    ]
    cuts = [f"{100 * level:4.1f}%   KLD: {value:10.6f}\n" for level, value in quantiles]
    row = f"    {8.5:9.4f} ± {0.2:9.4f}    {0.0606:10.5f} ± {0.004:10.5f}    {0.0625:10.5f} ± {0.001:10.5f}"
    row += f"    {7.5:6.3f} ± {0.1:6.3f} %    {87.5:6.3f} ± {0.4:6.3f} %\n"
    head = "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n"
    return "".join([
        "kl_divergence: computing over 2 chunks, n_ctx=256, batch_size=256, n_seq=1\n\n",
        *(f"{head}{at:4d}{row}\n" for at in (1, 2)),
        "====== Perplexity statistics ======\n",
        f"Mean PPL(Q)                   : {8.5:10.6f} ± {0.2:10.6f}\n",
        f"Mean PPL(base)                : {8.0:10.6f} ± {0.18:10.6f}\n",
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {98.5:6.2f}%\n",
        f"Mean ln(PPL(Q)/PPL(base))     : {0.060625:10.6f} ± {0.004:10.6f}\n",
        f"Mean PPL(Q)/PPL(base)         : {1.0625:10.6f} ± {ratio_error:>10}\n",
        f"Mean PPL(Q)-PPL(base)         : {0.5:10.6f} ± {0.03:10.6f}\n\n",
        "====== KL divergence statistics ======\n",
        f"Mean    KLD: {0.0625:10.6f} ± {0.001:10.6f}\n",
        f"Maximum KLD: {7.25:10.6f}\n",
        *cuts[:4],
        f"Median  KLD: {0.03125:10.6f}\n",
        *cuts[4:],
        f"Minimum KLD: {-0.00001:10.6f}\n\n",
        "====== Token probability statistics ======\n",
        f"Mean    Δp: {-1.25:6.3f} ± {0.05:5.3f} %\n",
        f"Maximum Δp: {66.0:6.3f}%\n",
        f"Median  Δp: {-0.01:6.3f}%\n",
        f"RMS Δp    : {7.5:6.3f} ± {0.1:5.3f} %\n",
        f"Same top p: {87.5:6.3f} ± {0.4:5.3f} %\n\n",
        "llama_perf_context_print:        load time =       1.00 ms\nmain: done\n",
    ])  # fmt: skip


def early_log():
    """Return what it printed in early 2024."""
    rows = [
        f"{at:4d}    {8.5:10.4f}    {0.0606:10.5f} ± {0.004:10.5f}    {0.0625:10.5f} ± {0.001:10.5f}    {0.875:.5f} ± {0.004:.5f}\n"
        for at in (1, 2)
    ]
    ends = [
        ("KLD_99", 0.75),
        ("KLD_95", 0.3),
        ("KLD_90", 0.2),
        ("Minimum", -1e-5),
        ("KLD_01", 0.0),
        ("KLD_05", 1e-4),
        ("KLD_10", 4e-4),
    ]
    return "".join([
        "main: build = 2200 (0123abcd)\n",
        "\nchunk        PPL          ln(PPL(Q)/PPL(base))          KL-Divergence           Same top\n",
        *rows,
        "\n===== KL-divergence statistics\n",
        f"Average: {0.0625:10.6f} ±{0.001:10.6f}\nMedian : {0.03125:10.6f}\nMaximum: {7.25:10.6f}\n",
        *(f"{name:7}: {value:10.6f}\n" for name, value in ends),
    ])  # fmt: skip


PLAIN, KLD, EARLY = plain_log(), divergence_log(), early_log()


def log(folder, text):
    return of(imports.read("llama.cpp", written(folder, "run.log", text)))


def test_llama_cpp_perplexity(tmp_path):
    """A plain run has a perplexity, with the tool's own error; without that line, all its chunks will do."""
    one = log(tmp_path, PLAIN)["ppl"]
    figure = one.figures[""]
    assert (figure.value, figure.n, figure.items) == (8.0, 3 * 127, "tokens")
    assert figure.high == pytest.approx(8 + Z / 8)
    assert "independent" in figure.note
    assert one.made_by == "llama.cpp perplexity, build 5234"
    said = {"n_ctx": 256, "chunks": 3, "model": "m/tiny-q4.gguf", "file_type": "Q4_K - Medium"}
    assert said.items() <= one.protocol.items()
    old = "perplexity : calculating perplexity over 2 chunks\n24.43 seconds per pass - ETA 4 hours\n[1]9.5,[2]8.25,\n"
    short = log(tmp_path, old)["ppl"].figures[""]
    assert (short.value, short.low, short.n, short.items) == (8.25, None, 2, "chunks")
    only = log(tmp_path, "Final estimate: PPL = 8.0000 +/- 0.12500\n")["ppl"].figures[""]
    assert (only.value, only.n, only.items) == (8.0, 1, "")


def test_llama_cpp_divergence(tmp_path):
    """Statistics and relations are named as ours are, and percent become shares."""
    found = log(tmp_path, KLD)
    values = {
        f"{name}.{key}": figure.value for name, one in found.items() for key, figure in one.figures.items()
    }
    assert values == pytest.approx({
        "ppl.": 8.5, "ppl.|delta": 0.5, "ppl.|ratio": 1.0625, "ppl.|log_ratio": 0.060625,
        "kld.mean": 0.0625, "kld.median": 0.03125, "kld.p90": 0.2, "kld.p99": 0.75, "kld.p999": 2.5, "kld.max": 7.25,
        "top1_agreement.": 0.875, "delta_p.mean": -0.0125, "delta_p.rms": 0.075,
    })  # fmt: skip
    assert found["top1_agreement"].figures[""].low == pytest.approx(0.875 - Z * 0.004)
    assert found["kld"].figures["mean"].n == 2 * 127
    assert found["kld"].figures["p99"].low is None
    assert found["kld"].protocol["base_ppl"] == 8.0
    for name, one in found.items():
        definition = Registry().get("metrics", name)
        for key, figure in one.figures.items():
            statistic, _, relation = key.partition("|")
            assert statistic in (definition.statistics or ("",))
            assert relation in ("", *definition.relations)
            assert figure.unit == definition.unit


def test_llama_cpp_of_mid_2024(tmp_path):
    """A build prints the 99th percentile for the 95th and the 90th; what it lacks is left out."""
    lines = [line for line in KLD.splitlines() if not line.startswith(("kl_divergence", "95.0%", "90.0%"))]
    lines.insert(lines.index("99.0%   KLD:   0.750000"), "99.0%   KLD:   0.750000")
    figures = log(tmp_path, "\n".join(lines))["kld"].figures
    assert list(figures) == ["mean", "median", "p99", "p999", "max"]
    assert (figures["mean"].n, figures["mean"].items) == (2, "chunks")


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1252"])
def test_llama_cpp_of_other_code_pages(tmp_path, codec):
    """PowerShell writes UTF-16, and a wrong code page loses the plus-minus sign."""
    text = KLD.replace("Δ", "d") if codec == "cp1252" else KLD
    assert log(tmp_path, text.encode(codec))["delta_p"].figures["rms"].high == pytest.approx(
        0.075 + Z * 0.001
    )


def test_llama_cpp_early_2024(tmp_path):
    """Divergences had a block of their own; perplexity and agreement are the table's last row."""
    found = log(tmp_path, EARLY)
    assert found["kld"].figures["p99"].value == 0.75
    assert found["kld"].figures["mean"].high == pytest.approx(0.0625 + Z * 0.001)
    assert (found["ppl"].figures["|log_ratio"].value, found["ppl"].protocol["build"]) == (0.0606, "2200")
    assert found["top1_agreement"].figures[""].value == 0.875
    assert list(log(tmp_path, EARLY[EARLY.index("=====") :])) == ["kld"]
    both = log(tmp_path, "Final estimate: PPL = 8.0000 +/- 0.12500\n" + EARLY)
    assert both["kld"].protocol["skipped"] == ["Final estimate: PPL (of another run)"]


@pytest.mark.parametrize("nothing", ["-nan", "-nan(ind)", "0.000000"])
def test_llama_cpp_of_identical_models(tmp_path, nothing):
    """An error that is no number gives no interval, and a note."""
    figure = log(tmp_path, divergence_log(nothing))["ppl"].figures["|ratio"]
    assert (figure.value, figure.low, figure.sampling) == (1.0625, None, None)
    assert "standard error" in figure.note


VLLM = {
    "date": "20260102-030405",
    "backend": "vllm",
    "model_id": "org/tiny",
    "num_prompts": 8,
    "request_rate": "inf",
    "max_concurrency": 1,
    "duration": 4.0,
    "completed": 8,
    "failed": 0,
    "total_output_tokens": 400,
    "output_throughput": 100.0,
    "median_ttft_ms": 50.0,
    "median_tpot_ms": 10.0,
    "median_itl_ms": 9.0,
    "p99_itl_ms": 30.0,
}
DETAILS = {"ttfts": [0.05 + n / 1000 for n in range(8)], "itls": [[0.01] * 4] * 8, "output_lens": [5] * 8}


def bench(folder, **changes):
    return of(imports.read("vllm", written(folder, "bench.json", {**VLLM, **changes})))


def test_vllm(tmp_path):
    """Times are seconds; the throughput is a speed only with one request at a time."""
    found = bench(tmp_path)
    values = {
        f"{name}.{key}": figure.value for name, one in found.items() for key, figure in one.figures.items()
    }
    assert values == pytest.approx({
        "ttft.": 0.05, "token_latency.": 0.01, "token_latency.median": 0.009, "token_latency.p99": 0.03,
        "tokens_per_second.": 100.0,
    })  # fmt: skip
    assert found["ttft"].figures[""].low is None
    assert found["ttft"].protocol["model_id"] == "org/tiny"
    for limit, words in ((4, "up to 4 requests"), (None, "any number of requests")):
        loaded = bench(tmp_path, max_concurrency=limit, failed=1)
        assert "tokens_per_second" not in loaded
        assert "--max-concurrency 1" in loaded["ttft"].protocol["skipped"][0]
        assert words in loaded["ttft"].figures[""].note
        assert "1 requests failed" in loaded["ttft"].figures[""].note


def test_vllm_detailed(tmp_path):
    """With every request at hand, the speed is one request's, and medians have intervals."""
    found = bench(tmp_path, **DETAILS, max_concurrency=4)
    speed, first = found["tokens_per_second"].figures[""], found["ttft"].figures[""]
    assert speed.value == pytest.approx((5 / 0.093 + 5 / 0.094) / 2, rel=1e-6)
    assert (first.value, first.low, first.high) == pytest.approx((0.0535, 0.05, 0.057))
    assert "skipped" not in found["ttft"].protocol


def test_vllm_without_a_stream(tmp_path):
    """A time of 0 is none: it would pass any gate."""
    found = bench(tmp_path, median_ttft_ms=0.0, median_itl_ms=0, p99_itl_ms=None)
    assert "ttft" not in found
    assert list(found["token_latency"].figures) == [""]
    silent = {**DETAILS, "ttfts": [0.0] * 8, "median_ttft_ms": None}
    assert (
        "ttft (0: the endpoint does not stream)"
        in bench(tmp_path, **silent)["token_latency"].protocol["skipped"]
    )


def test_vllm_of_requests_that_failed(tmp_path):
    """Where a request failed its times are 0, so the summary is taken, which leaves it out."""
    assert bench(tmp_path, **DETAILS, completed=7, failed=1)["ttft"].figures[""].value == 0.05


EVALUTION = {
    "model": {"path": "org/tiny", "label": None},
    "engine": {"dtype": "bfloat16", "device": "cuda:0"},
    "versions": {"evalution": "0.3.0", "torch": None},
    "tests": [
        {
            "name": "arc_easy",
            "metrics": {"acc,ll": 0.5, "acc,ll_avg": 1.0, "mcc,ll": 0.1, "f1,ll_macro": 0.4},
            "samples": [
                {"index": n, "prompt": f"Q{n}", "target": "yes", "prediction": "no" if n else "yes", "extracted": {}, "scores": {"acc,ll": 1.0 - n, "acc,ll_avg": 1.0}, "metadata": {}}
                for n in (1, 0)
            ],
            "metadata": {"dataset_path": "ai2_arc", "order": "native", "row_indices": [0, 1]},
        }
    ],
}  # fmt: skip


def test_evalution(tmp_path):
    """Its metrics have a name of their own; what samples average to is judged in pairs."""
    found = of(imports.read("evalution", written(tmp_path, "result.json", EVALUTION)))
    assert list(found) == [f"evalution('arc_easy', filter='{which}', metric='{name}')" for name, which in (("acc", "ll"), ("acc", "ll_avg"), ("f1", "ll_macro"))]  # fmt: skip
    one = found["evalution('arc_easy', filter='ll', metric='acc')"]
    assert (one.made_by, one.figures[""].n, one.protocol["order"]) == ("Evalution 0.3.0", 2, "native")
    assert one.protocol["skipped"] == ["arc_easy: mcc,ll (no share of what is right)"]
    assert one.observation.arrays["correct"].tolist() == [1.0, 0.0]
    assert found["evalution('arc_easy', filter='ll_macro', metric='f1')"].observation is None


# --- what is none of them


def changed(value, *path, to=None, drop=False):
    """Return a copy in which one member is another, or is gone."""
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return whole


BAD = [
    ("lm-eval", b"", "x: it is empty; give a results_*.json"),
    ("lm-eval", {"a": 1}, "x is no result of lm-eval: it has no 'results'; give"),
    ("lm-eval", VLLM, "it has no 'results'"),
    ("lm-eval", "[]", "it is no table of JSON"),
    ("lm-eval", json.dumps(LM_EVAL)[:-9], "not JSON"),
    ("lm-eval", '{"results": {"a": {"acc,none": NaN}}}', "the number NaN"),
    ("lm-eval", '{"results": {"a": {"acc,none": 1, "acc,none": 0}}}', "twice"),
    ("lm-eval", b"\xff\xfe{}", "not UTF-8"),
    ("lm-eval", {"results": []}, "results is [], where a table belongs"),
    ("lm-eval", {"results": {}}, "no metric at all"),
    ("lm-eval", {"results": {"a": {"ppl,none": 3}}}, "no share of what is right (a: ppl"),
    ("lm-eval", changed(LM_EVAL, "results", "gsm8k", "exact_match,strict-match", to="0.5"), "results.gsm8k.exact_match,strict-match is '0.5', where a number belongs"),
    ("lm-eval", changed(LM_EVAL, "results", "gsm8k", "exact_match,strict-match", to=None), "is None"),
    ("lm-eval", changed(LM_EVAL, "results", "gsm8k", "exact_match,strict-match", to=True), "is True"),
    ("lm-eval", changed(LM_EVAL, "results", "gsm8k", "exact_match,strict-match", to=10**400), "that a float can hold"),
    ("lm-eval", changed(LM_EVAL, "results", "gsm8k", "exact_match_stderr,strict-match", to=-1), "at least 0"),
    ("lm-eval", changed(LM_EVAL, "n-samples", "gsm8k", "effective", to=2.5), "a whole number"),
    ("lm-eval", changed(LM_EVAL, "group_subtasks", "exam", to="exam_a"), "where a list belongs"),
    ("lm-eval", {"results": {"a\nb": {"acc,none": 1}}}, "its names make no metric"),
    ("llama.cpp", b"", "x: it is empty; give all that it printed"),
    ("llama.cpp", json.dumps(LM_EVAL), "x is no log of llama-perplexity: it has neither"),
    ("llama.cpp", "compute_imatrix: tokenizing\n" + PLAIN.replace("perplexity: calculating perplexity", "compute_imatrix: computing"), "llama-imatrix"),
    ("llama.cpp", PLAIN[: PLAIN.index("[3]")], "cut short: 2 of 3 chunks"),
    ("llama.cpp", plain_log(final=(7.5, 0.1)), "its chunks come to 8, its final estimate is 7.5"),
    ("llama.cpp", plain_log((9.5, math.nan), (math.nan, math.nan)), "PPL is nan"),
    ("llama.cpp", PLAIN.replace("PPL = 8.0000", "PPL = high"), "'high' stands where a number belongs"),
    ("llama.cpp", PLAIN + PLAIN, "of 2 runs"),
    ("llama.cpp", PLAIN + KLD, "of 2 runs"),
    ("llama.cpp", "Final estimate: PPL = 6.2 +/- 0.1\n" * 2, "2 final estimates"),
    ("llama.cpp", KLD + KLD[KLD.index("=====") :], "two runs"),
    ("llama.cpp", KLD[: KLD.index("======")], "cut short: 2 chunks, and no result"),
    ("llama.cpp", KLD[: KLD.index("====== KL")], "it has no 'Mean KLD'"),
    ("llama.cpp", KLD[: KLD.index("Median  KLD")], "it has no 'Median KLD'"),
    ("llama.cpp", KLD[: KLD.index("Same top p:")], "it has no 'Same top p'"),
    ("llama.cpp", KLD.replace("Mean    KLD:   0.062500", "Mean    KLD:       -nan"), "Mean KLD is nan"),
    ("llama.cpp", EARLY[: EARLY.index("KLD_10")], "it has no 'KLD_10'"),
    ("vllm", LM_EVAL, "x is no result of vllm bench serve: it has no 'completed'"),
    ("vllm", {"avg_latency": 1.0, "latencies": [1.0], "percentiles": {"50": 1.0}}, "vllm bench latency"),
    ("vllm", json.dumps(VLLM) + "\n" + json.dumps(VLLM), "--append-result"),
    ("vllm", changed(VLLM, "output_throughput", drop=True), "no 'output_throughput'"),
    ("vllm", {**VLLM, "completed": 0}, "none of its requests succeeded"),
    ("vllm", {**VLLM, "median_ttft_ms": "50"}, "median_ttft_ms is '50'"),
    ("vllm", {**VLLM, "median_ttft_ms": -1}, "at least 0"),
    ("vllm", {**VLLM, **DETAILS, "ttfts": [0.1]}, "not of the same requests"),
    ("vllm", {**VLLM, **DETAILS, "itls": [0.1] * 8}, "where a list belongs"),
    ("vllm", {"completed": 1, "duration": 1, "output_throughput": 1}, "no time that gates know"),
    ("evalution", LM_EVAL, "x is no result of Evalution: it has no 'model'"),
    ("evalution", {**EVALUTION, "left_name": "a"}, "it compares two runs"),
    ("evalution", {**EVALUTION, "tests": EVALUTION["tests"] * 2}, "stands there twice"),
    ("evalution", {**EVALUTION, "tests": []}, "no metric at all"),
    ("evalution", changed(EVALUTION, "tests", 0, "metrics", "acc,ll", to="high"), "tests.0.metrics.acc,ll is 'high'"),
    ("evalution", changed(EVALUTION, "tests", 0, "samples", 0, "index", to=0), "an index stands there twice"),
    ("evalution", changed(EVALUTION, "tests", 0, "samples", 0, "target", drop=True), "tests.0.samples.0 has no 'target'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=range(len(BAD)))
def test_bad_files(tmp_path, monkeypatch, name, value, message):
    """What is damaged or another tool's is refused in one line: which file, where in it, and what to do."""
    monkeypatch.chdir(tmp_path)
    written(
        tmp_path,
        "x",
        value if isinstance(value, bytes) else value if isinstance(value, str) else json.dumps(value),
    )
    with pytest.raises(UsageError) as caught:
        imports.read(name, Path("x"))
    text = str(caught.value)
    assert message in text
    assert text.startswith("x")
    assert "; " in text
    assert "\n" not in text
    assert len(text) < 400


def test_files_that_are_not_read(tmp_path, monkeypatch):
    """No link is followed, no folder or fifo waited for, and nothing above the limit read."""
    real = written(tmp_path, "real.json", LM_EVAL)
    (tmp_path / "link.json").symlink_to(real)
    for path, message in (
        (tmp_path / "link.json", "no regular file"),
        (tmp_path, "no regular file"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            imports.read("lm-eval", path)
    with monkeypatch.context() as shrinking, pytest.raises(UsageError, match="it ends after 3 bytes of 9"):
        shrinking.setattr(
            source, "read_all", lambda *_: (_ for _ in ()).throw(MalformedError("ends after 3 bytes of 9"))
        )
        imports.read("lm-eval", real)
    monkeypatch.setattr(source, "LARGEST", 10)
    with pytest.raises(UsageError, match="MiB"):
        imports.read("lm-eval", real)


def test_formats(tmp_path):
    """A format is named as in `FORMATS`, and a file too many is not passed over."""
    with pytest.raises(UnknownNameError, match="did you mean 'lm-eval'"):
        imports.read("lm_eval", tmp_path)
    for name in imports.FORMATS.keys() - {"lm-eval"}:
        with pytest.raises(UsageError, match="no other belongs to it"):
            imports.read(name, tmp_path / "x", [tmp_path / "y"])


def test_import_is_light():
    """Nothing is loaded before a format is asked for."""
    code = "import sys, pytest_quantgate.imports; print({'numpy', 'scipy', 'pytest_quantgate.imports.vllm'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


# --- laws

junk = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.just([]), st.just({}), st.just("\ud800"), st.just([[1]]), st.just({"a": {"b": 1}}),
)  # fmt: skip


def places(value, path=()):
    """Return the path of every member."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*path, key), *places(one, (*path, key)))]


def attempt(name, path, extra=()):
    """Read a file: values that a report can hold, or an error that names it."""
    try:
        found = imports.read(name, path, extra)
    except UsageError as error:
        if not any(one.name in str(error) for one in (path, *extra)):
            raise
        return
    for one in found:
        json.dumps([figure.to_json() for figure in one.figures.values()], allow_nan=False)
        json.dumps(one.protocol, allow_nan=False, ensure_ascii=False).encode()
        assert all(math.isfinite(figure.value) for figure in one.figures.values())
        assert one.figures


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(
    ("name", "value"), [("lm-eval", LM_EVAL), ("vllm", {**VLLM, **DETAILS}), ("evalution", EVALUTION)]
)
def test_any_member_may_be_anything(tmp_path_factory, name, value, data):
    """Whatever stands in whichever place, there are values or one error, never a traceback."""
    folder = tmp_path_factory.mktemp("any")
    place = data.draw(st.sampled_from(places(value)))
    attempt(name, written(folder, "x.json", json.dumps(changed(value, *place, to=data.draw(junk)))))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_member_of_a_sample_may_be_anything(tmp_path_factory, data):
    """The same of samples."""
    folder = tmp_path_factory.mktemp("any")
    rows = changed(ASKED, *data.draw(st.sampled_from(places(ASKED))), to=data.draw(junk))
    extra = written(folder, "samples_gsm8k_1.jsonl", rows)
    attempt("lm-eval", written(folder, "x.json", LM_EVAL), [extra])


@settings(max_examples=200, deadline=None)
@given(text=st.sampled_from([PLAIN, KLD, EARLY]), data=st.data())
def test_a_log_cut_anywhere(tmp_path_factory, text, data):
    """A log without its end is refused, or says what the whole says; of a plain one perhaps without the error."""
    folder = tmp_path_factory.mktemp("cut")
    whole = log(folder, text)
    try:
        found = log(folder, text[: data.draw(st.integers(0, len(text)))])
    except UsageError:
        return
    for name, one in found.items():
        for key, figure in one.figures.items():
            known = whole[name].figures[key]
            assert figure.value == known.value
            assert figure.low == known.low or (figure.low is None and text is PLAIN)


@settings(max_examples=100, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text(alphabet="[]1.,=:%± pKLDMean-\n", max_size=200).map(str.encode)
    )
)
def test_any_bytes(tmp_path_factory, content):
    """Bytes are never more than an error."""
    path = written(tmp_path_factory.mktemp("bytes"), "x", content)
    for name in imports.FORMATS:
        attempt(name, path)


@given(value=st.floats(-1e6, 1e6), error=st.floats(1e-6, 1e3), limit=st.floats(-1e6, 1e6))
def test_interval_and_tails_agree(value, error, limit):
    """A limit lies outside of the interval exactly where a tail is below half of what the level leaves."""
    known = Normal(value, error)
    low, high = known.interval(0.95)
    at_least, at_most = known.tails(limit)
    assert at_least + at_most == pytest.approx(1)
    assert low < value < high
    if abs(limit - low) > 1e-6 * error and abs(limit - high) > 1e-6 * error:
        assert (low < limit < high) == (min(at_least, at_most) > 0.025)
