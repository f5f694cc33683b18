"""The arguments of `quantgate explain`."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_explain"]

WINDOWS = 16


def add_explain(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command."""
    explain = commands.add_parser(
        "explain",
        help="say why the gates of a variant fail: recipe, where in the model, checkpoint, engine or baseline",
        description="Say why the gates of a variant fail. Judges them (what is missing is measured), then tells what "
        "speaks against the recipe; where in the model it fails (--where), which puts layers back one at a time; and "
        "what is to blame (--what), which measures engine and baseline anew. Without either, both are done.",
        epilog="Gates: --gate, else those of the configuration and of the newest run. Exit code 0: it was looked into.",
    )
    explain.add_argument("variant", nargs="*", metavar="VARIANT", help="only these; default: all")
    explain.add_argument("--config", metavar="FILE", help="the study's TOML file (default: the nearest one)")
    explain.add_argument("--store", metavar="DIR", help="the store's folder")
    explain.add_argument(
        "--gate", action="append", default=[], metavar="GATE", help="judge by this gate; repeatable"
    )
    explain.add_argument("--where", action="store_true", help="look only where in the model it fails")
    explain.add_argument("--what", action="store_true", help="look only what is to blame")
    explain.add_argument(
        "--quick", action="store_true", help="neither: only what is known without loading a model"
    )
    explain.add_argument(
        "--windows", type=_windows, default=WINDOWS, metavar="N",
        help=f"windows of the corpus that are looked at again and again (default: {WINDOWS})",
    )  # fmt: skip
    explain.add_argument("--format", choices=("text", "json"), default="text", help="what is printed")
    explain.add_argument(
        "--output", metavar="FILE",
        help="write it there instead; FILE.csv gets the tables of modules, layers and what was put back, to be plotted",
    )  # fmt: skip
    explain.add_argument(
        "--allow-pickle", action="store_true", help="load pickled weights (they can run any code)"
    )
    explain.add_argument(
        "--allow-code", action="store_true", help="run model code that a checkpoint brings along"
    )
    explain.set_defaults(module="explain")


def _windows(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
