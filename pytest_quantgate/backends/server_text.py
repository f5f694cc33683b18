"""The tokenizer of a served model: the files that the baseline's ids come from, without an engine.

It is transformers' own, as for a model that is loaded here, so that both give the same ids; torch is not needed.
"""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from pytest_quantgate.backends.quiet import first_line, quiet
from pytest_quantgate.errors import CheckpointError, ObservationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.spec import IntArray, ModelSpec

__all__ = ["Text"]


class _NewYear(datetime):
    """A clock that stands still, at the date that every backend shows to templates."""

    @classmethod
    def now(cls, tz: Any = None) -> _NewYear:
        """Return the first of January 2025."""
        return cls(2025, 1, 1, tzinfo=tz)


class Text:
    """Text and ids.

    Args:
        spec: its `path` is the folder of the tokenizer.
        allow_code: let the folder's own Python code run.

    Attributes:
        tokenizer: transformers' own.
        bos_id: the token that it puts before a text; None if it puts none.
        vocab_size: number of logits, as the configuration says, else number of tokens.

    Raises:
        CheckpointError: there is no tokenizer, or it cannot be read.

    """

    def __init__(self, spec: ModelSpec, *, allow_code: bool = False) -> None:
        self._name, self._folder = spec.name, Path(spec.path)
        if not spec.path or not self._folder.is_dir():
            raise CheckpointError(
                f"{spec.name}: no folder with the tokenizer of what is served; configure a baseline, or model = "
            )
        try:
            with quiet():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(
                    spec.path, local_files_only=True, trust_remote_code=allow_code
                )
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            raise CheckpointError(
                f"{spec.path}: the tokenizer cannot be loaded: {first_line(error)}"
            ) from error
        self._lock = threading.Lock()
        ids = self.tokenizer("a")["input_ids"]
        self.bos_id = int(ids[0]) if ids and ids[0] == self.tokenizer.bos_token_id else None
        self.vocab_size = int(self._config("vocab_size") or len(self.tokenizer))
        self.positions = int(self._config("max_position_embeddings") or 0)

    def _config(self, name: str) -> Any:
        try:
            config = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        nested = config.get("text_config") if isinstance(config, dict) else None
        return (nested or config).get(name) if isinstance(config, dict) else None

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text (N,), without special tokens added."""
        with self._lock:
            return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,), ready for the assistant's turn."""
        if not self.tokenizer.chat_template:
            raise ObservationError(f"{self._name}: its tokenizer has no chat template; use plain prompts")
        try:
            with _one_day():
                ids = self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
                )
        except TemplateError as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ObservationError(
                f"{self._name}: its chat template refuses the conversation: {said}"
            ) from error
        return np.asarray(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        with self._lock:
            return str(self.tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False))

    def shown(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        with self._lock:
            return str(
                self.tokenizer.decode(
                    [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )

    def special(self, texts: Sequence[str]) -> list[int]:
        """Return the ids of those texts that are special tokens: an answer shows none of them."""
        known = set(self.tokenizer.all_special_ids)
        return [i for i in (self.tokenizer.convert_tokens_to_ids(text) for text in texts) if i in known]

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """The text of each token alone, as llama.cpp writes it: broken characters left out, special tokens empty."""
        with self._lock:
            return _pieces(self.tokenizer, self.vocab_size)


@contextmanager
def _one_day() -> Iterator[None]:
    """Let templates print one date: two models that are asked on two days would else get two prompts."""
    before = chat_template_utils.datetime  # type: ignore[attr-defined]  # not exported, and no argument reaches it
    chat_template_utils.datetime = _NewYear  # type: ignore[attr-defined]
    try:
        yield
    finally:
        chat_template_utils.datetime = before  # type: ignore[attr-defined]


def _pieces(tokenizer: Any, count: int) -> tuple[str, ...]:
    state = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    to_bytes = _from_letters if "ByteLevel" in json.dumps(state.get("decoder")) else _from_marks
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(min(count, len(tokenizer)))))
    known = [
        "" if number in special or name is None else to_bytes(name).decode(errors="ignore")
        for number, name in enumerate(names)
    ]
    return (*known, *[""] * (count - len(known)))


def _from_letters(name: str) -> bytes:
    """Return the bytes of a byte-level token: each letter stands for one (Radford et al., 2019)."""
    table = _LETTERS
    return b"".join(bytes([table[char]]) if char in table else char.encode() for char in name)


def _from_marks(name: str) -> bytes:
    """Return the bytes of a SentencePiece token: a low line stands for a blank, <0x0A> for a byte."""
    if len(name) == len("<0x00>") and name.startswith("<0x") and name.endswith(">"):
        return bytes([int(name[3:5], 16)])
    return name.replace("\u2581", " ").encode()


def _letters() -> dict[str, int]:
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [number for number in range(256) if number not in own]
    shifted = {chr(256 + place): number for place, number in enumerate(others)}
    return {**{chr(number): number for number in own}, **shifted}


_LETTERS = _letters()
