"""The options of `quantgate lint`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["add_lint"]


def add_lint(commands: argparse._SubParsersAction[Any]) -> None:
    """Declare `quantgate lint`."""
    lint = commands.add_parser(
        "lint",
        help="judge a checkpoint by its headers and configuration, without loading it",
        description="Judge a model folder or a GGUF file by headers and configuration alone: what is packed against "
        "what is said, shapes, shards and index, tokenizer, sizes, papers, kernels. Reads no weights, needs no GPU.",
        epilog="Exit code 0: no error was found. 1: one was, or under --strict a warning. 4: a mistake.",
    )
    lint.add_argument("checkpoint", metavar="CHECKPOINT", help="the model's folder, or a GGUF file")
    lint.add_argument("--baseline", metavar="PATH", help="the unquantized model's folder, to compare with")
    lint.add_argument("--format", choices=("text", "json", "sarif"), default="text", help="default: text")
    lint.add_argument("--output", metavar="FILE", help="write it there instead of printing it")
    lint.add_argument("--strict", action="store_true", help="warnings count as errors do")
    ignore = "leave out a rule, by id or name; may be repeated"
    lint.add_argument("--ignore", action="append", default=[], metavar="RULE", help=ignore)
    lint.set_defaults(module="lint")
