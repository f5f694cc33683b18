"""Make the matrix of docs/formats.md: what each format loads as here, what makes it, and what it costs in quality.

    python benchmarks/formats.py --write --python llmcompressor=.venvs/llmc/bin/python

Every row is run: the example's model is quantized, loaded, scored by the `tokens` observation, and compared with the
full precision model in float32 on the same ids. Methods that need an environment of their own are quantized in the
interpreter that `--python METHOD=PATH` names, by the executor that a study would use; without one their row says so. A
format of other machines is tried, too, and its row holds the error.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from networks import EXAMPLE, Subject
from saved import SAVED
from setting import described

from pytest_quantgate.errors import MissingExtraError, NotMeasurableError, QuantgateError
from pytest_quantgate.executors import remote
from pytest_quantgate.gate import Metric
from pytest_quantgate.metrics.tokens import TOKENS
from pytest_quantgate.recipe import METHODS, from_table
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import ModelSpec, Observation

DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- formats: begin -->", "<!-- formats: end -->"
COLUMNS = ("format", "made by", "made in", "bits found", "perplexity", "ratio", "KL divergence", "remark")
TOKENS_SETTINGS = {
    "corpus": str(EXAMPLE / "data" / "heldout.txt"),
    "protocol": "gptq",
    "window": 256,
    "limit": 64,
}
CHAT = {"calibration": str(EXAMPLE / "data" / "calibration_chat.jsonl"), "samples": 128, "max_length": 256}
OWN = ("llmcompressor", "autoround", "auto-gptq", "autoawq")
LIMIT = 600.0  # seconds without a sign of life
GPU_FORMATS = {"fp8": "FP8, fine-grained", "fbgemm_fp8": "FP8, fbgemm", "mxfp4": "MXFP4"}
LIBRARY = {
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "gguf": "llama-cpp-python",
    "quanto": "optimum-quanto",
} | {
    "autoround": "auto-round",
    **{name: name for name in ("bitsandbytes", "torchao", "llmcompressor", "auto-gptq", "autoawq")},
}


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        name: the format, as people call it.
        method: which library it belongs to, by the name of its recipes.
        table: the recipe's parameters; None for what is no recipe.
        make: writes a checkpoint into a folder, for what is no recipe.
        options: of the backend.

    """

    name: str
    method: str
    table: Mapping[str, Any] | None = None
    make: Callable[[Path], None] | None = None
    options: Mapping[str, Any] | None = None


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose format holds this text")
    parser.add_argument(
        "--python", action="append", default=[], metavar="METHOD=PATH", help="interpreter of a method"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    asked = parser.parse_args()
    if asked.write and asked.only:
        parser.error("--write takes the whole table: leave --only out")
    pythons = dict(text.split("=", 1) for text in asked.python)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows(asked.only, pythons)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"{described()}\n\n{table}"
    print(text)
    if asked.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        before, after = document.split(BEGIN)[0], document.split(END)[1]
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def cases() -> list[Case]:
    """Return the rows, in the order of the table."""
    chat, g32 = CHAT, {"group_size": 32}
    plain = [
        *(Case(f"GPTQ {b} bits, groups of 32", "gptq", {**chat, "bits": b, **g32}) for b in (8, 4, 3, 2)),
        Case("GPTQ 4 bits, groups of 128", "gptq", {**chat, "group_size": 128}),
        Case("GPTQ 4 bits, groups of 32, desc_act", "gptq", {**chat, **g32, "desc_act": True}),
        Case("AWQ 4 bits, groups of 32", "awq", {**chat, **g32}),
        Case("GPTQ 4 bits, groups of 32, of auto-gptq", "auto-gptq", {**chat, **g32}),
        Case("AWQ 4 bits, groups of 32, of autoawq", "autoawq", {**chat, **g32}),
        Case("GPTQ layout, groups of 32, of auto-round", "autoround", {**chat, **g32, "iterations": 50}),
        Case("W4A16 (GPTQ), groups of 32", "llmcompressor", {**chat, **g32}),
        Case(
            "W4A16_ASYM (AWQ), groups of 32",
            "llmcompressor",
            {**chat, "samples": 32, **g32, "scheme": "W4A16_ASYM", "modifier": "awq"},
        ),
        Case("W8A8 int8 (GPTQ)", "llmcompressor", {**chat, "scheme": "W8A8"}),
        *(
            Case(f"{name}", "llmcompressor", {**chat, "scheme": name, "modifier": "round"})
            for name in ("FP8", "FP8_DYNAMIC")
        ),
        Case("LLM.int8, on load", "bitsandbytes", {"bits": 8}),
        *(Case(f"{kind}, on load", "bitsandbytes", {"type": kind}) for kind in ("nf4", "fp4")),
        Case("int8 weight-only, on load", "torchao", {"bits": 8}),
        Case("int4 weight-only, groups of 32, on load", "torchao", {"bits": 4, **g32}),
        *(Case(f"quanto int{bits}, on load", "quanto", {"bits": bits}) for bits in (8, 4, 2)),
    ]
    saved = [Case(f"{name}, saved", method, make=make) for name, method, make in SAVED]
    gguf = [
        Case(f"GGUF {name}", "gguf", {"type": name})
        for name in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    ]
    caches = [
        Case(f"full precision, key-value cache {kind}", "", options={"kv_cache": kind})
        for kind in ("int8", "int4", "int2")
    ]
    gpu = [Case(name, "", make=_stated(method)) for method, name in GPU_FORMATS.items()]
    return [*plain, *saved, *gguf, *caches, *gpu]


def _stated(method: str) -> Callable[[Path], None]:
    """Return what writes the example's model with a configuration that says it is quantized that way."""

    def make(folder: Path) -> None:
        shutil.copytree(EXAMPLE / "model", folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "quantization_config": {"quant_method": method}})
        )

    return make


def rows(only: str, pythons: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Measure the baseline, then yield the cells of each row."""
    registry = Registry()
    baseline = ModelSpec("baseline", "model", "sha256:0", path=str(EXAMPLE / "model"))
    reference, _ = observed(registry, baseline, None)
    whole = TOKENS.estimate(Metric("ppl"), reference, None).value
    yield ("full precision, float32", "", "", "", f"{whole:.4f}", "1", "0", "the reference")
    for case in cases():
        if only in case.name:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                cells = row(case, registry, baseline, reference, Path(folder), pythons=pythons)
            print(
                f"{case.name}: {cells[4] or cells[-1]} ({time.perf_counter() - began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
            yield cells


def row(
    case: Case,
    registry: Registry,
    baseline: ModelSpec,
    reference: Observation,
    folder: Path,
    *,
    pythons: Mapping[str, str],
) -> tuple[str, ...]:
    """Return the cells of one row, whatever becomes of it."""
    made_by, made_in = _library(case.method, pythons.get(case.method, "")), ""
    try:
        began = time.perf_counter()
        spec = made(case, registry, baseline, folder, pythons)
        if spec.path != baseline.path and case.method:
            made_in = f"{time.perf_counter() - began:.0f} s"
        observation, bits = observed(registry, spec, reference)
    except MissingExtraError as error:
        alone = "an environment of its own (--python)" if case.method in OWN else f"the extra {error.extra!r}"
        return (case.name, made_by, "", "", "", "", "", f"not run: needs {alone}")
    except NotMeasurableError as error:
        return (case.name, made_by, made_in, "", "", "", "", f"not run here: {_short(error, folder)}")
    except QuantgateError as error:
        return (case.name, made_by, made_in, "", "", "", "", f"failed: {_short(error, folder)}")
    values = {
        "ppl": TOKENS.estimate(Metric("ppl"), observation, None).value,
        "ratio": TOKENS.estimate(Metric("ppl", relation="ratio"), observation, reference).value,
        "kld": TOKENS.estimate(Metric("kld", statistic="mean"), observation, reference).value,
    }
    own = "made in its own environment" if case.method in pythons else ""
    return (
        *(case.name, made_by, made_in or "on load", bits),
        *(f"{values['ppl']:.4f}", f"{values['ratio']:.4f}", f"{values['kld']:.3g}", own),
    )


def made(
    case: Case, registry: Registry, baseline: ModelSpec, folder: Path, pythons: Mapping[str, str]
) -> ModelSpec:
    """Return the specification of the row's model, made in `folder` where it is a checkpoint."""
    options = tuple(sorted((case.options or {}).items()))
    spec = replace(baseline, name="v", source=case.method, options=options)
    if case.make is not None:
        case.make(folder / "made")
        return spec.at(folder / "made")
    if case.table is None:
        return spec
    recipe = from_table("v", {"method": case.method, **case.table}, Path())
    if METHODS[case.method].on_load:
        return replace(spec, recipe=recipe)
    out = folder / "made"
    out.mkdir()
    reference = registry.reference("quantizers", case.method)
    # what is quantized is the checkpoint as it is stored
    stored = replace(baseline, dtype="bfloat16", python=pythons.get(case.method, ""))
    if stored.python:
        recipe = replace(recipe, python=stored.python)
        remote.quantize(reference, case.name, recipe, stored, out, limit=LIMIT, progress=lambda *_: None)
    else:
        registry.get("quantizers", case.method).quantize(recipe, stored, out, lambda *_: None)
    files = list(out.glob("*.gguf"))
    spec = replace(spec, backend="gguf" if files else spec.backend, recipe=replace(recipe, python=""))
    return spec.at(out)


def observed(registry: Registry, spec: ModelSpec, reference: Observation | None) -> tuple[Observation, str]:
    """Load a model and observe it; return the bits of its quantized modules, too."""
    model = registry.get("backends", spec.backend)(spec, allow_code=False, allow_pickle=False)
    try:
        found: Any = model.findings()["quantized"]
        protocol = TOKENS.protocol({}, TOKENS_SETTINGS, Path())
        observation = TOKENS.observe(Subject(model), protocol, reference, lambda *_: None)
    finally:
        model.close()
    return observation, ", ".join(map(str, sorted(set(found.values()), reverse=True)))


def _library(method: str, python: str) -> str:
    if not method:
        return ""
    if python:
        return f"{LIBRARY[method]} {_version_there(LIBRARY[method], python)}"
    try:
        return f"{LIBRARY[method]} {metadata.version(LIBRARY[method])}"
    except metadata.PackageNotFoundError:
        return LIBRARY[method]


def _version_there(library: str, python: str) -> str:
    code = f"from importlib import metadata; print(metadata.version({library!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _short(error: Exception, folder: Path) -> str:
    text = re.sub(r"under \S+: ", "", " ".join(str(error).split()))  # an interpreter of this machine
    text = text.replace(f" {folder / 'made'}", "")
    return text.replace(str(EXAMPLE / "model"), "the baseline").replace("|", "/")[:200]


if __name__ == "__main__":
    main()
