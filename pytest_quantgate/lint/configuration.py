"""Every unsound field of config.json and of a quantization section, not only the first one. Pure.

What each field may hold is the pre-flight's business (`checkpoint.config`): it is asked about one field at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.config import check_config, check_quantization
from pytest_quantgate.files import MalformedError
from pytest_quantgate.lint.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["sound_config", "sound_section"]

_ADVICE = "correct it, or export the checkpoint again"
MAX_FIELDS = 1_000
_MODEL = {"model_type": "any"}
_SECTIONS = ("quantization_config", "compression_config")


def sound_config(value: Any, findings: list[Finding]) -> dict[str, Any]:
    """Return the configuration without its unsound fields; report those."""
    if not isinstance(value, dict):
        if value is not None or not findings:
            findings.append(Finding("QG201", "config.json", "is no JSON object", _ADVICE))
        return {}
    if len(value) > MAX_FIELDS:
        findings.append(
            Finding("QG201", "config.json", f"has {len(value)} fields (allowed: {MAX_FIELDS})", _ADVICE)
        )
        return {}
    if "model_type" not in value:
        findings.append(Finding("QG201", "config.json", "has no model_type", _ADVICE))
    sound: dict[str, Any] = {}
    for name, field in value.items():
        fault = None if name in _SECTIONS else _fault(check_config, {**_MODEL, name: field})
        if fault is None:
            sound[name] = field
        else:
            findings.append(Finding("QG201", "config.json", fault, _ADVICE))
    # fields that are sound alone may contradict each other: heads that do not divide the width
    together = {name: field for name, field in sound.items() if name not in _SECTIONS}
    fault = _fault(check_config, _MODEL | together)
    if fault is not None:
        findings.append(Finding("QG201", "config.json", fault, _ADVICE))
    return sound


def sound_section(file: str, value: Any, findings: list[Finding]) -> dict[str, Any]:
    """Return a quantization section without its unsound fields; report those."""
    if not isinstance(value, dict):
        findings.append(Finding("QG101", file, "has a quantization section that is no JSON object", _ADVICE))
        return {}
    if len(value) > MAX_FIELDS:
        findings.append(Finding("QG101", file, f"has {len(value)} fields (allowed: {MAX_FIELDS})", _ADVICE))
        return {}
    sound = {}
    for name, field in value.items():
        fault = _fault(check_quantization, {name: field})
        if fault is None:
            sound[name] = field
        else:
            findings.append(Finding("QG101", file, fault, _ADVICE))
    return sound


def _fault(check: Callable[[Any], Any], value: dict[str, Any]) -> str | None:
    try:
        check(value)
    except MalformedError as error:
        return str(error)
    return None
