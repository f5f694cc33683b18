"""Why a stored observation was not used: what differs between two steps, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.spec import Json, Step

__all__ = ["differences"]

_LONGEST = 40


def differences(before: Step, now: Step) -> tuple[str, ...]:
    """Return what of the identity changed, e.g. "model.engine.transformers: 5.22.0, now 5.23.0"."""
    old, new = dict(_flat(before.identity())), dict(_flat(now.identity()))
    names = dict.fromkeys([*new, *old])
    return tuple(
        f"{name}: {_short(old.get(name))}, now {_short(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    )


def _flat(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _short(value: Json) -> str:
    """Digests are told apart by their first digits."""
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= _LONGEST else f"{text[:19]}…"
