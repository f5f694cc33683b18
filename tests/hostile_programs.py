"""Every hostile program, in the order of its kind; `hostile_shape` says what one is."""

from __future__ import annotations

import hostile_files
import hostile_leaving
import hostile_load
import hostile_system
import hostile_values
import hostile_verdict
from hostile_shape import ENTRY, Hostile, fill

__all__ = ["ENTRY", "HOSTILE", "Hostile", "fill"]

HOSTILE: tuple[Hostile, ...] = (
    *hostile_verdict.PROGRAMS,
    *hostile_values.PROGRAMS,
    *hostile_leaving.PROGRAMS,
    *hostile_files.PROGRAMS,
    *hostile_system.PROGRAMS,
    *hostile_load.PROGRAMS,
)
