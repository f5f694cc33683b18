"""What Qwen's guide leaves to the hand after quantization: support files, configuration, the name of the weights.

Nothing that a quantizer wrote is replaced; what is missing is added from the unquantized model's folder.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

from pytest_quantgate.files import opened, read_all, strict_json, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["complete"]

SUPPORT: Final = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
    *("*.tiktoken", "chat_template*", "additional_chat_templates/*", "generation_config.json"),
    *("preprocessor_config.json", "processor_config.json", "LICENSE*", "NOTICE*"),
)
CODE: Final = ("*.py", "*.cu", "*.cpp")
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_BESIDE: Final = ("quantize_config.json", "quant_config.json")


def complete(folder: Path, source: Path, method: str, *, code: bool = False) -> tuple[str, ...]:
    """Make a quantized checkpoint what loaders expect; return the names of the files that were added or changed.

    Args:
        folder: the checkpoint, which is changed.
        source: the unquantized model's folder.
        method: name of the format, for a quantization section that does not say it.
        code: copy the model's own code as well.

    Raises:
        MalformedError: config.json or the quantization section is no JSON.
        OSError: a file cannot be read or written.

    """
    if any(folder.glob("*.gguf")):
        return ()  # one file that holds everything
    added = [*_copied(folder, source, (*SUPPORT, *(CODE if code else ())))]
    added += [*_named(folder), *_configured(folder, source, method)]
    return tuple(added)


def _copied(folder: Path, source: Path, patterns: Iterable[str]) -> Iterable[str]:
    for path in sorted({path for pattern in patterns for path in source.glob(pattern)}):
        target = folder / path.relative_to(source)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            yield target.relative_to(folder).as_posix()


def _named(folder: Path) -> Iterable[str]:
    """Give a single weight file the one name that every loader looks for (auto-gptq wrote gptq.safetensors)."""
    weights = sorted(folder.glob("*.safetensors"))
    if len(weights) == 1 and weights[0].name != WEIGHTS and not (folder / INDEX).exists():
        weights[0].rename(folder / WEIGHTS)
        yield WEIGHTS


def _configured(folder: Path, source: Path, method: str) -> Iterable[str]:
    config = _object(folder / "config.json") or _object(source / "config.json") or {}
    if config.get("quantization_config"):
        return
    section = next(filter(None, (_object(folder / name) for name in _BESIDE)), None)
    if section is None:
        return  # the preflight and the sanity check say that it is not quantized
    config["quantization_config"] = {"quant_method": method, **section}
    text = json.dumps(config, indent=2, ensure_ascii=False)
    write_atomic(folder / "config.json", [text.encode(), b"\n"])
    yield "config.json"


def _object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with opened(path) as (descriptor, status):
        found = strict_json(read_all(descriptor, status.st_size))
    return found if isinstance(found, dict) else None
