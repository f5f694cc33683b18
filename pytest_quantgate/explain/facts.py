"""What is known of a variant without loading or measuring anything: the one value that all suspicions are drawn from.

Each fact is looked up on its own, and one that cannot be had is left out: an explanation of a failure must not fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_quantgate.checkpoint import preflight
from pytest_quantgate.checkpoint.folder import listing, read_json
from pytest_quantgate.errors import CheckpointError, QuantgateError
from pytest_quantgate.explain import calibration
from pytest_quantgate.gate import Metric
from pytest_quantgate.lint.folder import default_template
from pytest_quantgate.measurements import SANITY
from pytest_quantgate.metrics.corpus import Corpus
from pytest_quantgate.scheme import Scheme, scheme_of

if TYPE_CHECKING:
    from pytest_quantgate.explain.calibration import Calibration
    from pytest_quantgate.measurements import Measurements
    from pytest_quantgate.spec import Estimate, ModelSpec, Recipe, Step

__all__ = ["Facts", "Shape", "gather"]

T = TypeVar("T")

TOKEN_METRICS = frozenset({"ppl", "kld", "top1_agreement", "delta_p"})
LAYERS = (".layers.", ".h.", ".blocks.")
ENDS = ("lm_head", "embed_tokens")
PACKED = (".qweight", ".weight_packed", ".absmax", ".weight_scale", ".SCB")
MATRIX = 2
_LARGEST = 1 << 22


@dataclass(frozen=True, slots=True)
class Shape:
    """The unquantized model.

    Attributes:
        parameters: how many there are.
        narrowest: smallest input width of a layer's matrices.
        widest: largest one.
        has_chat_template: whether it is made to converse.
        template: its chat template; empty for none.
        nbytes: of its weight files.

    """

    parameters: int
    narrowest: int
    widest: int
    has_chat_template: bool = False
    template: str = ""
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one variant.

    Attributes:
        variant: its name.
        scheme: its format; None where it is dense or nothing says so.
        recipe: how it was made here; None for a checkpoint that exists.
        shape: the baseline; None where it is not here.
        calibration: what the quantizer saw; None where that is not known.
        distance: of the calibration text from the corpus, in bits; None where one of them is not here.
        corpus: its name.
        bytes_per_token: of the corpus under the model's tokenizer.
        ratio: `ppl.ratio`, if it was measured.
        speed: `tokens_per_second.ratio`, if it was measured.
        device: "cpu", "cuda" …
        template: the variant's chat template; None where its folder is not here, and for GGUF.
        packed_ends: head or embedding, if they are quantized.
        sanity: facts of the sanity check.
        files: names in the variant's folder.
        errors: what went wrong with its checkpoint and passes.

    """

    variant: str
    scheme: Scheme | None = None
    recipe: Recipe | None = None
    shape: Shape | None = None
    calibration: Calibration | None = None
    distance: float | None = None
    corpus: str = ""
    bytes_per_token: float = 4.0
    ratio: Estimate | None = None
    speed: Estimate | None = None
    device: str = "cpu"
    template: str | None = None
    packed_ends: tuple[str, ...] = ()
    sanity: Mapping[str, Any] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()


def gather(measured: Measurements, variant: str) -> Facts:
    """Return what is known of a variant."""
    try:
        spec = measured.spec(variant)
    except CheckpointError as error:
        files = _safely(lambda: _configured_files(measured, variant), frozenset[str]())
        return Facts(variant, files=files, errors=(str(error),))
    folder = _folder(measured, spec)
    facts = Facts(
        variant,
        scheme=_safely(lambda: scheme_of(spec), None),
        recipe=spec.recipe,
        shape=_safely(lambda: _shape(measured.baseline), None),
        ratio=_safely(lambda: _ratio(measured, variant), None),
        speed=_safely(lambda: _known(measured, variant, Metric("tokens_per_second", relation="ratio")), None),
        device=spec.device,
        template=_safely(lambda: _own_template(folder), None) if folder else None,
        packed_ends=_safely(lambda: _packed_ends(folder), ()) if folder else (),
        sanity=_safely(lambda: _sanity(measured, variant), {}),
        files=_safely(lambda: frozenset(listing(folder)), frozenset[str]()) if folder else frozenset(),
        errors=_safely(lambda: _errors(measured, variant), ()),
    )
    return _safely(lambda: _with_texts(measured, facts), facts)


def _safely(look: Callable[[], T], otherwise: T) -> T:
    try:
        return look()
    except Exception:  # noqa: BLE001  a fact that cannot be had is left out, whatever the reason
        return otherwise


def _folder(measured: Measurements, spec: ModelSpec) -> Path | None:
    if spec.recipe is not None:
        return measured.engine.store.checkpoint(spec.weights.removeprefix("recipe:"))
    return Path(spec.path) if spec.path else None


def _configured_files(measured: Measurements, variant: str) -> frozenset[str]:
    return frozenset(listing(measured.study.root / measured.study.variant(variant).model))


def _shape(baseline: ModelSpec | None) -> Shape | None:
    if baseline is None or not baseline.path:
        return None
    # what may be loaded was decided when the model was configured; headers are harmless
    found = preflight(Path(baseline.path), allow_pickle=True, allow_code=True)
    widths = [
        info.shape[1]
        for name, info in found.tensors.items()
        if any(part in name for part in LAYERS) and len(info.shape) == MATRIX
    ]
    if not widths:
        return None
    count = sum(math.prod(info.shape) for info in found.tensors.values())
    template = _template(found.path)
    total = sum(found.weight_files.values())
    return Shape(count, min(widths), max(widths), found.has_chat_template, template, total)


def _template(folder: Path) -> str:
    """Return a folder's chat template; empty for none."""
    names = listing(folder)
    if "chat_template.jinja" in names:
        file = folder / "chat_template.jinja"
        return file.read_text(encoding="utf-8").strip() if file.stat().st_size < _LARGEST else ""
    for name in ("chat_template.json", "tokenizer_config.json"):
        if name in names:
            found = read_json(folder, name, _LARGEST)
            template = default_template(found.get("chat_template")) if isinstance(found, dict) else None
            if template is not None:
                return template.strip()
    return ""


def _own_template(folder: Path) -> str | None:
    """Return a variant's chat template; None for GGUF, which carries it inside."""
    return None if any(name.endswith(".gguf") for name in listing(folder)) else _template(folder)


def _packed_ends(folder: Path) -> tuple[str, ...]:
    tensors = preflight(folder, allow_pickle=True, allow_code=True).tensors
    return tuple(end for end in ENDS if any(end + tail in name for name in tensors for tail in PACKED))


# --- what has been measured


def _steps(measured: Measurements, variant: str) -> tuple[Step, ...]:
    return tuple(measured.plan.of(variant))


def _known(measured: Measurements, variant: str, metric: Metric) -> Estimate | None:
    """Return a figure whose observations this session holds already."""
    spec = measured.spec(variant)
    with suppress(QuantgateError):
        if measured.imported(spec, metric) is not None:
            return measured.estimate(variant, metric)
        needs = measured.wants.want(metric, spec, measured.baseline).needs()
        steps = [step for step in (needs.baseline, needs.variant) if step]
        if all(measured.engine.has(step) or step.key in measured.stopped for step in steps):
            return measured.estimate(variant, metric)
    return None


def _ratio(measured: Measurements, variant: str) -> Estimate | None:
    """Return the ratio of perplexities, by the protocol that some gate used."""
    used = (metric.arguments for metric in measured.behind.get(variant, ()) if metric.name in TOKEN_METRICS)
    for arguments in dict.fromkeys((*used, ())):
        found = _known(measured, variant, Metric("ppl", arguments, relation="ratio"))
        if found is not None:
            return found
    return None


def _sanity(measured: Measurements, variant: str) -> Mapping[str, Any]:
    for step in _steps(measured, variant):
        if step.observe == SANITY and measured.engine.has(step):
            return measured.engine.observation(step).facts
    return {}


def _errors(measured: Measurements, variant: str) -> tuple[str, ...]:
    refusals = (measured.engine.refusal(step) for step in _steps(measured, variant))
    return tuple(dict.fromkeys(str(error) for error in refusals if error))


def _with_texts(measured: Measurements, facts: Facts) -> Facts:
    """Add what the calibration file and the corpus say."""
    recipe = facts.recipe
    if recipe is None or not recipe.calibration:
        return facts
    samples = recipe.get("samples", 0)
    read = calibration.read(Path(recipe.calibration), int(samples) or 128)
    if read is None:
        return facts
    with_file = replace(facts, calibration=read)
    return _safely(lambda: _with_distance(measured, with_file, read), with_file)


def _with_distance(measured: Measurements, facts: Facts, read: Calibration) -> Facts:
    scored = [step for step in _steps(measured, facts.variant) if "corpus" in dict(step.protocol.places)]
    if not scored:
        return facts
    places: dict[str, Any] = dict(scored[0].protocol.places)
    corpus = Corpus(**places["corpus"])
    text = corpus.read().encode()
    name = Path(corpus.path).name if corpus.path else corpus.dataset
    away = calibration.distance(read.text, text)
    per_token = _safely(lambda: _bytes_per_token(measured, scored[0], len(text)), facts.bytes_per_token)
    return replace(facts, distance=away, corpus=name, bytes_per_token=per_token)


def _bytes_per_token(measured: Measurements, step: Step, size: int) -> float:
    for other in measured.plan.of("baseline"):
        if (
            other.key == step.reference
            and measured.engine.has(other)
            and not dict(other.protocol.parameters)["limit"]
        ):
            return size / len(measured.engine.observation(other).arrays["ids"])
    return Facts(step.model.name).bytes_per_token
