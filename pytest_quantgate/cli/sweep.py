"""`quantgate sweep`: recipes crossed, quantized once each, measured, judged, and set side by side."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import study as studies
from pytest_quantgate.cli import sweep_table
from pytest_quantgate.cli.configuration import config_file
from pytest_quantgate.cli.progress import INTERRUPTED, narrator
from pytest_quantgate.cli.recipe_options import KEYS, value_of
from pytest_quantgate.errors import ConfigError, StoreError
from pytest_quantgate.escaping import plain
from pytest_quantgate.files import write_atomic
from pytest_quantgate.marks import Asked, as_confidence
from pytest_quantgate.options import Options
from pytest_quantgate.parse import parse
from pytest_quantgate.recipe import METHODS
from pytest_quantgate.registry import Registry
from pytest_quantgate.sweep import DEFAULT_METRICS, Candidate, Sweep, configured, crossings

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from pytest_quantgate.spec import Scalar
    from pytest_quantgate.study import Study

__all__ = ["run"]

_BETWEEN = re.compile(r",(?![^(]*\))")


def run(chosen: Namespace) -> int:
    """Measure, print the table, and return 0 if some row holds every gate."""
    study = studies.read(config_file(chosen.config), Path.cwd())
    output = _output(chosen.output)
    gates = [
        Asked(parse(text), _confidence(study)) for text in chosen.gate or [text for _, text in study.gates]
    ]
    metrics = [text.strip() for given in chosen.metrics for text in _BETWEEN.split(given)]
    sweep = Sweep(
        study, _options(chosen, study), Registry(), narrator(), _candidates(chosen, study),
        gates=gates, metrics=metrics or DEFAULT_METRICS, since=time.time(),
    )  # fmt: skip
    page = _measured(sweep)
    text = sweep_table.RENDERERS[chosen.format](page)
    if output is None:
        print(text)
    else:
        _write(output, text)
    if page.interrupted:
        return INTERRUPTED
    return 0 if any(result.holds for result in page.results) else 1


def _measured(sweep: Sweep) -> sweep_table.Page:
    results = []
    baseline, interrupted = None, False
    try:
        for result in sweep.results():
            results.append(result)  # noqa: PERF402  what is finished is there when Ctrl-C comes
        baseline = sweep.baseline()
    except KeyboardInterrupt:
        interrupted = True
        print("quantgate: interrupted; what was measured is kept in the store", file=sys.stderr)
    finally:
        sweep.close()
    return sweep_table.Page(
        sweep.metrics, baseline, tuple(results), len(sweep.candidates), interrupted=interrupted
    )


def _candidates(chosen: Namespace, study: Study) -> list[Candidate]:
    axes: dict[str, list[Scalar]] = {}
    if chosen.method:
        axes["method"] = list(_split("--method", chosen.method))
    for key in KEYS:
        if (text := getattr(chosen, f"key_{key}")) is not None:
            axes[key] = [value_of(part) for part in _split(f"--{key.replace('_', '-')}", text)]
    if not axes and not chosen.calibration:
        return configured(study)
    axes = {"method": axes.pop("method", ["gptq"]), **axes}
    if files := _calibration(chosen, study, axes["method"]):
        axes["calibration"] = files
    return crossings(study, axes)


def _split(flag: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{flag} {text!r}: write values with commas between them, e.g. 32,64")
    return parts


def _calibration(chosen: Namespace, study: Study, methods: Sequence[Scalar]) -> list[Scalar]:
    """Return the calibration files: those that are given, else the one that the study's recipes agree on."""
    if chosen.calibration:
        return [
            str(Path(part).expanduser().absolute()) for part in _split("--calibration", chosen.calibration)
        ]
    if not _calibrated(methods):
        return []
    used = sorted({table.recipe.calibration for table in study.variants if table.recipe} - {""})
    if len(used) > 1:
        names = " and ".join(map(_shown, used))
        raise ConfigError(f"the study's recipes calibrate with {names}; name one with --calibration FILE")
    return list(used)


def _calibrated(methods: Sequence[Scalar]) -> bool:
    return any(METHODS[name].calibration == "needed" for name in map(str, methods) if name in METHODS)


def _shown(path: str) -> str:
    return os.path.relpath(path)


def _confidence(study: Study) -> float | None:
    return as_confidence(study.table.get("confidence"))


def _options(chosen: Namespace, study: Study) -> Options:
    written = study.table.get("store", ".quantgate")
    if not isinstance(written, str):
        raise ConfigError(f"{study.file}: [tool.quantgate] store = {written!r}: write a string")
    said = chosen.store or os.environ.get("QUANTGATE_STORE")
    return Options(
        root=study.root,
        store=Path(said).absolute() if said else study.root / written,
        report=None,
        refresh="",
        offline=chosen.offline,
        strict=False,
        plan_only=False,
        allow_pickle=chosen.allow_pickle,
        allow_code=chosen.allow_code,
    )


def _output(given: str | None) -> Path | None:
    """Return where the table goes; refused before anything is measured, rather than after hours."""
    if given is None:
        return None
    path = Path(given).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--output {given}: not a file in a folder that exists")
    return path


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, [text.encode(), b"\n"])
    except OSError as error:
        print(text)
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); the table is printed instead"
        ) from error
    print(plain(f"quantgate: {path} written"), file=sys.stderr)
