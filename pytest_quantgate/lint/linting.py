"""All groups of rules over one model folder, in the order of what they rest on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from pytest_quantgate.lint.compared import check_baseline
from pytest_quantgate.lint.coverage import check_coverage, check_section
from pytest_quantgate.lint.finding import Finding, collapsed
from pytest_quantgate.lint.folder import Folder, survey
from pytest_quantgate.lint.gguf import is_gguf, lint_gguf
from pytest_quantgate.lint.kernels import check_kernels
from pytest_quantgate.lint.layers import check_head, check_layers
from pytest_quantgate.lint.packing import Packed, Unpacking
from pytest_quantgate.lint.packing_others import unpack
from pytest_quantgate.lint.release import check_release
from pytest_quantgate.lint.rules import SEVERITIES
from pytest_quantgate.lint.shapes import Shapes, check_shapes
from pytest_quantgate.lint.sizes import Facts, check_sizes, facts_of
from pytest_quantgate.lint.tokenizer import check_generation, check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["Linted", "lint"]


@dataclass(frozen=True, slots=True)
class Linted:
    """What lint says about a checkpoint.

    Attributes:
        path: the folder or file, as it was given.
        findings: the worst first.
        facts: what it takes, counted.

    """

    path: str
    findings: tuple[Finding, ...]
    facts: Facts

    def counts(self) -> dict[str, int]:
        """Return how many findings there are of each severity."""
        found = Counter(finding.about.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def without(self, rules: Collection[str]) -> Linted:
        """Return it without the findings of some rules, given by id or name."""
        kept = tuple(f for f in self.findings if f.rule not in rules and f.about.name not in rules)
        return replace(self, findings=kept)


def lint(path: Path, baseline: Path | None = None) -> Linted:
    """Judge a model folder, or a GGUF file.

    Args:
        path: the folder or file.
        baseline: the unquantized model's folder, to compare with.

    Raises:
        CheckpointError: one of them is no folder, or cannot be listed.

    """
    reference = None if baseline is None else survey(baseline)
    if is_gguf(path):
        found, counted = lint_gguf(path, reference)
        return Linted(str(path), collapsed(found), counted)
    folder = survey(path)
    packed, faults = _unpacked(folder)
    facts = facts_of(folder, packed)
    groups = [
        folder.findings,
        faults,
        check_section(folder),
        check_coverage(folder, packed),
        check_shapes(folder, packed),
        check_layers(folder),
        check_head(folder),
        check_tokenizer(folder),
        check_generation(folder),
        check_sizes(folder, facts),
        check_release(folder),
        check_kernels(folder, packed),
    ]
    if reference is not None:
        groups.append(check_baseline(folder, reference, packed))
    return Linted(str(path), collapsed(chain.from_iterable(groups)), facts)


def _unpacked(folder: Folder) -> tuple[dict[str, Packed], list[Finding]]:
    shapes = Shapes(folder.text_config)
    packed, faults = {}, []
    for name, module in folder.modules.items():
        if module.packing:
            at = Unpacking(module, folder.section, shapes.matrix(name))
            packed[name] = unpack(at)
            faults += at.findings
    return packed, faults
