"""A calibration file in, token ids out: the samples on which a quantizer watches the model's activations.

The file is JSON lines, by its suffix (.jsonl, .ndjson, .json), or else plain text. A JSON line is
{"messages": [{"role": ..., "content": ...}, ...]}, a complete conversation that goes through the model's chat
template, or {"text": ...}. Plain text is one sample per paragraph where blank lines separate them, else one
per line. Samples are taken from the beginning of the file, in its order, and cut on the right.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias
from typing import Protocol as Interface

from jinja2 import TemplateError

from pytest_quantgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Sample: TypeAlias = str | list[dict[str, str]]

__all__ = ["Tokenizer", "read"]

_JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})


class Tokenizer(Interface):
    """What is used of a transformers tokenizer."""

    chat_template: Any

    def __call__(self, text: str, /) -> Mapping[str, Any]:
        """Return {"input_ids": ids} of a text, with the special tokens that the tokenizer adds by itself."""

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], /, *, tokenize: bool, return_dict: bool
    ) -> Any:
        """Return the ids of a conversation."""


def read(
    path: Path, tokenizer: Tokenizer, *, samples: int, max_length: int, shortest: int = 1
) -> list[list[int]]:
    """Return the first `samples` samples of the file as token ids, each cut to `max_length`.

    Samples of fewer than `shortest` tokens are passed over.

    Raises:
        ConfigError: a line that is no sample, no chat template for a conversation, fewer samples than asked.

    """
    numbered = _json_samples(path) if path.suffix.lower() in _JSON_LINES else _plain_samples(path)
    ids = (_ids(path, number, sample, tokenizer) for number, sample in numbered if sample)
    found = list(islice((sample[:max_length] for sample in ids if len(sample) >= shortest), samples))
    usable = f"of at least {shortest} tokens" if shortest > 1 else "of any length"
    if not found:
        raise ConfigError(f"calibration file {path} holds no sample {usable}; write one per line into it")
    if len(found) < samples:
        raise ConfigError(
            f"calibration file {path} has {len(found)} samples {usable}, samples = {samples} asked; "
            f"add samples, or write samples = {len(found)}"
        )
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"calibration file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"calibration file {path} is not UTF-8 text (byte {error.start}); write JSON lines or plain text"
        ) from error
    # not splitlines: JSON strings may hold U+2028 and its like unescaped
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]


def _json_samples(path: Path) -> Iterator[tuple[int, Sample]]:
    for number, line in _lines(path):
        if line:
            try:
                yield number, _sample(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}: no calibration sample: {error}") from error


def _sample(value: Any) -> Sample:
    """Check the shape of one JSON line."""
    if not isinstance(value, dict) or ("messages" not in value and "text" not in value):
        raise ValueError('write {"messages": [...]} or {"text": "..."}')
    # half of a surrogate pair, which JSON can escape, has no encoding: UnicodeEncodeError is a ValueError
    json.dumps(value, ensure_ascii=False).encode()
    if "messages" not in value:
        return _string("text", value["text"]).strip()
    messages = value["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError('"messages" is no list of {"role": "...", "content": "..."}')
    for message in messages:
        _string("role", message.get("role"))
        _string("content", message.get("content"))
    return messages


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is {type(value).__name__}, not a string')  # noqa: TRY004  one kind for all shapes
    return value


def _plain_samples(path: Path) -> Iterator[tuple[int, str]]:
    lines = _lines(path)
    filled = [number for number, line in lines if line]
    between = lines[filled[0] : filled[-1]] if filled else []
    if all(line for _, line in between):
        yield from lines
        return
    paragraph: list[str] = []
    for number, line in [*lines, (len(lines) + 1, "")]:
        if line:
            paragraph.append(line)
        else:
            yield number, "\n".join(paragraph)
            paragraph = []


def _ids(path: Path, number: int, sample: Sample, tokenizer: Tokenizer) -> list[int]:
    if isinstance(sample, str):
        return [int(token) for token in tokenizer(sample)["input_ids"]]
    if not tokenizer.chat_template:
        raise ConfigError(
            f'{path}:{number}: the model has no chat template; write {{"text": "..."}}, or add the template'
        )
    try:
        ids = tokenizer.apply_chat_template(sample, tokenize=True, return_dict=False)
    except TemplateError as error:
        raise ConfigError(
            f"{path}:{number}: the model's chat template refuses this conversation: {error}"
        ) from error
    return [int(token) for token in ids]
