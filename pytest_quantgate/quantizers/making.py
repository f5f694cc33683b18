"""What every quantizer does around its library: samples in, companions copied, the result tried, failures told."""

from __future__ import annotations

import gc
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from pytest_quantgate.errors import CheckpointError, ConfigError
from pytest_quantgate.quantizers import calibration
from pytest_quantgate.recipe import content_digest
from pytest_quantgate.registry import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.interfaces import Progress
    from pytest_quantgate.quantizers.isolation import Tail
    from pytest_quantgate.spec import ModelSpec, Recipe

__all__ = ["check_logits", "copy_companions", "explained", "read_samples", "read_tokenizer", "watched"]

CHECK_TOKENS = 64
CURRENT = 5  # the version of transformers whose tokenizers are the usual ones
COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*",
    "generation_config.json",
)
FAILURES = (
    *(RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError),
    *(ImportError, OSError),
)


@contextmanager
def explained(library: str, recipe: Recipe, baseline: ModelSpec, output: Tail) -> Iterator[None]:
    """Turn whatever a library raises into one line.

    Raises:
        CheckpointError: says library, recipe, what was raised, and the last lines that the library printed.

    """
    try:
        yield
    except FAILURES as error:
        settings = ", ".join(f"{name} = {value}" for name, value in recipe.parameters)
        raise CheckpointError(
            f"{library} could not make {recipe.method} ({settings}) of {baseline.source}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}; its last output: {output}"
        ) from error
    finally:
        gc.collect()


def read_samples(recipe: Recipe, folder: Path, shortest: int = 1) -> list[list[int]]:
    """Return the recipe's calibration samples as ids of the tokenizer in `folder`.

    Raises:
        ConfigError: the file does not yield them, or has changed since it was read.

    """
    path = Path(recipe.calibration)
    if content_digest(path) != recipe.calibration_digest:
        raise ConfigError(f"calibration file {path} has changed since the recipe was read; run again")
    limits = {name: int(recipe[name]) for name in ("samples", "max_length")}
    return calibration.read(path, read_tokenizer(folder), shortest=shortest, **limits)


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a checkpoint; an older stack reads what today's saved in a way of its own."""
    if int(transformers.__version__.split(".")[0]) < CURRENT:
        return load("pytest_quantgate.backends.older_tokenizers:read")(folder)
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def watched(model: Any, progress: Progress) -> Iterator[None]:
    """Report each decoder layer when a library first comes to it: none says by itself how far it is."""
    count = model.config.get_text_config().num_hidden_layers
    layers = next(
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    )
    reached = 0

    def reach(number: int) -> None:
        nonlocal reached
        if number == reached + 1:
            reached = number
            progress(reached, count)

    hooks = [
        layer.register_forward_pre_hook(lambda *_, number=number: reach(number))
        for number, layer in enumerate(layers, 1)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    progress(count, count)


def copy_companions(source: Path, out: Path, leftovers: tuple[str, ...] = ()) -> None:
    """Replace the tokenizer that a library saved anew, and drop what does not belong into a checkpoint."""
    for pattern in (*COMPANIONS, *leftovers):
        for path in out.glob(pattern):
            path.unlink()
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            target = out / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def check_logits(model: Any, ids: list[int]) -> None:
    """Run one short text through a model that was just made.

    Raises:
        CheckpointError: a logit is NaN or infinite.

    """
    logits = model(input_ids=torch.tensor([ids[:CHECK_TOKENS]], device=model.device)).logits
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError(
            "the quantized model answers with NaN or infinite logits; "
            "try a finer group_size, a larger damp_percent, or other calibration samples"
        )
