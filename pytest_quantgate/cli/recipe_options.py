"""The options of `quantgate sweep` and `quantgate quantize`: every parameter that some method's recipe has.

They are made from the recipes' own vocabulary, so that a new method's parameters are options at once. Each can be
written with dashes or, as Qwen's run_gptq.py does, with underscores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_quantgate.recipe import METHODS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pytest_quantgate.spec import Scalar

__all__ = ["KEYS", "SWEEP_FORMATS", "add_quantize", "add_sweep", "value_of"]

KEYS: tuple[str, ...] = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.keys))
"""Every parameter of every method, in the order of the methods."""

SWEEP_FORMATS = ("text", "json", "csv", "markdown")
_ALIASES: Mapping[str, tuple[str, ...]] = {"max_length": ("--max_len", "--max-len")}


def value_of(text: str) -> Scalar:
    """Return what an option's text means: true, false, a finite number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def add_sweep(commands: argparse._SubParsersAction[Any]) -> None:
    """Declare `quantgate sweep`."""
    sweep = commands.add_parser(
        "sweep",
        allow_abbrev=False,
        help="cross recipes, quantize each once, and set them side by side",
        description="Quantize the baseline by every combination of the given values, measure each result, judge it by "
        "the study's gates and mark the Pareto-best. Without a recipe option: the study's own variants.",
        epilog="Exit code 0: some row was measured and holds every gate. 1: none does. 2: interrupted; what was "
        "measured is kept in the store.",
    )
    config = "the study (default: the nearest quantgate.toml or pyproject.toml)"
    sweep.add_argument("--config", metavar="FILE", help=config)
    sweep.add_argument("--method", metavar="NAME[,...]", help="quantization methods (default: gptq)")
    calibration = "calibration files (default: the one that the study's own recipes use)"
    sweep.add_argument("--calibration", metavar="FILE[,...]", help=calibration)
    _add_keys(sweep, "VALUE[,...]")
    gate = "judge by this gate instead of the study's; may be repeated"
    sweep.add_argument("--gate", action="append", default=[], metavar="GATE", help=gate)
    metrics = "what to show (default: perplexity, KLD, size and speed); with arguments: repeat the option"
    sweep.add_argument("--metrics", action="append", default=[], metavar="METRIC[,...]", help=metrics)
    sweep.add_argument("--format", choices=SWEEP_FORMATS, default="text", help="default: text")
    sweep.add_argument("--output", metavar="FILE", help="write the table there instead of printing it")
    sweep.add_argument("--store", metavar="DIR", help="the store's folder")
    _add_switches(sweep)
    sweep.set_defaults(module="sweep")


def add_quantize(commands: argparse._SubParsersAction[Any]) -> None:
    """Declare `quantgate quantize`."""
    quantize = commands.add_parser(
        "quantize",
        allow_abbrev=False,
        help="make one quantized checkpoint, outside of a study",
        description="Quantize a model into a folder: a forecast first, then the checkpoint, complete with tokenizer "
        "and configuration. It is moved into place only when it loads and speaks.",
        epilog="The options of Qwen's run_gptq.py are understood: --model_name_or_path, --data_path, --out_path, "
        "--max_len, --bits, --group-size.",
    )
    quantize.add_argument("--method", default="gptq", metavar="NAME", help="default: gptq")
    quantize.add_argument(
        "--baseline", "--model_name_or_path", required=True, metavar="MODEL", help="folder or hub id"
    )
    quantize.add_argument("--revision", default="", metavar="NAME", help="of a hub id")
    calibration = "calibration file: JSON lines, a JSON list of conversations, or plain text"
    quantize.add_argument("--calibration", "--data_path", metavar="FILE", help=calibration)
    quantize.add_argument(
        "--out", "--out_path", required=True, metavar="DIR", help="the new checkpoint's folder"
    )
    _add_keys(quantize, "VALUE")
    quantize.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, ... (default: what is there)"
    )
    quantize.add_argument("--force", action="store_true", help="replace a checkpoint that lies in DIR")
    quantize.add_argument("--dry-run", action="store_true", help="print the forecast, and make nothing")
    _add_switches(quantize)
    quantize.set_defaults(module="quantize")


def _add_keys(parser: argparse.ArgumentParser, metavar: str) -> None:
    group = parser.add_argument_group("recipe", "what each means and which method has it: docs/recipes.md")
    for name in KEYS:
        flags = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}", *_ALIASES.get(name, ())))
        having = {method: known.keys[name] for method, known in METHODS.items() if name in known.keys}
        allowed = {key.allowed for key in having.values()}
        about = f"of {', '.join(having)}" + (f": {allowed.pop()}" if len(allowed) == 1 else "")
        # no default: each method has its own, and the recipe fills it in
        group.add_argument(*flags, dest=f"key_{name}", metavar=metavar, help=about.replace("%", "%%"))


def _add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="use the store and local files only")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="load pickled weights (they can run any code)"
    )
    parser.add_argument(
        "--allow-code", action="store_true", help="run model code that a checkpoint brings along"
    )
