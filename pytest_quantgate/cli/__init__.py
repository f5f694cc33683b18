"""The `quantgate` command: a thin shell over the code that a session uses.

It needs no pytest configuration and imports no engine: plans come from pytest itself, figures from the store.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from pytest_quantgate.cli import explain_options, lint_options, recipe_options
from pytest_quantgate.errors import QuantgateError
from pytest_quantgate.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

USAGE_ERROR = 4
"""pytest's exit code for the user's mistakes."""

_EPILOG = """\
The store is the folder of --store, else of QUANTGATE_STORE, else what [tool.quantgate] of the nearest quantgate.toml
or pyproject.toml says, else .quantgate beside that file or here. A mistake is one line and exit code 4.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes have pytest's exit code, and one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0: done, and every gate holds. 1: a gate does not hold. 4: a mistake. `plan` returns pytest's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["plan"] and given[1:2] not in (["-h"], ["--help"]):
        # before argparse, which would take pytest's options for its own
        module = import_module("pytest_quantgate.cli.plan")
        return int(module.run(given[1:]))
    chosen = _parser().parse_args(given)
    module = import_module(f"pytest_quantgate.cli.{chosen.module}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            return int(module.run(chosen))
    except QuantgateError as error:
        print("\n".join(map(plain, f"quantgate: {error}".splitlines())), file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:
        # `quantgate history | head` has seen enough
        sys.stderr.close()
        return 0


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print(plain(f"quantgate: warning: {message}"), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="quantgate",
        description="Quality gates for quantized LLMs: what was measured, judged and kept.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser(
        "plan",
        help="print what `pytest --quantgate` would measure, and run nothing",
        description="Print what `pytest --quantgate` would measure, and run nothing (pytest --quantgate-plan).",
        usage="quantgate plan [pytest's arguments]",
    )
    _add_history(commands)
    _add_flips(commands)
    _add_import(commands)
    _add_rejudge(commands)
    _add_baseline(commands)
    _add_store(commands)
    recipe_options.add_sweep(commands)
    recipe_options.add_quantize(commands)
    explain_options.add_explain(commands)
    lint_options.add_lint(commands)
    return parser


def _add_history(commands: argparse._SubParsersAction[_Parser]) -> None:
    history = commands.add_parser(
        "history",
        help="list the runs that judged something, the latest first",
        description="List the runs that judged something, the latest first, with the verdict of each variant.",
        epilog="An id, a unique beginning of it or a tag names a run for --quantgate-against and since('...').",
    )
    history.add_argument("--limit", type=_count, default=20, metavar="N", help="how many (default: 20)")
    _with_store(history, "history")


def _add_flips(commands: argparse._SubParsersAction[_Parser]) -> None:
    flips = commands.add_parser(
        "flips",
        help="print the answers of a report that changed, side by side",
        description="Print the items that baseline and variant answered differently right or wrong, side by side.",
    )
    flips.add_argument("report", help="a report.json, as --quantgate-report writes it")
    flips.add_argument("--task", default="", metavar="METRIC", help="only this task, e.g. gsm8k")
    flips.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="only this variant; may be repeated"
    )
    flips.add_argument(
        "--limit", type=_count, default=20, metavar="N", help="how many of each; 0 for all (default: 20)"
    )
    flips.set_defaults(module="flips")


def _add_import(commands: argparse._SubParsersAction[_Parser]) -> None:
    importing = commands.add_parser(
        "import",
        help="keep a results file of another tool as a model's own",
        description="Keep what lm-evaluation-harness, llama.cpp, vLLM or Evalution measured, to be judged by gates.",
        epilog="What is imported for a model is not measured again. --variant baseline is the unquantized reference.",
    )
    importing.add_argument("format", help="lm-eval, llama.cpp, vllm or evalution")
    importing.add_argument("file", metavar="FILE", help="the results file or log")
    importing.add_argument("--variant", required=True, metavar="NAME", help="the model that it is of")
    importing.add_argument(
        "--samples",
        action="append",
        default=[],
        metavar="FILE",
        help="lm-eval's samples of a task; may be repeated",
    )
    _with_store(importing, "importing")


def _add_rejudge(commands: argparse._SubParsersAction[_Parser]) -> None:
    rejudge = commands.add_parser(
        "rejudge",
        help="judge the stored observations of a report again",
        description="Judge the stored observations behind a report.json by other gates, without any model.",
        epilog="Exit code 0: every gate holds for every variant. 1: one does not, or cannot be measured.",
    )
    rejudge.add_argument("report", help="a report.json, as --quantgate-report writes it")
    gate = "a gate as text, e.g. 'kld.mean < 0.05'; may be repeated"
    rejudge.add_argument("--gate", action="append", required=True, metavar="GATE", help=gate)
    rejudge.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="only this variant; may be repeated"
    )
    level = "let the interval at this level decide, e.g. 0.95"
    rejudge.add_argument("--confidence", type=float, metavar="C", help=level)
    _with_store(rejudge, "rejudge")


def _add_baseline(commands: argparse._SubParsersAction[_Parser]) -> None:
    baseline = commands.add_parser(
        "baseline",
        help="show the baseline's stored observations, or carry them to another store",
        description="The baseline's stored observations. With them, a run never loads the unquantized model.",
    )
    actions = baseline.add_subparsers(title="actions", metavar="ACTION", required=True)
    _with_store(actions.add_parser("show", help="list them"), "baseline", "show")
    export = actions.add_parser("export", help="write them into one zip archive")
    take_in = actions.add_parser("import", help="keep those of an archive, digests checked")
    for parser, action in ((export, "export"), (take_in, "import")):
        parser.add_argument("file", metavar="FILE", help="the archive")
        _with_store(parser, "baseline", action)


def _add_store(commands: argparse._SubParsersAction[_Parser]) -> None:
    store = commands.add_parser(
        "store",
        help="list what is stored, or remove what is old",
        description="The content-addressed store of observations and quantized checkpoints.",
    )
    actions = store.add_subparsers(title="actions", metavar="ACTION", required=True)
    _with_store(actions.add_parser("ls", help="list the observations"), "shelves", "ls")
    prune = actions.add_parser(
        "prune",
        help="remove observations and checkpoints by age",
        description="Remove observations and checkpoints that were written long ago. What is missing is made again; "
        "an earlier run whose observations are gone cannot be compared with any more.",
    )
    prune.add_argument(
        "--older-than", type=_count, default=30, metavar="DAYS", help="age in days (default: 30)"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    _with_store(prune, "shelves", "prune")


def _with_store(parser: argparse.ArgumentParser, module: str, action: str = "") -> None:
    parser.add_argument("--store", metavar="DIR", help="the store's folder")
    parser.set_defaults(module=module, action=action)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)
