"""What may have gone wrong with a variant: told under a failing gate, and the answer of `quantgate explain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_quantgate.reading import require, require_finite, require_one_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_quantgate.spec import Json

__all__ = ["Finding", "Kind", "likeliest"]

Kind = Literal["recipe", "range", "where", "what", "trouble"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicion, and what it rests on.

    Attributes:
        variant: name of the variant.
        kind: which question it answers: the recipe, the range that the format usually reaches, where in the model,
            what is to blame (checkpoint, engine, baseline), or a known trouble of tools.
        text: what is the matter, one sentence.
        evidence: what that rests on: a measurement of this run, a paper or document by name.
        advice: what to try.
        weight: how much speaks for it, in [0, 1]; the likeliest is shown first.
        cause: a stable word for programs: "group_size", "calibration_domain", "stale_baseline" …

    """

    variant: str
    kind: Kind
    text: str
    evidence: str = ""
    advice: str = ""
    weight: float = 0.5
    cause: str = ""

    def sentence(self) -> str:
        """Return it as one line."""
        rests_on = f" ({self.evidence})" if self.evidence else ""
        return f"{self.text}{rests_on}{f'; {self.advice}' if self.advice else ''}"

    def brief(self) -> str:
        """Return what is the matter and what to try, without what that rests on."""
        return f"{self.text}{f'; {self.advice}' if self.advice else ''}"

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object of builtin types only."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """Rebuild what `to_json` wrote."""
        found = cls(**value)
        require(str, variant=found.variant, text=found.text, evidence=found.evidence)
        require(str, advice=found.advice, cause=found.cause)
        require_one_of(get_args(Kind), kind=found.kind)
        require_finite(weight=found.weight)
        if not 0 <= found.weight <= 1:
            raise ValueError(f"weight cannot be {found.weight!r}")
        return found


def likeliest(found: Iterable[Finding], most: int) -> tuple[Finding, ...]:
    """Return at most `most` findings of each variant, in their order."""
    told: dict[str, list[Finding]] = {}
    for one in found:
        told.setdefault(one.variant, []).append(one)
    return tuple(one for of_variant in told.values() for one in of_variant[:most])
