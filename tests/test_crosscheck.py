"""The numbers, against the plainest computation of them: whole logits in float64, one window at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_models  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from pytest_quantgate.backends.transformers import load  # noqa: E402
from pytest_quantgate.gate import Metric  # noqa: E402
from pytest_quantgate.metrics.tokens import TOKENS  # noqa: E402
from pytest_quantgate.metrics.windows import cut  # noqa: E402
from pytest_quantgate.spec import Observation, Protocol  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "example_project"
TOLERANCE = 1e-5
ONE_TOKEN = 3e-6  # nats: what a float32 forward pass leaves of one token's divergence
PROTOCOLS = {"gptq": {"window": 128}, "sliding": {"window": 96, "stride": 40}, "llama.cpp": {"window": 64}}


@dataclass
class Pair:
    """A baseline, a variant, and a text."""

    baseline: Path
    variant: Path
    corpus: Path
    models: tuple[Any, Any]


@pytest.fixture(scope="module", params=["qwen2", "llama", "gemma2", "gpt2", "example"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Models of several architectures; the example's variant is itself with rounded weights."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "example":
        if not (EXAMPLE / "model" / "model.safetensors").exists():
            pytest.skip("the example's model is not there")
        baseline, corpus = EXAMPLE / "model", EXAMPLE / "data" / "heldout.txt"
        variant = rounded(baseline, folder / "variant")
    else:
        baseline = tiny_models.save(folder / "baseline", request.param)
        variant = tiny_models.save(folder / "variant", request.param, noise=0.1)
        corpus = folder / "corpus.txt"
        corpus.write_text(tiny_models.text())
    models = (load(tiny_models.spec(baseline)), load(tiny_models.spec(variant, "v")))
    return Pair(baseline, variant, corpus, models)


def rounded(source: Path, target: Path, bits: int = 4) -> Path:
    """Write a copy whose matrices are rounded to `bits` bits, row by row."""
    from transformers import AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and "layers" in name:
                scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
                weight.copy_((weight / scale).round() * scale)
    network.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def observe(pair: Pair, **settings: Any) -> tuple[Protocol, Observation, Observation]:
    """Observe both models as the engine does."""
    protocol = TOKENS.protocol({}, {"corpus": str(pair.corpus), "limit": 12, **settings}, Path())
    first, second = (tiny_models.Subject(model) for model in pair.models)
    baseline = TOKENS.observe(first, protocol, None, lambda *_: None)
    return protocol, baseline, TOKENS.observe(second, protocol, baseline, lambda *_: None)


def plainly(folder: Path, windows: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-probabilities (S, vocabulary), and those of the tokens that are there (S,), in float64."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    rows, there = [], []
    for window in windows:
        ids = torch.from_numpy(window.ids)
        with torch.no_grad():
            logprob = network(ids[None]).logits[0].double().log_softmax(-1)
        rows.append(logprob[window.start - 1 : -1])
        there.append(rows[-1].gather(1, ids[window.start :, None])[:, 0])
    return torch.cat(rows).numpy(), torch.cat(there).numpy()


def value(text: str, variant: Observation, baseline: Observation | None) -> float:
    """Return a metric."""
    name, _, rest = text.partition(".")
    kind = {"relation": rest} if name == "ppl" else {"statistic": rest}
    return TOKENS.estimate(Metric(name, **kind), variant, baseline).value


@pytest.mark.parametrize("name", PROTOCOLS)
def test_against_float64(pair: Pair, name: str) -> None:
    """Every token metric equals the plain float64 computation to 1e-5, with the whole vocabulary kept."""
    protocol, baseline, variant = observe(pair, protocol=name, top_k=10**6, **PROTOCOLS[name])
    ids = pair.models[0].encode(pair.corpus.read_text())
    windows, _ = cut(ids, dict(protocol.parameters), None)
    p, p_there = plainly(pair.baseline, windows)
    q, q_there = plainly(pair.variant, windows)
    kld = (np.exp(p) * (p - q)).sum(-1)
    assert len(kld) == len(variant.arrays["kld"])
    expected = {
        "ppl": math.exp(-q_there.mean()),
        "ppl.ratio": math.exp((p_there - q_there).mean()),
        "ppl.delta": math.exp(-q_there.mean()) - math.exp(-p_there.mean()),
        "kld.mean": kld.mean(),
        "kld.p99": np.quantile(kld, 0.99),
        "kld.max": kld.max(),
        "delta_p.rms": math.sqrt(((np.exp(q_there) - np.exp(p_there)) ** 2).mean()),
    }
    scale = {"ppl.delta": expected["ppl"]}
    for text, wanted in expected.items():
        single = ONE_TOKEN if text in ("kld.p99", "kld.max") else 0.0
        off = abs(value(text, variant, baseline) - wanted)
        assert off <= TOLERANCE * abs(scale.get(text, wanted)) + single, text
    assert value("ppl", baseline, None) == pytest.approx(math.exp(-p_there.mean()), rel=TOLERANCE)
    agreement = (p.argmax(-1) == q.argmax(-1)).mean()
    assert value("top1_agreement", variant, baseline) == pytest.approx(agreement, abs=2 / len(kld))


@pytest.mark.parametrize("top_k", [1, 8, 64])
def test_truncated_divergence_is_bounded(pair: Pair, top_k: int) -> None:
    """For every token: from the top K <= exact <= from the top K + the bound."""
    _, _, exact = observe(pair, protocol="gptq", window=128, top_k=10**6)
    _, _, short = observe(pair, protocol="gptq", window=128, top_k=top_k)
    low, excess = short.arrays["kld"].astype(float), short.arrays["kld_excess"].astype(float)
    assert (low <= exact.arrays["kld"] + 2e-6).all()
    assert (exact.arrays["kld"] <= low + excess + 2e-6).all()
    assert (excess >= 0).all()
    assert low.mean() < exact.arrays["kld"].mean()


def test_more_of_the_top_is_closer(pair: Pair) -> None:
    """Keeping more of the baseline's distribution brings the divergence up to the exact value."""
    found = [
        value("kld.mean", observe(pair, protocol="gptq", window=128, top_k=k)[2], None)
        for k in (1, 8, 64, 10**6)
    ]
    assert found == sorted(found)


def test_a_model_against_itself(pair: Pair) -> None:
    """A model is exactly itself: no divergence, full agreement, ratio one."""
    same = Pair(pair.baseline, pair.baseline, pair.corpus, (pair.models[0], pair.models[0]))
    _, baseline, variant = observe(same, protocol="llama.cpp", window=64)
    expected = {"kld.max": 0.0, "top1_agreement": 1.0, "ppl.ratio": 1.0, "ppl.delta": 0.0, "delta_p.rms": 0.0}
    assert {text: value(text, variant, baseline) for text in expected} == expected


@pytest.mark.slow
def test_against_lm_eval(pair: Pair) -> None:
    """lm-eval's rolling log-likelihood of the same text is the sum of our log-probabilities, to 1e-5."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    length, model = 63, pair.models[0]
    whole = pair.corpus.read_text()
    # lm-eval's last window reaches back when it is short, so there must be no short one
    text = next(whole[:end] for end in range(3000, 0, -1) if len(model.encode(whole[:end])) % length == 0)
    short = pair.variant / "short.txt"
    short.write_text(text)
    harness = HFLM(
        pretrained=model.native,
        tokenizer=model.tokenizer,
        max_length=length,
        batch_size=1,
        add_bos_token=False,
    )
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    theirs = harness.loglikelihood_rolling([request])[0]
    settings = {
        "corpus": str(short),
        "protocol": "sliding",
        "window": length + 1,
        "stride": length,
        "bos": "always",
    }
    own, model.bos_id = model.bos_id, harness.prefix_token_id
    try:
        protocol = TOKENS.protocol({}, settings, Path())
        ours = TOKENS.observe(tiny_models.Subject(model), protocol, None, lambda *_: None)
    finally:
        model.bos_id = own
    total = ours.arrays["logprob"].sum(dtype=np.float64)
    assert total == pytest.approx(theirs, rel=TOLERANCE)
