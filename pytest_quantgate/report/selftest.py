"""What a self-test of gates found: each gate on each kind of damage, and the table of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_quantgate.reading import require, require_one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_quantgate.spec import Json

__all__ = ["Detection", "Trial", "detections", "misses", "untested"]

Found = Literal["caught", "missed", "not measurable", "not tested"]
_FOUND: tuple[Found, ...] = get_args(Found)
_NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Trial:
    """One gate of one variant on one kind of damage.

    Attributes:
        variant: whose copy was damaged.
        gate: the gate's text.
        found: caught: the gate fails; missed: it passes; not measurable: the model cannot be damaged so,
            or the gate could not be judged; not tested: the gate cannot see damage, or does not pass without.
        damage: the kind; empty for a gate that is not tested.
        severe: every gate is to catch it.
        reason: why not; for what was missed, what was measured.

    """

    variant: str
    gate: str
    found: Found
    damage: str = ""
    severe: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trial:
        """Rebuild what `to_json` wrote."""
        trial = cls(**value)
        require(str, variant=trial.variant, gate=trial.gate, damage=trial.damage, reason=trial.reason)
        require(bool, severe=trial.severe)
        require_one_of(_FOUND, found=trial.found)
        return trial


@dataclass(frozen=True, slots=True)
class Detection:
    """One row of the detection table: a kind of damage and, per variant, how many gates caught it."""

    damage: str
    severe: bool
    cells: tuple[str, ...]

    @property
    def grade(self) -> str:
        """The grade as a word."""
        return "severe" if self.severe else "mild"


def detections(trials: Sequence[Trial]) -> tuple[tuple[str, ...], tuple[Detection, ...]]:
    """Return the variants and the table: "2 of 3" gates caught it, "-" where it could not be tried."""
    variants = tuple(dict.fromkeys(trial.variant for trial in trials if trial.damage))
    kinds = dict.fromkeys((trial.damage, trial.severe) for trial in trials if trial.damage)
    rows = (
        Detection(damage, severe, tuple(_cell(trials, variant, damage) for variant in variants))
        for damage, severe in kinds
    )
    return variants, tuple(rows)


def _cell(trials: Iterable[Trial], variant: str, damage: str) -> str:
    here = [trial.found for trial in trials if trial.variant == variant and trial.damage == damage]
    judged = [found for found in here if found in ("caught", "missed")]
    return f"{judged.count('caught')} of {len(judged)}" if judged else _NOTHING


def misses(trials: Iterable[Trial]) -> tuple[tuple[str, str, str], ...]:
    """Return (variant, gate, severe kinds that it lets pass) for each gate that misses some."""
    found: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        if trial.severe and trial.found == "missed":
            found.setdefault((trial.variant, trial.gate), []).append(trial.damage)
    return tuple((variant, gate, ", ".join(kinds)) for (variant, gate), kinds in found.items())


def untested(trials: Iterable[Trial]) -> tuple[tuple[str, str, str], ...]:
    """Return (variants, gate, reason) for the gates that were not tested, variants of one reason together."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for trial in trials:
        if trial.found == "not tested":
            found.setdefault((trial.gate, trial.reason), {})[trial.variant] = None
    return tuple((", ".join(names), gate, reason) for (gate, reason), names in found.items())
