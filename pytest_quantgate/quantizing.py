"""One checkpoint outside of a study: what `quantgate quantize` does around the engine.

The engine makes the checkpoint in a store of its own that lies in a work folder beside the target. There the support
files are completed, the checkpoint is loaded, and the sanity check of every session sees whether it speaks. Only then
is it renamed to its place; a process that is killed before leaves the target as it was.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pytest_quantgate import figures, machine
from pytest_quantgate.checkpoint import preflight, resolve
from pytest_quantgate.completing import complete
from pytest_quantgate.digests import sha256_of
from pytest_quantgate.errors import CheckpointError, ConfigError, QuantgateError, StoreError
from pytest_quantgate.files import MalformedError, write_atomic
from pytest_quantgate.forecast import forecast, linear_layers
from pytest_quantgate.measurements import SANITY, Measurements, problems_of
from pytest_quantgate.placing import check_target, claimed, free_bytes, place
from pytest_quantgate.recipe import METHODS, check_fits
from pytest_quantgate.spec import digest
from pytest_quantgate.store.shelf import RECORD
from pytest_quantgate.study import ModelTable, Study

if TYPE_CHECKING:
    from pytest_quantgate.checkpoint import Checkpoint
    from pytest_quantgate.engine import Narrator
    from pytest_quantgate.forecast import Forecast
    from pytest_quantgate.options import Options
    from pytest_quantgate.registry import Registry
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["Job", "check", "foresee", "make"]

ROOM: Final = 1.05
"""Free room that is asked for, as a multiple of the forecast: tokenizer, file system, what the forecast misses."""
BYTES_PER_TOKEN: Final = 3
"""Fewest bytes of text per token that are usual: the forecast may count too many tokens, not too few."""
_CARD_RATE: Final = 2e13
_MATRIX: Final = 768
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One checkpoint to make.

    Attributes:
        baseline: folder or hub id of the unquantized model.
        recipe: how it is made.
        out: where it goes, as the user wrote it.
        revision: of a hub id.
        device: "auto" for what is there.
        force: a checkpoint that lies there is replaced.

    """

    baseline: str
    recipe: Recipe
    out: Path
    revision: str = ""
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What will be made, checked as far as that goes without making it.

    Attributes:
        target: the folder, all links followed.
        source: the unquantized checkpoint.
        takes: what it will take.
        free: free bytes of the disk that the target lies on.

    """

    target: Path
    source: Checkpoint
    takes: Forecast
    free: int


def check(job: Job) -> None:
    """Refuse what cannot become a checkpoint.

    Raises:
        ConfigError: the method quantizes as it loads.

    """
    method = METHODS[job.recipe.method]
    if method.on_load:
        raise ConfigError(
            f"{job.recipe.method} quantizes whenever it loads, and writes no checkpoint;"
            f' use it as a variant: quantize = {{ method = "{job.recipe.method}", ... }}'
        )


def foresee(job: Job, options: Options) -> Foreseen:
    """Return what a job will take; it reads headers, and times one small matrix product.

    Raises:
        CheckpointError: the baseline is missing, damaged, refused, or is quantized itself.
        UsageError: the recipe does not fit the model, or the target cannot be written.

    """
    check(job)
    folder = resolve(job.baseline, job.revision or None, root=options.root, offline=options.offline)
    source = preflight(folder, allow_pickle=options.allow_pickle, allow_code=options.allow_code)
    if source.quantization:
        method = source.quantization.get("quant_method", "it says so in its configuration")
        raise CheckpointError(f"{job.baseline}: is quantized already ({method}); give the unquantized model")
    check_fits(job.recipe, {one.name: one.inputs for one in linear_layers(source.tensors)})
    calibration = [Path(job.recipe.calibration)] if job.recipe.calibration else []
    target = check_target(job.out, [folder, *calibration], force=job.force)
    device = machine.default_device() if job.device == "auto" else job.device
    text: dict[str, Any] = {**source.config, **(source.config.get("text_config") or {})}
    takes = forecast(
        source.tensors,
        job.recipe,
        tied=bool(text.get("tie_word_embeddings")),
        hidden=int(text.get("hidden_size") or text.get("n_embd") or 0),
        tokens=_tokens(job.recipe),
        rate=_rate() if device == "cpu" else _CARD_RATE,
    )
    return Foreseen(target, source, takes, free_bytes(target))


def _tokens(recipe: Recipe) -> int:
    """Return at most how many calibration tokens there are: by the recipe, and by the size of the file."""
    if not recipe.calibration:
        return 0
    asked = int(recipe.get("samples", 0)) * int(recipe.get("max_length", 0))
    return min(asked, Path(recipe.calibration).stat().st_size // BYTES_PER_TOKEN)


def _rate() -> float:
    """Return the multiplications and additions per second that a product of two matrices reaches here."""
    matrix = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return 2.0 * _MATRIX**3 / max(min(times), 1e-9)


def make(job: Job, foreseen: Foreseen, options: Options, registry: Registry, narrator: Narrator) -> Path:
    """Make the checkpoint; return its folder.

    Raises:
        StoreError: the disk has not the room, another process writes the same folder, or it cannot be written.
        CheckpointError: what was made does not load or speak; it lies beside the target, where there is no other.
        QuantgateError: the quantizer failed, or cannot run here.

    """
    target, needed = foreseen.target, int(ROOM * foreseen.takes.size)
    if needed > foreseen.free:
        raise StoreError(
            f"{target.parent}: the checkpoint takes about {figures.quantity(needed, 'B', digits=3)},"
            f" {figures.quantity(foreseen.free, 'B', digits=3)} are free; make room, or give --out on another disk"
        )
    with claimed(target) as work:
        # again, now that nobody else can: a process that was at work may have finished
        check_target(job.out, [], force=job.force)
        made = _made(job, foreseen, replace(options, store=work / "store"), registry, narrator)
        place(made, target)
    return target


def _made(job: Job, foreseen: Foreseen, options: Options, registry: Registry, narrator: Narrator) -> Path:
    name = job.recipe.method
    study = Study(
        root=options.root,
        baseline=ModelTable("baseline", str(foreseen.source.path), device=job.device),
        variants=(ModelTable(name, recipe=job.recipe, device=job.device),),
    )
    measured = Measurements(study, options, registry, narrator, time.time())
    try:
        spec = measured.engine.materialize(measured.spec(name))
        folder = Path(spec.path)
        _complete(folder, foreseen.source.path, spec, code=options.allow_code)
        preflight(folder, allow_code=options.allow_code)
        _check_it_speaks(measured, name)
    except QuantgateError as error:
        raise _kept_aside(error, options.store, foreseen.target) from error
    finally:
        measured.engine.release()
    return folder


def _complete(folder: Path, source: Path, spec: ModelSpec, *, code: bool) -> None:
    assert spec.recipe is not None
    try:
        complete(folder, source, spec.recipe.method, code=code)
        _record_anew(folder)
    except MalformedError as error:
        raise CheckpointError(
            f"{folder.name}: the quantizer wrote a configuration that is {error}"
        ) from error
    except OSError as error:
        raise StoreError(f"{folder}: cannot be completed ({error.strerror}); run again") from error


def _record_anew(folder: Path) -> None:
    """Write the record of a checkpoint whose files were completed; what was digested before is not read again.

    It is shipped with the checkpoint, so that of the calibration file only the name is left, not where it lay here.
    """
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    del record["digest"]
    recipe = record["about"]["recipe"]
    recipe["calibration"] = Path(recipe["calibration"]).name
    known = {name: (size, sha) for name, size, sha in record["files"]}
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RECORD):
        file, size = path.relative_to(folder).as_posix(), path.stat().st_size
        kept = known.get(file)
        same = kept is not None and kept[0] == size and file.endswith(".safetensors")
        files.append([file, size, kept[1] if kept is not None and same else sha256_of(path)])
    record |= {"files": files, "content": digest(files)}
    body = {**record, "digest": digest(record)}
    write_atomic(folder / RECORD, [json.dumps(body, indent=1, sort_keys=True).encode()])


def _check_it_speaks(measured: Measurements, name: str) -> None:
    """Load the checkpoint and let it read what the baseline says: the sanity check of every session."""
    measured.prepare({name: ()})
    for step in (*measured.plan.of("baseline"), *measured.plan.of(name)):
        if step.observe != SANITY:
            continue
        problems = problems_of(measured.engine.observation(step))
        if problems and step.model.name == name:
            causes = ", ".join(problems[0].causes)
            raise CheckpointError(
                f"{'; '.join(problem.text for problem in problems)}; likely causes: {causes}"
            )


def _kept_aside(error: QuantgateError, store: Path, target: Path) -> QuantgateError:
    """Return the error of a checkpoint that was made and refused; hours of work are kept for a look."""
    made = [path for path in (store / "v1" / "checkpoints").glob("[0-9a-f]*") if path.is_dir()]
    aside = target.parent / f"{target.name}.rejected"
    if not made or aside.exists():
        return error
    made[0].rename(aside)
    return CheckpointError(f"{error}; it is not moved to {target}, and lies in {aside} for a look")
