"""The hooks that a conftest.py or another plugin can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.registry import Registry


def pytest_quantgate_register(registry: Registry) -> None:
    """Add metrics, backends, quantizers or reporters.

    Called once, when the first gate is collected::

        def pytest_quantgate_register(registry):
            registry.add("metrics", "answer_length", "my_project.quality:ANSWER_LENGTH")
    """
