"""Is this a quantized model at all, and does it say anything? Seconds, before anything that takes an hour.

Looked at: which layers are quantized and to how many bits, against what the recipe or the configuration
promises; NaN or infinite weights; NaN or infinite logits; whether it can follow text at all; whether it
repeats itself.

The baseline continues fixed prompts greedily. A variant reads those continuations: a sound one finds them
likely (perplexity 1 to 3), a broken one does not. It is called gibberish when its mean negative
log-likelihood is above three quarters of log(vocabulary), the value of guessing, and a nat above the
baseline's own. A loop is a continuation whose last 32 tokens have a period of at most 4; small models loop
without being broken, so it takes loops on every prompt, and a baseline that does not loop on most of them or,
without a baseline, prompts that the model reads like a guesser.

Facts: problems [{what, causes}], quantized_layers, bits, dense, loops, nll.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import Window
from pytest_quantgate.spec import Observation, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.gate import Metric
    from pytest_quantgate.interfaces import Model, Progress, Subject
    from pytest_quantgate.spec import Estimate, IntArray, Json, ModelSpec, Scalar

__all__ = ["SANITY", "Sanity", "loop_period"]

PROMPTS = (
    "The river rises in the mountains and flows past",
    "Question: What is two and three?\nAnswer:",
    'def add(a, b):\n    """Return the sum of a and b."""\n',
)
NEW_TOKENS = 48
LONGEST_PERIOD, LOOP_TOKENS = 4, 32
GUESSING = 0.75  # share of log(vocabulary) above which a model does not follow text
SHOWN = 3
CACHE = "kv_cache"
"""What backends call a quantized key-value cache, among the quantized modules."""
FLOATS = ("F32", "F16", "BF16")  # types of a GGUF file that only convert

WRONG_WEIGHTS = (
    "the checkpoint was packed for another kernel or format (zero points off by one, v1 read as v2)",
    "group_size, desc_act or sym in the configuration are not those of the weights",
    "calibration failed: too few or empty samples, damp_percent too low",
)


class Sanity:
    """Observes whether a model works at all."""

    kind = "sanity"
    device_bound = False
    paired = True
    order = 0
    settings: tuple[str, ...] = ()

    def protocol(self, arguments: Mapping[str, Scalar], settings: Mapping[str, Any], root: Path) -> Protocol:
        """Return the one protocol there is."""
        del arguments, settings, root
        return Protocol.of(self.kind, prompts=list(PROMPTS), new_tokens=NEW_TOKENS)

    def observe(
        self, subject: Subject, protocol: Protocol, reference: Observation | None, progress: Progress
    ) -> Observation:
        """Look at the weights, then at what the model does. Problems are facts, not errors."""
        model, spec = subject.model, subject.spec
        findings: Mapping[str, Any] = model.findings()
        layers = {name: bits for name, bits in findings["quantized"].items() if name != CACHE}
        bits = sorted(set(layers.values()))
        facts: dict[str, Any] = {
            "quantized_layers": len(layers),
            "bits": bits,
            "dense": findings["dense"],
            "remarks": list(findings.get("remarks", ())),
        }
        meant = CACHE in findings["quantized"] and not _promises_layers(spec)
        hidden = spec.is_baseline or findings.get("unseen") or meant
        problems = [] if hidden else _of_quantization(spec, bits, findings["dense"])
        problems += _of_weights(findings["nonfinite"])
        arrays: dict[str, NDArray[Any]] = {}
        if not findings["nonfinite"]:
            try:
                arrays, behaviour = _behave(model, protocol, reference, progress)
            except ObservationError as error:
                if findings.get(
                    "unseen"
                ):  # an endpoint may have had a bad minute: nothing to keep of its weights
                    raise
                problems.append(
                    _problem(str(error), "a dtype that overflows: try bfloat16 or float32", *WRONG_WEIGHTS)
                )
            else:
                facts |= behaviour
                problems += [] if spec.is_baseline else _of_behaviour(model, facts, reference)
        return Observation(arrays, {**facts, "problems": problems})

    def estimate(self, metric: Metric, variant: Observation, baseline: Observation | None) -> Estimate:
        """Raise: findings are no metric."""
        del variant, baseline
        raise NotMeasurableError(f"{metric}: the sanity check gives findings, not numbers")


SANITY = Sanity()


def loop_period(ids: Sequence[int]) -> int:
    """Return the period, 1 to 4, with which the last 32 tokens repeat; 0 for none."""
    tail = list(ids)[-LOOP_TOKENS:]
    if len(tail) < LOOP_TOKENS:
        return 0
    return next((p for p in range(1, LONGEST_PERIOD + 1) if tail[p:] == tail[:-p]), 0)


def _problem(what: str, *causes: str) -> dict[str, Json]:
    return {"what": what, "causes": list(causes)}


def _of_quantization(spec: ModelSpec, bits: list[int], dense: list[str]) -> list[dict[str, Json]]:
    if not bits:
        what = f"not quantized: all {len(dense)} linear layers are dense"
        return [
            _problem(
                what,
                "the folder holds the unquantized model",
                "quantization_config is missing from config.json",
                "the weights were merged or dequantized when they were saved",
            )
        ]
    promised = _promised_bits(spec)
    if promised and promised not in bits:
        found = ", ".join(map(str, bits))
        return [
            _problem(
                f"{promised} bits were asked for, the layers have {found}", "another checkpoint lies there"
            )
        ]
    return []


def _promises_layers(spec: ModelSpec) -> bool:
    """Return whether more than the cache is to be quantized."""
    if spec.recipe is not None:
        return spec.recipe.get("type", "") not in FLOATS
    return bool(_section(spec))


def _promised_bits(spec: ModelSpec) -> int:
    if spec.recipe is not None:
        return int(spec.recipe.get("bits", 0))
    bits = _section(spec).get("bits")
    return bits if isinstance(bits, int) else 0


def _section(spec: ModelSpec) -> Mapping[str, Any]:
    """Return the quantization section of the configuration; a GGUF file has none, and promises what it has."""
    file = Path(spec.path) / "config.json"
    if not file.is_file():
        return {}
    config: Any = json.loads(file.read_text(encoding="utf-8"))
    return config.get("quantization_config") or {}


def _of_weights(names: list[str]) -> list[dict[str, Json]]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    what = f"NaN or infinite weights in {', '.join(names[:SHOWN])}{more}"
    return [
        _problem(what, "quantization overflowed in float16: use bfloat16", "the file was damaged on the way")
    ]


def _behave(
    model: Model, protocol: Protocol, reference: Observation | None, progress: Progress
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Continue the prompts, and read the baseline's continuations (the prompts, if there is no baseline)."""
    prompts = [model.encode(text) for text in protocol["prompts"]]
    arrays: dict[str, NDArray[Any]] = {}
    loops = 0
    for number, ids in enumerate(prompts):
        trace = model.generate(ids.tolist(), protocol["new_tokens"], stop_at_end=True)
        loops += bool(loop_period(trace.ids.tolist()))
        arrays[f"prompt{number}"], arrays[f"continued{number}"] = ids, trace.ids
        progress(number + 1, len(prompts) + 1)
    read = arrays if reference is None else reference.arrays
    windows = [_window(read[f"prompt{n}"], read[f"continued{n}"]) for n in range(len(prompts))]
    nll = -np.concatenate([scores.logprob for scores in model.score(windows)])
    if reference is None:  # its own choices are likely by construction, so the prompts count as well
        whole = [Window(window.ids) for window in windows]
        prompt_nll = -np.concatenate(
            [s.logprob[: w.start - 1] for s, w in zip(model.score(whole), windows, strict=True)]
        )
        return arrays, {"loops": loops, "nll": float(nll.mean()), "prompt_nll": float(prompt_nll.mean())}
    same = all(np.array_equal(ids, read[f"prompt{n}"]) for n, ids in enumerate(prompts))
    progress(len(prompts) + 1, len(prompts) + 1)
    return arrays, {"loops": loops, "nll": float(nll.mean()), "same_tokenizer": same}


def _window(prompt: IntArray, continued: IntArray) -> Window:
    return Window(np.concatenate([prompt, continued]).astype(np.int64), len(prompt))


def _of_behaviour(
    model: Model, facts: Mapping[str, Any], reference: Observation | None
) -> list[dict[str, Json]]:
    known: Mapping[str, Any] = reference.facts if reference is not None else {}
    loops = facts["loops"] == len(PROMPTS) and known.get("loops", 0) <= len(PROMPTS) // 2
    lost = facts["nll"] > max(GUESSING * math.log(model.vocab_size), known.get("nll", math.inf) + 1)
    if reference is None:
        # a small model may know nothing of the prompts' world, and another may loop: together they tell
        loops = loops and facts["prompt_nll"] > GUESSING * math.log(model.vocab_size)
    problems = []
    if lost:
        perplexity = math.exp(min(facts["nll"], 700))
        text = f"the baseline's own words, and guessing gives {model.vocab_size}"
        problems.append(_problem(f"gibberish: perplexity {perplexity:.4g} on {text}", *WRONG_WEIGHTS))
    if loops:
        causes = ("a damaged layer dominates the output", *WRONG_WEIGHTS)
        problems.append(_problem("it repeats itself without end on every prompt", *causes))
    if not facts.get("same_tokenizer", True):
        what = "its tokenizer differs from the baseline's"
        problems.append(
            _problem(what, "tokenizer files of another model or version were saved with the weights")
        )
    return problems
