"""Known troubles of quantization tools, from messages, file names and figures. Pure.

The list is the troubleshooting section of Qwen's GPTQ guide: an import error from versions that do not fit, memory
during quantization, gibberish after it (support files not copied, configuration not completed, the shard not renamed),
a quantized model that is slower than expected.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_quantgate import figures
from pytest_quantgate.report.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.explain.facts import Facts

__all__ = ["suspicions"]

GUIDE = "Qwen's GPTQ guide, troubleshooting"
STUDY = "the four-way study of Qwen2.5-1.5B-Instruct"
WORKSPACE = 340 / 140
"""The course page on the GPTQ algorithm: a 70B model of 140 GB takes 200 GB of workspace beside it."""

_IMPORT = re.compile(
    r"cannot import|no module named|is not installed|cannot be imported|needs an extra", re.IGNORECASE
)
_MEMORY = re.compile(
    r"out of memory|outofmemory|cannot allocate memory|\bOOM\b|std::bad_alloc|SIGKILL", re.IGNORECASE
)
_UNNAMED = re.compile(r"gptq.*\.safetensors|.*-\dbit-.*\.safetensors")
_NEEDED = ("config.json", "tokenizer_config.json", "generation_config.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "tekken.json",
    "qwen.tiktoken",
)


def suspicions(facts: Facts) -> Iterator[Finding]:
    """Yield the known troubles that fit."""
    for error in facts.errors:
        yield from _of_import(facts, error)
        yield from _of_memory(facts, error)
    yield from _of_name(facts)
    yield from _of_files(facts)
    yield from _of_sanity(facts)
    yield from _of_speed(facts)


def _of_import(facts: Facts, error: str) -> Iterator[Finding]:
    if _IMPORT.search(error):
        yield Finding(
            facts.variant,
            "trouble",
            "a library is missing, or of a version that does not fit the others",
            f"{_first(error)}; {GUIDE}",
            "install what the message names; a checkpoint of an older stack runs under its own interpreter: python ="
            ' "..." of the variant',
            0.95,
            "import",
        )


def _of_memory(facts: Facts, error: str) -> Iterator[Finding]:
    if not _MEMORY.search(error):
        return
    need = ""
    if facts.shape is not None and facts.shape.nbytes:
        about = figures.quantity(facts.shape.nbytes * WORKSPACE, "B")
        need = f"; about {about} are needed for weights of {figures.quantity(facts.shape.nbytes, 'B')}"
    yield Finding(
        facts.variant,
        "trouble",
        "memory ran out",
        f"{_first(error)}; {GUIDE}: quantization takes more memory than inference{need}",
        "take fewer or shorter calibration samples (samples, max_length), or a larger machine",
        0.95,
        "memory",
    )


def _of_name(facts: Facts) -> Iterator[Finding]:
    found = sorted(name for name in facts.files if _UNNAMED.fullmatch(name))
    named = {name for name in facts.files if name.startswith("model") and ".safetensors" in name}
    if found and not named:
        yield Finding(
            facts.variant,
            "trouble",
            f"{found[0]} was not renamed: loaders look for model.safetensors",
            f"the folder; {GUIDE}",
            "rename it to model.safetensors",
            0.9 if facts.errors else 0.4,
            "not_renamed",
        )


def _of_files(facts: Facts) -> Iterator[Finding]:
    if not facts.files or any(name.endswith(".gguf") for name in facts.files):
        return
    missing = [name for name in _NEEDED if name not in facts.files]
    if not any(name in facts.files for name in _TOKENIZERS):
        missing.insert(0, "tokenizer files")
    grave = [name for name in missing if name != "generation_config.json"]
    if missing:
        yield Finding(
            facts.variant,
            "trouble",
            f"support files are missing: {', '.join(missing)}",
            f"the folder; {GUIDE}: copy them after quantization",
            "copy them from the unquantized model",
            0.85 if grave and facts.errors else 0.5 if grave else 0.1,
            "support_files",
        )


def _of_sanity(facts: Facts) -> Iterator[Finding]:
    """Yield what the sanity check of the loaded model means."""
    for problem in facts.sanity.get("problems", ()):
        what = str(problem["what"])
        cause = next((word for start, word in _PROBLEMS.items() if start in what), "")
        if cause:
            steps = (
                " (support files copied, config.json completed, shard renamed)"
                if cause == "gibberish"
                else ""
            )
            yield Finding(
                facts.variant,
                "trouble",
                what,
                f"the sanity check; {GUIDE}{steps}" if steps else "the sanity check",
                "; ".join(problem["causes"][:2]),
                0.9,
                cause,
            )


_PROBLEMS = {
    "gibberish": "gibberish",
    "repeats itself": "gibberish",
    "not quantized": "not_quantized",
    "bits were asked for": "wrong_checkpoint",
    "NaN or infinite": "not_finite",
    "tokenizer differs": "tokenizer",
}


def _of_speed(facts: Facts) -> Iterator[Finding]:
    speed = facts.speed
    if speed is None or not speed.value < 1 or facts.scheme is None:
        return
    on_cpu = facts.device.startswith("cpu")
    why = (
        "on a CPU most kernels unpack the weights to floats at every use"
        if on_cpu
        else "for one request at a time on a large GPU unpacking costs more than the smaller reads save"
    )
    yield Finding(
        facts.variant,
        "trouble",
        f"slower than the baseline on {'this CPU' if on_cpu else facts.device}: {speed.value:.3g} times its tokens per"
        " second",
        f"{why}; {STUDY}: 16.1 for 38.7 tok/s on an A100; {GUIDE}: a known issue of transformers",
        'measure where it will run, with its batch size and engine: server = "..." of the variant (vLLM, SGLang)',
        0.35,
        "slower",
    )


def _first(error: str) -> str:
    line = error.strip().partition("\n")[0]
    return line if len(line) <= 160 else f"{line[:157]}..."  # noqa: PLR2004  a line of a report
