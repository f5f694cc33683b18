"""Text and ids of a GGUF file: llama.cpp's tokenizer, and the chat template of the metadata."""

from __future__ import annotations

import ctypes
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import llama_cpp
import numpy as np
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.spec import IntArray

__all__ = ["GgufTokenizer"]

NEW_YEAR: Final = datetime(2025, 1, 1)  # noqa: DTZ001  templates print a date, and it must be one for all models


class GgufTokenizer:
    """What turns text to ids and back.

    Args:
        name: the model's, for messages.
        vocab: llama.cpp's.
        template: the chat template; empty for none.

    Attributes:
        bos_id: the token that is put before a text; None if none is.
        ends: the tokens that end an answer.

    """

    def __init__(self, name: str, vocab: Any, template: str) -> None:
        self._name, self._vocab, self._template = name, vocab, template
        self.size = int(llama_cpp.llama_vocab_n_tokens(vocab))
        bos = int(llama_cpp.llama_vocab_bos(vocab))
        self.bos_id = bos if bos >= 0 and llama_cpp.llama_vocab_get_add_bos(vocab) else None
        self.ends = frozenset(
            number for number in range(self.size) if llama_cpp.llama_vocab_is_eog(vocab, number)
        )

    def encode(self, text: str) -> IntArray:
        """Return the ids (N,), none added; special tokens that the text spells are those tokens."""
        data = text.encode(errors="replace")
        room = len(data) + 8  # a token is a byte at least, but for blanks that some models add
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, False, True)
        if count < 0:
            ids = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, -count, False, True)
        return np.array(ids[:count], dtype=np.int64)

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of ids, with special tokens or without.

        Raises:
            ObservationError: an id that the vocabulary has not.

        """
        count = len(ids)
        if count and not 0 <= min(ids) <= max(ids) < self.size:
            raise ObservationError(f"{self._name}: no token has the id {max(ids)}; there are {self.size}")
        tokens = (llama_cpp.llama_token * count)(*(int(number) for number in ids))
        room = 16 * count + 16
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            size = llama_cpp.llama_detokenize(self._vocab, tokens, count, buffer, room, False, special)
            if size >= 0:
                return buffer.raw[:size].decode(errors="replace")
            room = -size
        raise ObservationError(f"{self._name}: llama.cpp cannot write {count} ids as text")

    def control(self, text: str) -> int | None:
        """Return the special token that a text spells; None if it spells none."""
        ids = self.encode(text)
        alone = len(ids) == 1 and llama_cpp.llama_vocab_is_control(self._vocab, int(ids[0]))
        return int(ids[0]) if alone else None

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,), ready for the assistant's turn.

        Raises:
            ObservationError: there is no chat template, or it refuses the conversation.

        """
        if not self._template:
            raise ObservationError(f"{self._name}: its GGUF file has no chat template; use plain prompts")
        try:
            text = (
                _environment()
                .from_string(self._template)
                .render(
                    messages=[dict(message) for message in messages],
                    add_generation_prompt=True,
                    bos_token=self._piece(llama_cpp.llama_vocab_bos(self._vocab)),
                    eos_token=self._piece(llama_cpp.llama_vocab_eos(self._vocab)),
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ObservationError(
                f"{self._name}: its chat template refuses the conversation: {said}"
            ) from error
        return self.encode(text)

    def _piece(self, number: int) -> str:
        return "" if number < 0 else self.decode([number])


def _environment() -> ImmutableSandboxedEnvironment:
    """Return what renders templates, as transformers does it."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = NEW_YEAR.strftime
    return made


def _refuse(message: str) -> None:
    raise TemplateError(message)
