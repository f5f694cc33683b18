"""Checkpoints before any framework sees them: where they lie, that they are sound, and what they are."""

from pytest_quantgate.checkpoint.headers import TensorInfo
from pytest_quantgate.checkpoint.identity import fingerprint, resolve
from pytest_quantgate.checkpoint.preflight import Checkpoint, check_unchanged, preflight

__all__ = ["Checkpoint", "TensorInfo", "check_unchanged", "fingerprint", "preflight", "resolve"]
