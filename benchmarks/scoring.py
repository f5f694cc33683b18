"""How fast the tokens observation is: as a share of the bare forward pass, and against lm-eval's rolling score.

Both of ours are timed whole, as the engine runs them, from the text to the arrays: the baseline's pass, which
keeps the 64 most probable tokens of each position, and a variant's, which reads the probabilities of those and
computes the divergences. Bare is `model(ids).logits` of the same text in the same windows and batches, with
nothing read off them. lm-eval's `loglikelihood_rolling` gives one sum of log-probabilities for the same tokens.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from table import Row
from timing import Timing, alternate

from pytest_quantgate.backends.transformers import TOKENS_AT_ONCE, TransformersModel
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.spec import Observation, Protocol

__all__ = ["measure"]

TOP_K = 64
AIM = "at least 0.9"


@dataclass(frozen=True, slots=True)
class Case:
    """A model, a text, and how the text is cut."""

    name: str
    model: TransformersModel
    text: Path
    window: int
    windows: int

    @property
    def protocol(self) -> Protocol:
        """Windows that do not overlap."""
        cut = {"protocol": "gptq", "window": self.window, "limit": self.windows}
        return TOKENS.protocol({}, {"corpus": str(self.text), "top_k": TOP_K, **cut}, Path())

    @property
    def tokens(self) -> int:
        """How many tokens are fed."""
        return self.window * self.windows

    @property
    def batch(self) -> int:
        """How many windows are fed at once."""
        return max(1, TOKENS_AT_ONCE["cpu"] // self.window)


def measure(repetitions: int = 9) -> list[Row]:
    """Return the shares of the bare forward pass, and the ratios to lm-eval."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            _example(Path(folder)),
            _random("random Qwen2, 4.5 M decoder, vocabulary 151,936", networks.LARGE, 2, Path(folder)),
            _random("the same decoder, vocabulary 1,024", networks.SMALL, 4, Path(folder)),
        ]
        rows = [row for case in cases for row in _rows(case, repetitions)]
        del cases
        real = _random(
            "random Qwen2.5-0.5B", networks.LARGE, 1, Path(folder), shape=networks.HALF_BILLION, window=512
        )
        return rows + _rows(real, max(1, repetitions // 2))


def _example(folder: Path) -> Case:
    model, window, windows = networks.example(), 256, 64
    whole = (networks.EXAMPLE / "data" / "heldout.txt").read_text(encoding="utf-8")
    text = folder / "example.txt"
    # some more than is scored, since a cut text may have other tokens than the whole
    text.write_text(model.decode(model.encode(whole)[: window * windows + 16].tolist()), encoding="utf-8")
    return Case("example model", model, text, window, windows)


def _random(
    name: str,
    vocabulary: int,
    windows: int,
    folder: Path,
    *,
    shape: Mapping[str, int] = networks.NARROW,
    window: int = 2048,
) -> Case:
    ids = np.random.default_rng(0).integers(0, vocabulary, window * windows)
    text = folder / f"{vocabulary}.txt"
    text.write_text(" ".join(map(str, ids)))
    model = networks.in_memory(networks.random_qwen2(vocabulary, shape), networks.numbers(vocabulary))
    return Case(name, model, text, window, windows)


def _rows(case: Case, repetitions: int) -> list[Row]:
    forward = bare(case)
    kept = observer(case)
    compared = observer(case, kept())
    return [
        _share(f"{case.name}: baseline pass, top {TOP_K}", case, alternate(kept, forward, repetitions)),
        _share(f"{case.name}: variant pass", case, alternate(compared, forward, repetitions)),
        _against_harness(case, repetitions),
    ]


def bare(case: Case) -> Callable[[], object]:
    """Return the plain forward pass of the case's windows."""

    def forward() -> None:
        ids = case.model.encode(case.text.read_text(encoding="utf-8"))[: case.tokens]
        windows = torch.from_numpy(ids.reshape(-1, case.window))
        with torch.inference_mode():
            for batch in torch.split(windows, case.batch):
                case.model.native(batch, use_cache=False).logits  # noqa: B018  made, and not looked at

    return forward


def observer(case: Case, reference: Observation | None = None) -> Callable[[], Observation]:
    """Return the observation of the case, of a variant if there is a reference."""
    subject, protocol = networks.Subject(case.model), case.protocol
    return lambda: TOKENS.observe(subject, protocol, reference, lambda *_: None)


def _share(what: str, case: Case, timing: Timing) -> Row:
    return Row(
        f"scoring, {what}, as a share of the bare forward pass",
        f"{case.tokens / timing.our_median:,.0f} tokens/s",
        f"{case.tokens / timing.their_median:,.0f} tokens/s",
        timing.share,
        timing.share_spread,
        AIM,
    )


def _against_harness(case: Case, repetitions: int) -> Row:
    what = f"scoring, {case.name}: throughput as a ratio to lm-eval's `loglikelihood_rolling`"
    if importlib.util.find_spec("lm_eval") is None:
        return Row(what, "", "lm-eval is not installed")
    timing = alternate(observer(case), _harness(case), repetitions)
    return Row(
        what,
        f"{case.tokens / timing.our_median:,.0f} tokens/s",
        f"{case.tokens / timing.their_median:,.0f} tokens/s",
        timing.share,
        timing.share_spread,
        "at least 1",
    )


def _harness(case: Case) -> Callable[[], object]:
    """Return lm-eval's score of the same text, as many tokens at once, prefixed by its own first token."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    instance: Any = importlib.import_module("lm_eval.api.instance").Instance
    huggingface: Any = importlib.import_module("lm_eval.models.huggingface")
    ids = case.model.encode(case.text.read_text(encoding="utf-8"))[: case.tokens]
    text = case.model.decode([int(token) for token in ids])
    harness = huggingface.HFLM(
        pretrained=case.model.native,
        tokenizer=case.model.tokenizer,
        max_length=case.window,
        batch_size=case.batch,
        add_bos_token=False,
    )
    request = instance("loglikelihood_rolling", {}, (text,), 0)

    def score() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar per batch, whatever it is told
            harness.loglikelihood_rolling([request], disable_tqdm=True)

    return score
