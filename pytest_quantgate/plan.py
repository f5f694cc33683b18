"""Gates in, steps out: what must be observed, once each, in an order that loads each model once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_quantgate.spec import ModelSpec, Protocol, Step

__all__ = ["Needs", "Plan", "Want", "make"]


@dataclass(frozen=True, slots=True)
class Want:
    """One kind of observation that one variant's gates need.

    Attributes:
        observe: "module:attribute" of the observer.
        protocol: how.
        variant: the model.
        order: place of the observer's kind in a model's steps.
        baseline: the reference, if the observation or a metric of it is compared with one.
        paired: the variant's pass reads the baseline's observation.
        device: the kind of device, if the numbers belong to one.

    """

    observe: str
    protocol: Protocol
    variant: ModelSpec
    order: int
    baseline: ModelSpec | None = None
    paired: bool = False
    device: str = ""

    def needs(self) -> Needs:
        """Return the steps that yield it.

        The baseline is run in the type that the variant computes in: otherwise the difference of the types
        would look like damage.
        """
        reference = None
        if self.baseline is not None:
            like = replace(self.baseline, dtype=self.variant.dtype, device=self.variant.device)
            reference = Step(self.observe, like, self.protocol, device=self.device)
        key = reference.key if reference is not None and self.paired else ""
        return Needs(Step(self.observe, self.variant, self.protocol, key, self.device), reference)


@dataclass(frozen=True, slots=True)
class Needs:
    """The steps behind one estimate: the variant's, and the baseline's where there is one."""

    variant: Step
    baseline: Step | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of a session, deduplicated: the baseline's first, then variant by variant."""

    steps: tuple[Step, ...] = ()
    needs: Mapping[Want, Needs] = field(default_factory=dict)

    def of(self, model: str) -> tuple[Step, ...]:
        """Return the steps of one model by its name, light ones first."""
        return tuple(step for step in self.steps if step.model.name == model)


def make(wants: Iterable[Want], order: Sequence[str]) -> Plan:
    """Plan what `wants` need; `order` names the variants in the order in which they are to run."""
    distinct = tuple(dict.fromkeys(wants))
    needs = {want: want.needs() for want in distinct}
    ranked: list[tuple[tuple[int, str, int], Step]] = []
    for want, pair in needs.items():
        if pair.baseline is not None:
            # the baseline loads once per type that it computes in
            ranked.append(((-1, pair.baseline.model.dtype, want.order), pair.baseline))
        ranked.append(((order.index(want.variant.name), "", want.order), pair.variant))
    ranked.sort(key=lambda entry: entry[0])
    first_of_key = {step.key: step for _, step in reversed(ranked)}
    steps = dict.fromkeys(first_of_key[step.key] for _, step in ranked)
    return Plan(tuple(steps), needs)
