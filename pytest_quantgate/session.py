"""The one stateful object: items in, plan, verdicts, payloads for the report out.

One is made per pytest process, when gates are active and the first of them is collected. Whatever leaves it for the
controller is plain JSON on a test report, so that the same path serves with and without pytest-xdist.
"""

from __future__ import annotations

import platform
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate import explain, machine, options, study
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    InconclusiveWarning,
    StoreError,
    UsageError,
)
from pytest_quantgate.foresight import Foresight
from pytest_quantgate.marks import Asked, Demand, as_confidence, as_gate, demand_of
from pytest_quantgate.measurements import Measurements
from pytest_quantgate.narrator import narrator_of
from pytest_quantgate.places import place_of, variant_of
from pytest_quantgate.registry import Registry
from pytest_quantgate.report import Result
from pytest_quantgate.reporters.junit import properties
from pytest_quantgate.tabulation import Tabulation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_quantgate.gate import Gate
    from pytest_quantgate.report import Status, Trial
    from pytest_quantgate.spec import Json
    from pytest_quantgate.verdict import Outcome, Verdict

__all__ = ["Session"]

_DISTRIBUTIONS = (
    "pytest-quantgate",
    "pytest",
    "numpy",
    "torch",
    "transformers",
    "gptqmodel",
    "optimum",
    "datasets",
)


class Session:
    """State of one pytest process with active gates.

    Raises:
        UsageError: the configuration cannot be used.

    """

    def __init__(self, config: pytest.Config, since: float) -> None:
        file = options.config_file(config)
        self.study = study.read(file, config.rootpath)
        self.options = options.Options.from_config(config, self.study.table, self.study.root)
        registry = Registry()
        config.hook.pytest_quantgate_register(registry=registry)
        try:
            self.measurements = Measurements(self.study, self.options, registry, narrator_of(config), since)
        except StoreError as error:
            raise UsageError(str(error)) from error
        self._demands: dict[pytest.Item, Demand] = {}
        self._verdicts: dict[pytest.Item, tuple[Verdict, ...]] = {}
        self._trials: dict[pytest.Item, tuple[Trial, ...]] = {}
        self._told = 0
        self._told_answers: set[str] = set()

    # --- collection

    def variants_of(self, marks: Iterable[pytest.Mark]) -> tuple[str, ...]:
        """Return the variants that a test with these marks runs for.

        Raises:
            UsageError: a mark cannot be used, or no variant is configured.

        """
        if not self.study.variants:
            raise ConfigError(
                f"no variant is configured; add [tool.quantgate.variants.NAME] to"
                f" {self.study.file or self.study.root / 'pyproject.toml'}"
            )
        return demand_of(marks).variants(self.study.names)

    def prepare(self, items: Sequence[pytest.Item], *, plan: bool) -> None:
        """Check the gates of all items that are left after deselection, and plan them unless they are only listed.

        Raises:
            UsageError: a gate that can never be judged, or a baseline that cannot be used.

        """
        gates: dict[str, list[Asked]] = {}
        for item in items:
            self._demands[item] = demand_of(item.iter_markers("quantgate"))
            if not variant_of(item):
                raise UsageError(
                    f"{place_of(item)}: a unittest.TestCase cannot run per variant; write a function"
                )
            wanted = self._demands[item].gates(variant_of(item))
            self._check(item, wanted)
            gates.setdefault(variant_of(item), []).extend(wanted)
        if not plan:
            return
        ordered = {name: gates[name] for name in self.study.names if name in gates}
        try:
            self.measurements.prepare(ordered)
        except CheckpointError as error:
            raise UsageError(str(error)) from error

    def _check(self, item: pytest.Item, asked: Iterable[Asked]) -> None:
        for one in asked:
            try:
                self.measurements.wants.check(one.gate)
                if one.stop_early:
                    self.measurements.wants.check_stop(one.gate)
            except UsageError as error:
                raise UsageError(f"{place_of(item)}: {error}") from error

    def rank(self, item: pytest.Item) -> int:
        """Return the place of an item's variant: items of one variant run together, so that it loads once."""
        return self.study.names.index(variant_of(item))

    # --- running

    def check(self, item: pytest.Item) -> None:
        """Judge an item's gates: return if they hold; else fail or skip the test with the reason."""
        gates = self._demands[item].gates(variant_of(item))
        if not gates:
            return
        verdicts = self.measurements.judge(variant_of(item), gates)
        self._verdicts[item] = verdicts
        item.user_properties.extend(pair for verdict in verdicts for pair in properties(verdict))
        self.settle(variant_of(item), verdicts)

    def settle(self, variant: str, verdicts: Sequence[Verdict]) -> None:
        """Turn verdicts into pytest's outcome: fail for the gravest, else warn or skip as the policy says."""
        by_outcome: dict[Outcome, list[Verdict]] = {}
        for verdict in verdicts:
            by_outcome.setdefault(verdict.outcome, []).append(verdict)
        undecided, absent = (by_outcome.get(outcome, []) for outcome in ("INCONCLUSIVE", "UNMEASURED"))
        policy = self.options.inconclusive
        if "FAIL" in by_outcome or (undecided and policy == "fail") or (absent and self.options.strict):
            missed = [*by_outcome.get("FAIL", []), *undecided, *absent]
            why = explain.paragraph(explain.why(self.measurements, variant, missed))
            pytest.fail("\n".join(filter(None, (f"{variant}: {_explained(missed)}", why))), pytrace=False)
        if undecided and policy == "skip":
            pytest.skip(f"{variant}: {_explained(undecided)}")
        if undecided:
            warnings.warn(InconclusiveWarning(f"{variant}: {_explained(undecided)}"), stacklevel=2)
        if absent:
            pytest.skip("; ".join(dict.fromkeys(verdict.reason for verdict in absent)))

    def require(self, variant: str, gates: Sequence[Gate | str], confidence: float | None = None) -> None:
        """Judge gates from inside a test body: return if they hold; else fail or skip the test with the reason.

        Raises:
            UsageError: an argument is no gate, or can never be judged.

        """
        wanted = [Asked(as_gate(gate), as_confidence(confidence)) for gate in gates]
        for one in wanted:
            self.measurements.wants.check(one.gate)
        self.settle(variant, self.measurements.judge(variant, wanted))

    def selftest(self, item: pytest.Item) -> None:
        """Try an item's gates on damaged copies: return if all severe damage is caught, else fail or skip."""
        from pytest_quantgate import selftest  # noqa: PLC0415  free unless asked for

        variant = variant_of(item)
        undecided_fails = self.options.inconclusive == "fail"
        refused: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE") if undecided_fails else ("FAIL",)
        tester = selftest.Selftest(self.measurements, self.options.seed, frozenset(refused))
        trials = tester.run(variant, self._demands[item].gates(variant))
        self._trials[item] = trials
        if selftest.undetected(trials):
            pytest.fail(f"{variant}: {selftest.explain(trials)}", pytrace=False)
        if not any(trial.found in ("caught", "missed") for trial in trials):
            pytest.skip("; ".join(dict.fromkeys(f"{trial.gate}: {trial.reason}" for trial in trials)))

    # --- reporting

    def payload(self, item: pytest.Item, report: pytest.TestReport) -> dict[str, Any]:
        """Return what an item adds to the report, as plain JSON."""
        measured = self.measurements
        variant = variant_of(item)
        verdicts = self._verdicts.get(item, ())
        outcome = _outcome(verdicts, report, strict=self.options.strict)
        if item in self._trials and not report.failed:
            outcome = ""  # a test of gates says nothing about the variant
        result = Result(
            nodeid=item.nodeid,
            variant=variant,
            outcome=outcome,
            verdicts=verdicts,
            expected_failure=hasattr(report, "wasxfail"),
            reason=_reason(report),
        )
        fresh, self._told = measured.engine.records[self._told :], len(measured.engine.records)
        rows = Tabulation(measured)
        causes = explain.why(measured, variant, verdicts) if outcome in {"FAIL", "INCONCLUSIVE"} else ()
        baseline = rows.baseline_row()
        return {
            "environment": self._environment(),
            "baseline": baseline.to_json() if baseline else None,
            "variants": [*self._bare_rows(), rows.row(variant).to_json()],
            "results": [result.to_json()],
            "steps": [record.to_json() for record in fresh],
            "changes": [change.to_json() for change in rows.changes(variant)],
            "selftest": [trial.to_json() for trial in self._trials.get(item, ())],
            "capabilities": [one.to_json() for one in rows.capabilities(variant)],
            "answers": [one.to_json() for one in rows.answers(variant, self._told_answers)],
            "findings": [one.to_json() for one in causes],
            "notes": list(rows.notes(variant)),
            "protocols": [step.protocol.identity() for step in measured.plan.of(variant)],
        }

    def _bare_rows(self) -> Iterator[dict[str, Json]]:
        """Yield a row for each variant that is tested, in configured order: workers finish in any order."""
        tested = {variant_of(item) for item in self._demands}
        return ({"name": name} for name in self.study.names if name in tested)

    def _environment(self) -> dict[str, Json]:
        specs = [step.model for step in self.measurements.plan.steps]
        kinds = dict.fromkeys(machine.device_kind(spec.device) for spec in specs)
        return {
            "python": platform.python_version(),
            "system": platform.platform(),
            "devices": list(kinds),
            **dict(machine.versions(*_DISTRIBUTIONS)),
        }

    def plan_lines(self) -> Iterator[str]:
        """Yield the plan for people: each step, its key, whether the store has it; then what each gate will see.

        Raises:
            UsageError: a gate is blind, in a strict session.

        """
        for step in self.measurements.plan.steps:
            known = "in the store" if self.measurements.engine.store.get(step.key) else "to be measured"
            yield f"{step.key[:12]}  {step.label:<32}  {known}"
        forecasts = list(Foresight(self.measurements).forecasts())
        yield from (forecast.line() for forecast in forecasts)
        blind = [forecast for forecast in forecasts if forecast.blind]
        if blind and self.options.strict:
            raise UsageError(
                "; ".join(f"{one.variant}: {one.comparison} cannot see its own margin" for one in blind)
            )

    def close(self) -> None:
        """Free what is loaded."""
        self.measurements.engine.release()


def _explained(verdicts: Iterable[Verdict]) -> str:
    return "\n".join(verdict.explain() for verdict in verdicts)


def _outcome(verdicts: Sequence[Verdict], report: pytest.TestReport, *, strict: bool) -> Status:
    outcomes = {verdict.outcome for verdict in verdicts}
    if "FAIL" in outcomes or (strict and "UNMEASURED" in outcomes):
        return "FAIL"
    if undecided := outcomes - {"PASS"}:
        return min(undecided)
    return "ERROR" if report.failed else "PASS"


def _reason(report: pytest.TestReport) -> str:
    """Return why a test is expected to fail, was skipped, or failed though its gates hold."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr or "").partition("\n")[0] if report.failed else ""
