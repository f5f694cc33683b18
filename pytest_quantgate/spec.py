"""The frozen values that stages hand to each other.

All of them are plain data: a `Step` can be written as JSON, run in this process, in another interpreter or on
another machine, and its `key` names the observation in the store.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from typing import Protocol as Interface

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
    IntArray: TypeAlias = NDArray[np.int64]

__all__ = [
    "Estimate",
    "Json",
    "MetricDefinition",
    "ModelSpec",
    "Observation",
    "Protocol",
    "Recipe",
    "Sampling",
    "Scalar",
    "Step",
    "canonical",
    "digest",
]

Scalar: TypeAlias = str | int | float | bool
Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None

Relation = Literal["", "delta", "ratio", "drop", "recovery"]


def canonical(value: Json) -> bytes:
    """Return the one byte string that stands for a JSON value: sorted keys, no blanks, UTF-8, no NaN.

    Raises:
        ValueError: `value` holds NaN or an infinity.

    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical form, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


@dataclass(frozen=True, slots=True)
class Protocol:
    """Exactly how an observation is made: every parameter that could change a number, resolved.

    `parameters` is sorted by name; data files appear in it by their digest. `places` tells whoever runs the step where
    the data lies, and is no part of the identity.
    """

    kind: str
    parameters: tuple[tuple[str, Json], ...] = ()
    places: tuple[tuple[str, Json], ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, kind: str, **parameters: Json) -> Protocol:
        """Build one from keyword arguments."""
        return cls(kind, tuple(sorted(parameters.items())))

    def __getitem__(self, name: str) -> Any:
        return dict(self.parameters)[name]

    @property
    def part(self) -> str:
        """Which part of a pass it is; empty for the whole (see `Divisible`)."""
        return str(dict(self.parameters).get("part", ""))

    # a parameter may be a JSON object, which has no hash of its own
    def __hash__(self) -> int:
        return hash(canonical(self.identity()))

    def identity(self) -> dict[str, Json]:
        """Return what an observation depends on: everything but where the data lies."""
        return {"kind": self.kind, **dict(self.parameters)}

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object, places included where there are any."""
        return {**self.identity(), **({"places": dict(self.places)} if self.places else {})}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Protocol:
        """Rebuild what `to_json` wrote."""
        rest = {name: item for name, item in value.items() if name not in ("kind", "places")}
        places = tuple(sorted(value.get("places", {}).items()))
        return replace(cls.of(str(value["kind"]), **rest), places=places)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a variant is made from the baseline: a quantization method and its parameters, in the field's own names.

    `calibration` is the path of the calibration file, by whose content it counts; `python` is the interpreter that
    carries it out, empty for this one: what is installed there counts, the path does not.
    """

    method: str
    parameters: tuple[tuple[str, Scalar], ...] = ()
    calibration: str = ""
    calibration_digest: str = ""
    python: str = ""

    def __getitem__(self, name: str) -> Scalar:
        return dict(self.parameters)[name]

    def get(self, name: str, default: Scalar) -> Scalar:
        """Return one parameter, or `default`."""
        return dict(self.parameters).get(name, default)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object, path and digest of the calibration file included."""
        return {
            "method": self.method,
            "parameters": dict(self.parameters),
            "calibration": self.calibration,
            "calibration_digest": self.calibration_digest,
            **({"python": self.python} if self.python else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """Rebuild what `to_json` wrote."""
        return cls(
            str(value["method"]),
            tuple(sorted(value["parameters"].items())),
            str(value["calibration"]),
            str(value["calibration_digest"]),
            str(value.get("python", "")),
        )

    def identity(self) -> dict[str, Json]:
        """Return what decides the result: everything but where the calibration file lies."""
        return {
            "method": self.method,
            "parameters": dict(self.parameters),
            "calibration": self.calibration_digest,
        }


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which weights are run, and how.

    Attributes:
        name: the variant's name, or "baseline"; for people, not part of the identity.
        source: local path or hub id as configured; for people, not part of the identity.
        weights: identity of the checkpoint: "sha256:<digest>" of weights, configuration, tokenizer and chat
            template, or "recipe:<digest>" of recipe, baseline and quantizer version for one that is made here.
        path: the local folder; empty while a recipe has not been quantized. Not part of the identity.
        backend: registered name of the backend that loads it.
        dtype: the type it computes in, e.g. "bfloat16".
        device: "cpu", "cuda", "cuda:1" …
        engine: name and version of every library that can change a number.
        recipe: how it is made, for a variant that is a recipe.
        options: further arguments for the backend.
        python: the interpreter of the process that runs it; empty for this one. What is installed there is part of
            `engine`; the path itself is no part of the identity.
        isolated: it runs in a process of its own, also under this interpreter. Not part of the identity.

    """

    name: str
    source: str
    weights: str
    path: str = ""
    backend: str = "transformers"
    dtype: str = "float32"
    device: str = "cpu"
    engine: tuple[tuple[str, str], ...] = ()
    recipe: Recipe | None = None
    options: tuple[tuple[str, Scalar], ...] = ()
    python: str = ""
    isolated: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether this is the unquantized reference."""
        return self.name == "baseline"

    def identity(self) -> dict[str, Json]:
        """Return what an observation of this model depends on (device kinds are added by the step)."""
        return {
            "weights": self.weights,
            "backend": self.backend,
            "dtype": self.dtype,
            "engine": dict(self.engine),
            "options": dict(self.options),
        }

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object."""
        return {
            **self.identity(),
            "name": self.name,
            "source": self.source,
            "path": self.path,
            "device": self.device,
            "recipe": self.recipe.to_json() if self.recipe else None,
            "python": self.python,
            "isolated": self.isolated,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelSpec:
        """Rebuild what `to_json` wrote."""
        return cls(
            name=value["name"],
            source=value["source"],
            weights=value["weights"],
            path=value["path"],
            backend=value["backend"],
            dtype=value["dtype"],
            device=value["device"],
            engine=tuple(sorted(value["engine"].items())),
            recipe=Recipe.from_json(value["recipe"]) if value["recipe"] else None,
            options=tuple(sorted(value["options"].items())),
            python=value.get("python", ""),
            isolated=value.get("isolated", False),
        )

    def at(self, path: Path) -> ModelSpec:
        """Return the same model, lying at `path`."""
        return replace(self, path=str(path))


@dataclass(frozen=True, slots=True)
class Step:
    """One observation of one model: a plain value whose `key` names the result in the store.

    Attributes:
        observe: "module:attribute" of the `Observer` that makes it.
        model: the model that is observed.
        protocol: how.
        reference: key of the baseline's step that this one is measured against; empty for none.
        device: the kind of device, for observations that depend on it (speed, memory); else empty.

    """

    observe: str
    model: ModelSpec
    protocol: Protocol
    reference: str = ""
    device: str = ""

    def identity(self) -> dict[str, Json]:
        """Return everything that the result depends on."""
        return {
            "observe": self.observe,
            "model": self.model.identity(),
            "protocol": self.protocol.identity(),
            "reference": self.reference,
            "device": self.device,
        }

    @property
    def key(self) -> str:
        """The digest of `identity`: the observation's name in the store."""
        return digest(self.identity())

    @property
    def label(self) -> str:
        """A short name for people, e.g. "gptq-v1 tokens"."""
        part = f" (part {self.protocol.part})" if self.protocol.part else ""
        return f"{self.model.name} {self.protocol.kind}{part}"

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object."""
        return {**self.identity(), "model": self.model.to_json(), "protocol": self.protocol.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Step:
        """Rebuild what `to_json` wrote."""
        return cls(
            observe=value["observe"],
            model=ModelSpec.from_json(value["model"]),
            protocol=Protocol.from_json(value["protocol"]),
            reference=value["reference"],
            device=value["device"],
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """The raw per-item data of one pass.

    Attributes:
        arrays: one number per item (token, question, run), with whatever groups them.
        facts: what is one per pass: counts, versions, digests, findings. Plain JSON.

    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: the point estimate, in `unit`.
        unit: "", "B", "s", "tok/s", "nat", "bit"; empty for a pure number.
        n: how many items it rests on.
        low: lower end of the interval; None where none is known.
        high: upper end.
        note: what a reader must know beside the number, e.g. the truncation bound of a KL divergence.
        items: what `n` counts, for people: "tokens", "runs", "questions"; may be empty.
        confidence: the level of the interval, two-sided.
        unpaired: the interval that a comparison of unpaired data would have, where it was made on pairs.
        clusters: how many independent parts (windows, runs, questions) it rests on; 0 where that is not known.
        exact: it is counted, not sampled: it has no interval and needs none.
        partial: the share of the data that it rests on, where a pass was stopped early ("6 % of the windows"); the
            interval then holds however often one looked, and decides.
        missed: by how much the true value may lie above `value`, since a part could not be seen; None where nothing
            bounds it. A comparison that this could turn is not decided.
        sampling: gives the interval at any level; not written to JSON.

    """

    value: float
    unit: str = ""
    n: int = 1
    low: float | None = None
    high: float | None = None
    note: str = ""
    items: str = ""
    confidence: float = 0.95
    unpaired: tuple[float, float] | None = None
    clusters: int = 0
    exact: bool = False
    partial: str = ""
    missed: float | None = 0.0
    sampling: Sampling | None = field(default=None, compare=False, repr=False)

    def at(self, confidence: float) -> Estimate:
        """Return it with the interval of another level: none where only one level is known, and another is asked for.

        An interval that reaches to infinity says nothing, and is left out.
        """
        if self.sampling is None:
            known = confidence == self.confidence or self.exact or bool(self.partial)
            return self if known else replace(self, low=None, high=None, confidence=confidence)
        low, high = self.sampling.interval(confidence)
        ends = (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
        return replace(self, low=ends[0], high=ends[1], confidence=confidence)

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only (no numpy scalars)."""
        return {
            "value": float(self.value),
            "unit": self.unit,
            "n": int(self.n),
            "low": None if self.low is None else float(self.low),
            "high": None if self.high is None else float(self.high),
            "note": self.note,
            "items": self.items,
            "confidence": float(self.confidence),
            "unpaired": None if self.unpaired is None else [float(end) for end in self.unpaired],
            "clusters": int(self.clusters),
            "exact": bool(self.exact),
            "partial": self.partial,
            "missed": None if self.missed is None else float(self.missed),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Estimate:
        """Rebuild what `to_json` wrote; members after `note` may be left out."""
        unpaired = value.get("unpaired")
        return cls(**{**value, "unpaired": None if unpaired is None else (unpaired[0], unpaired[1])})


class Sampling(Interface):
    """How an estimate scatters: what `stats` makes of paired items, runs or counts."""

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval at a level in (0, 1); infinite ends where the data say nothing."""

    def tails(self, limit: float) -> tuple[float, float]:
        """Return the one-sided p-values of "the true value is at least `limit`" and of "at most `limit`"."""


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """What a metric is: registered under its name, validated against, and listed by `--quantgate-metrics`.

    Attributes:
        name: as gates write it, e.g. "kld".
        summary: one line for people.
        unit: unit of the absolute value and of `.delta` / `.drop`.
        better: which direction is an improvement.
        observer: "module:attribute" of the `Observer` whose observation it is computed from.
        statistics: the sub-quantities, e.g. ("mean", "p99"); empty if the metric is a single number.
        relations: which of delta, ratio, drop, recovery make sense.
        arguments: names that a call may set, e.g. ppl(protocol="gptq").
        alone: statistics that compare with the baseline themselves, and so have no relation.
        capability: what a task asks for: "knowledge", "mathematics", "code" …; empty for what is no task.
        table: the configuration table of its settings, where that is not the observer's own.
        selects: the argument that picks a part of the observation (a subject) instead of asking for another.

    A metric with `statistics` must be asked for one of them: `kld.mean`, not `kld`.
    """

    name: str
    summary: str
    unit: str
    better: Literal["lower", "higher"]
    observer: str
    statistics: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    capability: str = ""
    table: str = ""
    selects: str = ""
