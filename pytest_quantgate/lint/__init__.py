"""Judging a checkpoint from headers and configuration alone: no framework, no tensor data, no GPU."""

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.linting import Linted, lint
from pytest_quantgate.lint.rules import RULES

__all__ = ["RULES", "Finding", "Linted", "lint"]
