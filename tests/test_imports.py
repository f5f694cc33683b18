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


PLAIN = """\
0.00.000.294 I build: 5234 (fde9b8d2) with cc (Ubuntu) 11.4.0 for x86_64-linux-gnu
0.00.012.343 I llama_model_loader: loaded meta data with 22 key-value pairs and 292 tensors from m/tiny-q4.gguf (version GGUF V3 (latest))
0.00.113.041 I llm_load_print_meta: model ftype      = Q4_K - Medium
0.00.333.771 I perplexity: calculating perplexity over 3 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.01.470.361 I perplexity: 1.14 seconds per pass - ETA 0.02 minutes
[1]4.5970,[2]5.1807,[3]6.2332,
0.01.473.346 I Final estimate: PPL = 6.2332 +/- 0.03780

0.01.473.390 I llama_perf_context_print:        load time =     324.52 ms
"""
KLD = """\
kl_divergence: computing over 3 chunks, n_ctx=512, batch_size=512, n_seq=1

chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1       7.0123 ±    1.4211       0.02101 ±    0.01213       0.02911 ±    0.00302     5.012 ±  0.588 %    92.157 ±  1.687 %
   3       6.4071 ±    0.0391       0.02778 ±    0.00072       0.03127 ±    0.00024     5.519 ±  0.050 %    91.901 ±  0.072 %

====== Perplexity statistics ======
Mean PPL(Q)                   :   6.407115 ±   0.039119
Mean PPL(base)                :   6.233160 ±   0.037828
Cor(ln(PPL(Q)), ln(PPL(base))):  99.37%
Mean ln(PPL(Q)/PPL(base))     :   0.027526 ±   0.000684
Mean PPL(Q)/PPL(base)         :   1.027908 ±   0.000703
Mean PPL(Q)-PPL(base)         :   0.173955 ±   0.004545

====== KL divergence statistics ======
Mean    KLD:   0.031273 ±   0.000238
Maximum KLD:  11.601235
99.9%   KLD:   1.102030
99.0%   KLD:   0.320410
95.0%   KLD:   0.110002
90.0%   KLD:   0.065321
Median  KLD:   0.014523
10.0%   KLD:   0.000121
 0.1%   KLD:  -0.000002
Minimum KLD:  -0.000019

====== Token probability statistics ======
Mean    Δp: -0.596 ± 0.014 %
Maximum Δp: 95.053%
Median  Δp: -0.013%
RMS Δp    :  5.519 ± 0.050 %
Same top p: 91.901 ± 0.072 %

llama_perf_context_print:        load time =     324.52 ms
main: done
"""
EARLY = """\
main: build = 2200 (abcdef01)
chunk        PPL          ln(PPL(Q)/PPL(base))          KL-Divergence           Same top
   1        9.1201       0.30112 ±    0.05511       0.40125 ±    0.03311    0.73725 ± 0.02762
  12        9.7516       0.44722 ±    0.00362       0.44513 ±    0.00184    0.71138 ± 0.00119

===== KL-divergence statistics
Average:   0.445132 ±  0.001835
Median :   0.201003
Maximum:  14.512002
KLD_99 :   3.901223
KLD_95 :   1.804419
KLD_90 :   1.100187
Minimum:  -0.000031
KLD_01 :   0.000301
KLD_05 :   0.002119
KLD_10 :   0.006013
"""


def log(folder, text):
    return of(imports.read("llama.cpp", written(folder, "run.log", text)))


def test_llama_cpp_perplexity(tmp_path):
    """A plain run has a perplexity, with the tool's own error; without that line, all its chunks will do."""
    one = log(tmp_path, PLAIN)["ppl"]
    figure = one.figures[""]
    assert (figure.value, figure.n, figure.high) == (6.2332, 3 * 255, pytest.approx(6.2332 + Z * 0.0378))
    assert "independent" in figure.note
    assert one.made_by == "llama.cpp perplexity, build 5234"
    said = {"n_ctx": 512, "chunks": 3, "model": "m/tiny-q4.gguf", "file_type": "Q4_K - Medium"}
    assert said.items() <= one.protocol.items()
    short = log(tmp_path, "perplexity : calculating perplexity over 2 chunks\n[1]4.5970,[2]5.1807,\n")[
        "ppl"
    ].figures[""]
    assert (short.value, short.low, short.n, short.items) == (5.1807, None, 2, "chunks")


def test_llama_cpp_divergence(tmp_path):
    """Statistics and relations are named as ours are, and percent become shares."""
    found = log(tmp_path, KLD)
    values = {
        f"{name}.{key}": figure.value for name, one in found.items() for key, figure in one.figures.items()
    }
    assert values == pytest.approx({
        "ppl.": 6.407115, "ppl.|delta": 0.173955, "ppl.|ratio": 1.027908, "ppl.|log_ratio": 0.027526,
        "kld.mean": 0.031273, "kld.median": 0.014523, "kld.p90": 0.065321, "kld.p99": 0.32041, "kld.p999": 1.10203,
        "kld.max": 11.601235, "top1_agreement.": 0.91901, "delta_p.mean": -0.00596, "delta_p.rms": 0.05519,
    })  # fmt: skip
    assert found["top1_agreement"].figures[""].low == pytest.approx(0.91901 - Z * 0.00072)
    assert found["kld"].figures["mean"].unit == "nat"
    assert found["kld"].protocol["base_ppl"] == 6.23316
    for name, one in found.items():
        definition = Registry().get("metrics", name)
        for key, figure in one.figures.items():
            statistic, _, relation = key.partition("|")
            assert statistic in (definition.statistics or ("",))
            assert relation in ("", *definition.relations)
            assert figure.unit == definition.unit


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1252"])
def test_llama_cpp_of_other_code_pages(tmp_path, codec):
    """PowerShell writes UTF-16, and a wrong code page loses the plus-minus sign."""
    text = KLD.replace("Δ", "d") if codec == "cp1252" else KLD
    assert log(tmp_path, text.encode(codec))["delta_p"].figures["rms"].high == pytest.approx(
        0.05519 + Z * 0.0005
    )


def test_llama_cpp_early_2024(tmp_path):
    """Divergences had a block of their own; perplexity and agreement are the table's last row."""
    found = log(tmp_path, EARLY)
    assert found["kld"].figures["p99"].value == 3.901223
    assert found["kld"].figures["mean"].high == pytest.approx(0.445132 + Z * 0.001835)
    assert (found["ppl"].figures["|log_ratio"].value, found["ppl"].protocol["build"]) == (0.44722, "2200")
    assert found["top1_agreement"].figures[""].value == 0.71138


@pytest.mark.parametrize("nothing", ["-nan", "-nan(ind)", "0.000000"])
def test_llama_cpp_of_identical_models(tmp_path, nothing):
    """An error that is no number gives no interval, and a note."""
    figure = log(tmp_path, KLD.replace("±   0.000703", f"±       {nothing}"))["ppl"].figures["|ratio"]
    assert (figure.value, figure.low, figure.sampling) == (1.027908, None, None)
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
    ("llama.cpp", PLAIN[: PLAIN.index("6.2332")], "cut short: 2 of 3 chunks"),
    ("llama.cpp", PLAIN.replace("6.2332 +/-", "7.1 +/-"), "its chunks come to 6.2332"),
    ("llama.cpp", PLAIN.replace("6.2332", "nan"), "PPL is nan"),
    ("llama.cpp", PLAIN.replace("PPL = 6.2332", "PPL = high"), "'high' stands where a number belongs"),
    ("llama.cpp", PLAIN + PLAIN, "of 2 runs"),
    ("llama.cpp", PLAIN + KLD, "of 2 runs"),
    ("llama.cpp", "Final estimate: PPL = 6.2 +/- 0.1\n" * 2, "2 final estimates"),
    ("llama.cpp", KLD + KLD[KLD.index("=====") :], "two runs"),
    ("llama.cpp", KLD[: KLD.index("======")], "cut short: 3 chunks, and no result"),
    ("llama.cpp", KLD[: KLD.index("====== KL")], "it has no 'Mean KLD'"),
    ("llama.cpp", KLD[: KLD.index("Median  KLD")], "it has no 'Median KLD'"),
    ("llama.cpp", KLD[: KLD.index("Same top p:")], "it has no 'Same top p'"),
    ("llama.cpp", KLD.replace("0.031273 ±", "-nan ±"), "Mean KLD is nan"),
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


@pytest.mark.parametrize(("name", "value", "message"), BAD)
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
    """A log without its end is refused, or says what the whole says."""
    folder = tmp_path_factory.mktemp("cut")
    whole = log(folder, text)
    end = data.draw(st.integers(0, len(text)))
    try:
        found = log(folder, text[:end])
    except UsageError:
        return
    last = text[:end].rstrip("\n").rpartition("\n")[2]
    if last and last in text.split("\n"):  # else the last number may have lost digits
        assert {name: one.figures for name, one in found.items()} == {
            name: one.figures for name, one in whole.items()
        }


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
