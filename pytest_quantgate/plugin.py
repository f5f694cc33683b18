"""pytest's hooks, each one call long.

Imports the standard library, pytest and light siblings only: a suite without gates pays for this file and nothing
else. The hooks that run per test are registered where gates are active. The session is made when the first gate is
collected then, and the results when the first report that carries some arrives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_quantgate import hookspecs, options
from pytest_quantgate.errors import ConfigError, UsageError
from pytest_quantgate.places import EDGE, VARIANT, place_of

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_quantgate.results import Results
    from pytest_quantgate.session import Session

pytest_plugins = ("pytest_quantgate.fixtures",)

_SINCE: Final = "quantgate_since"
_REFUSED: Final = "quantgate_refused"
_NOT_ACTIVE: Final = "needs --quantgate: it measures models"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini values."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks for plugin authors."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """List the metrics instead of running tests, if that is what was asked for."""
    if not config.getoption("--quantgate-metrics"):
        return None
    from pytest_quantgate.listing import metrics_text  # noqa: PLC0415  free unless asked for

    print(metrics_text(config))  # noqa: T201  the listing is the command's output
    return 0


@pytest.hookimpl(wrapper=True, specname="pytest_cmdline_main")
def pytest_quantgate_plan_in_one_process(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """Keep pytest-xdist out of a run that only prints the plan: its workers have no terminal."""
    if config.getoption("--quantgate-plan") and config.pluginmanager.hasplugin("xdist"):
        config.option.numprocesses = 0
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker and register the rest of the hooks with their state."""
    config.addinivalue_line(
        "markers",
        "quantgate(*gates, variants=[...]): the quantized model must meet the gates; needs --quantgate",
    )
    edge = config.stash[EDGE] = Edge(config)
    config.pluginmanager.register(edge, "quantgate-edge")
    if options.is_active(config):
        config.pluginmanager.register(Active(config, edge), "quantgate-active")
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            # the configuration's gates are tests, too; who names files on the command line has chosen
            config.args.extend(_configured(config))


class Edge:
    """The session of this process, and the hooks for every run: they are called per file, or once."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: Session | None = None
        worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.is_worker = worker is not None
        self._since: float = worker[_SINCE] if worker else time.time()

    @property
    def session(self) -> Session:
        """The session of this process, made on first use.

        Raises:
            UsageError: the configuration cannot be used.

        """
        if self._session is None:
            from pytest_quantgate.session import Session  # noqa: PLC0415  free unless a gate is collected

            self._session = Session(self._config, self._since)
        return self._session

    @property
    def started(self) -> Session | None:
        """The session, if something needed it."""
        return self._session

    def judge(self, item: pytest.Item) -> None:
        """Judge the gates of an item, in its call phase."""
        if self._session is not None and _is_gated(item):
            self._session.check(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        """Turn a mistake in a gate into a usage error: one line and exit code 4, no traceback."""
        report = yield
        raised = getattr(report, "call", None) and report.call.excinfo
        if raised and isinstance(raised.value, UsageError):
            self.refuse(f"{_place_of(raised, collector)}{raised.value}")
        return report

    def refuse(self, message: str) -> NoReturn:
        """End the run with a usage error, on a worker too."""
        # what a worker raises stays there: the controller reads this when the worker is down
        output: dict[str, Any] = getattr(self._config, "workeroutput", {})
        output[_REFUSED] = message
        raise pytest.UsageError(message)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Plan what the gated items need and put the items of one variant together; skip them all if not active."""
        gated = [item for item in items if _is_gated(item)]
        if not gated:
            return
        if not options.is_active(self._config):
            for item in gated:
                item.add_marker(pytest.mark.skip(reason=_NOT_ACTIVE))
            return
        try:
            self.session.prepare(gated, plan=not self._config.option.collectonly)
        except UsageError as error:
            self.refuse(str(error))
        in_order = iter(sorted(gated, key=self.session.rank))
        items[:] = [next(in_order) if _is_gated(item) else item for item in items]

    # --- the controller of pytest-xdist's workers

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell xdist workers when this run began, so that --quantgate-refresh measures once, not once per worker."""
        node.workerinput[_SINCE] = self._since

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """End the run with the usage error that ended a worker."""
        if message := getattr(node, "workeroutput", {}).get(_REFUSED):
            raise pytest.UsageError(message)


class Active:
    """The hooks for gates to be measured; some are called per test. A controller's session never starts."""

    def __init__(self, config: pytest.Config, edge: Edge) -> None:
        self._config = config
        self._edge = edge
        self._results: Results | None = None

    # --- collection

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect the gates that the configuration file holds."""
        if file_path.name not in options.CONFIG_NAMES or file_path != options.config_file(self._config):
            return None
        from pytest_quantgate.items import GateFile  # noqa: PLC0415  free unless gates are active

        return GateFile.from_parent(parent, path=file_path)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a gated test once per variant."""
        marks = list(metafunc.definition.iter_markers("quantgate"))
        if not (marks or VARIANT in metafunc.fixturenames):
            return
        try:
            names = self._edge.session.variants_of(marks)
        except ConfigError:
            raise  # it names its own place, and the test that is collected first has no part in it
        except UsageError as error:
            raise UsageError(f"{place_of(metafunc.definition)}: {error}") from error
        if VARIANT not in metafunc.fixturenames:
            # the marker is the test: it need not ask for a fixture to be run per variant
            metafunc.fixturenames.append(VARIANT)
        metafunc.parametrize(
            VARIANT, [self._parameter(name) for name in names], indirect=True, scope="session"
        )

    def _parameter(self, name: str) -> Any:
        # under --dist loadgroup all tests of a variant then go to one worker
        grouped = self._config.pluginmanager.hasplugin("xdist")
        return pytest.param(name, id=name, marks=[pytest.mark.xdist_group(name)] if grouped else [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Add the self-tests of the gates, before -k and -m choose among the items."""
        if not self._config.getoption("--quantgate-selftest"):
            return
        from pytest_quantgate.items import selftests  # noqa: PLC0415  free unless asked for

        gated = [item for item in items if _is_gated(item)]
        if gated:
            items.extend(selftests(session, gated))

    # --- running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """Print the plan instead of running tests, if that is what was asked for."""
        if not self._config.getoption("--quantgate-plan"):
            return None
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        try:
            for line in self._edge.session.plan_lines():
                reporter.write_line(line)
        except UsageError as error:
            raise pytest.UsageError(str(error)) from None
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Judge the gates of a test before its body runs."""
        self._edge.judge(pyfuncitem)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        """Let the results ride on the report."""
        report = yield
        session = self._edge.started
        last = call.when == "call" or (call.when == "setup" and report.failed)
        if session is not None and last and _is_gated(item):
            report.quantgate = session.payload(item, report)
        return report

    def pytest_sessionfinish(self) -> None:
        """Free what is loaded, and write the report files."""
        if self._edge.started is not None:
            self._edge.started.close()
        if self._results is not None:
            self._results.write()

    # --- reporting; under pytest-xdist in the controller

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the results that ride on a report."""
        payload = getattr(report, "quantgate", None)
        if payload is None or self._edge.is_worker:
            return
        if self._results is None:
            from pytest_quantgate.results import Results  # noqa: PLC0415  free unless there are some

            self._results = Results(self._config)
        self._results.add(payload)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and what failed."""
        if self._results is not None:
            self._results.summarize(terminalreporter)


def _configured(config: pytest.Config) -> list[str]:
    try:
        file = options.config_file(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    return [str(file)] if file else []


def _is_gated(item: pytest.Item) -> bool:
    return item.get_closest_marker("quantgate") is not None or VARIANT in getattr(item, "fixturenames", ())


def _place_of(raised: pytest.ExceptionInfo[BaseException], collector: pytest.Collector) -> str:
    """Return "tests/test_q.py:12: ", where a module that is being imported writes the gate; else nothing."""
    lines = [entry.lineno + 1 for entry in raised.traceback if str(entry.path) == str(collector.path)]
    return f"{collector.nodeid}:{lines[-1]}: " if lines else ""
