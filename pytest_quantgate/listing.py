"""What `--quantgate-metrics` prints: every metric that gates can name, with its unit and what can be asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.registry import Registry

if TYPE_CHECKING:
    import pytest

    from pytest_quantgate.spec import MetricDefinition

__all__ = ["metrics_text"]


def metrics_text(config: pytest.Config) -> str:
    """Return the listing, one paragraph per metric."""
    registry = Registry()
    config.hook.pytest_quantgate_register(registry=registry)
    definitions = [registry.get("metrics", name) for name in registry.names("metrics")]
    return "\n".join(_paragraph(definition) for definition in definitions)


def _paragraph(definition: MetricDefinition) -> str:
    unit = f" [{definition.unit}]" if definition.unit else ""
    lines = [f"{definition.name}{unit}, {definition.better} is better: {definition.summary}"]
    for title, names in (
        ("statistics", definition.statistics),
        ("relations", definition.relations),
        ("arguments", definition.arguments),
    ):
        shown = [name for name in names if name]
        if shown:
            lines.append(f"    {title}: {', '.join(shown)}")
    return "\n".join(lines)
