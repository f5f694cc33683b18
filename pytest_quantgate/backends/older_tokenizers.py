"""Tokenizers that today's libraries saved, read by those of an older stack.

transformers before 5 does not know the class that version 5 writes into a checkpoint; tokenizers before 0.20 does not
know merges as pairs: it expects "one other". The ids are the same. Where a checkpoint says nothing of it, they take the
spaces before full stops and commas away from text, and version 5 lets them stand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

__all__ = ["IS_OLDER", "keep_spaces", "read"]

IS_OLDER: Final = int(transformers.__version__.split(".")[0]) < 5  # noqa: PLR2004  the version that is meant
_SPECIAL: Final = ("bos_token", "eos_token", "pad_token", "unk_token")


def read(folder: Path) -> Any:
    """Return the tokenizer of a checkpoint, with its special tokens and chat template.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is none.

    """
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = _settings(folder)
    merges = content["model"].get("merges", [])
    content["model"]["merges"] = [each if isinstance(each, str) else " ".join(each) for each in merges]
    template = folder / "chat_template.jinja"
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        chat_template=template.read_text(encoding="utf-8")
        if template.exists()
        else settings.get("chat_template"),
        **{name: _text(settings[name]) for name in _SPECIAL if settings.get(name)},
    )


def keep_spaces(tokenizer: Any, folder: Path) -> None:
    """Let a tokenizer write text as version 5 does: its answers are compared with those of that version."""
    tokenizer.clean_up_tokenization_spaces = bool(_settings(folder).get("clean_up_tokenization_spaces"))


def _settings(folder: Path) -> Any:
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
