"""What a release needs beside weights, and what it must not hold: licence, card, pickles, code, left-overs. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_quantgate.lint.finding import Finding
from pytest_quantgate.lint.shards import PICKLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.lint.folder import Folder

__all__ = ["check_release"]

_LICENCE = re.compile(r"(licen[cs]e|copying|notice|use_policy)", re.IGNORECASE)
_TAG = re.compile(r"^license(?:_name)?:\s*\S", re.MULTILINE)
_LEFT_OVER = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state.*|trainer_state)\.(bin|pt|pth|json)|events\.out\..*"
)
_PYTHON = "review the code and publish without it if the library knows the model"


def check_release(folder: Folder) -> Iterator[Finding]:
    """Judge which files are there."""
    names = folder.sizes
    if "adapter_config.json" in names:
        text = "is an adapter's, not a model's"
        yield Finding("QG608", "adapter_config.json", text, "merge it into its base model first")
    yield from _dangerous(folder)
    card = next((name for name in names if name.lower() == "readme.md"), None)
    if card is None:
        yield Finding(
            "QG605", "", "has no README.md", "say what it is, how it was made and how it was judged"
        )
    header = folder.read_text(card).split("\n---", 1)[0] if card else ""
    if not any(_LICENCE.match(name) for name in names) and not _TAG.search(header):
        text = "has no licence (allowed: a file LICENSE*, or license: in the head of README.md)"
        yield Finding("QG604", "", text, "copy the licence of the base model")


def _dangerous(folder: Folder) -> Iterator[Finding]:
    for name in folder.sizes:
        if _LEFT_OVER.fullmatch(name):
            yield Finding("QG504", name, "is a file of the training run", "remove it")
        elif PICKLES.fullmatch(name) and folder.weights.files:
            yield Finding("QG602", name, "is a pickle beside safetensors", "remove it: loading it runs code")
    for name in folder.sizes:
        if name.endswith(".py"):
            yield Finding("QG603", name, "is code that a loader may run", _PYTHON)
    for file, document in (("config.json", folder.config), *folder.documents.items()):
        if "auto_map" in document:
            yield Finding(
                "QG603", file, "has auto_map, which tells loaders to run the checkpoint's code", _PYTHON
            )
