"""A calibration file in, token ids out: the samples on which a quantizer watches the model's activations.

The file is JSON, by its suffix (.jsonl, .ndjson, .json), or else plain text. JSON is one sample per line, or one list
of them, as Qwen's scripts read it. A sample is {"messages": [{"role": ..., "content": ...}, ...]}, a complete
conversation that goes through the model's chat template, the bare list of its messages, {"conversations": [{"from":
..., "value": ...}, ...]}, the same in the words of Qwen's and ShareGPT's files, or {"text": ...}. Plain text is one
sample per paragraph where blank lines separate them, else one per line. Samples are taken from the beginning of the
file, in its order, and cut on the right.
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

__all__ = ["Tokenizer", "count", "read"]

_JSON = frozenset({".jsonl", ".ndjson", ".json"})
_WRITE = 'write {"messages": [...]} or {"text": "..."}'
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
_ROLES = frozenset({"system", "user", "assistant", "tool"})


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
    ids = (_ids(place, sample, tokenizer) for place, sample in _samples(path) if sample)
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


def count(path: Path) -> int:
    """Return how many samples that are not empty the file holds, however short they are.

    Raises:
        ConfigError: a line that is no sample.

    """
    return sum(bool(sample) for _, sample in _samples(path))


def _samples(path: Path) -> Iterator[tuple[str, Sample]]:
    """Yield (place, sample): "c.jsonl:3" for the third line, "c.json, sample 3" for the third of a list."""
    return _json_samples(path) if path.suffix.lower() in _JSON else _plain_samples(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"calibration file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"calibration file {path} is not UTF-8 text (byte {error.start}); write JSON lines or plain text"
        ) from error


def _lines(text: str) -> list[tuple[int, str]]:
    # not splitlines: JSON strings may hold U+2028 and its like unescaped
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]


def _json_samples(path: Path) -> Iterator[tuple[str, Sample]]:
    text = _text(path)
    if (items := _listed(path, text)) is not None:
        for number, item in enumerate(items, start=1):
            place = f"{path}, sample {number}"
            yield place, _checked(place, item)
        return
    for number, line in _lines(text):
        if line:
            place = f"{path}:{number}"
            yield place, _checked(place, _parsed(place, line))


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: no calibration sample: {error}") from error


def _checked(place: str, item: Any) -> Sample:
    try:
        return _sample(item)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: no calibration sample: {error}") from error


def _listed(path: Path, text: str) -> list[Any] | None:
    """Return the samples of a file that is one JSON list; None for JSON lines, which may be lists themselves."""
    if not text.lstrip().startswith("["):
        return None
    first, *more = (line for _, line in _lines(text) if line)
    if path.suffix.lower() == ".json" or not _is_json(first):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            if more and _is_json(first):
                return None
            number = getattr(error, "lineno", 1)
            raise ConfigError(f"{path}:{number}: no calibration sample: {error}") from error
        return [found] if _is_conversation(found) else list(found)
    return None


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_conversation(value: Any) -> bool:
    """Return whether it is a bare list of messages, rather than a list of samples."""
    return bool(value) and all(
        isinstance(item, dict) and ("role" in item or "from" in item) for item in value
    )


def _sample(value: Any) -> Sample:
    """Check the shape of one sample."""
    if isinstance(value, list) and _is_conversation(value):
        value = {"messages": value}
    if not isinstance(value, dict) or not value.keys() & {"messages", "conversations", "text"}:
        raise ValueError(_WRITE)
    # half of a surrogate pair, which JSON can escape, has no encoding: UnicodeEncodeError is a ValueError
    json.dumps(value, ensure_ascii=False).encode()
    key = next((key for key in ("messages", "conversations") if key in value), "")
    if not key:
        return _string("text", value["text"]).strip()
    messages = value[key]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f'"{key}" is no list of {{"role": "...", "content": "..."}}')
    return [_message(message) for message in messages]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message by role and content; one that says "from" and "value" is translated."""
    if "from" in message and "role" not in message:
        speaker = _string("from", message["from"])
        role = _SPEAKERS.get(speaker, speaker)
        if role not in _ROLES:
            raise ValueError(
                f'"from" is {speaker!r}; write one of {", ".join(sorted({*_SPEAKERS, *_ROLES}))}'
            )
        return {"role": role, "content": _string("value", message.get("value"))}
    _string("role", message.get("role"))
    _string("content", message.get("content"))
    return message


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'"{key}" is {type(value).__name__}, not a string')  # noqa: TRY004  one kind for all shapes
    return value


def _plain_samples(path: Path) -> Iterator[tuple[str, str]]:
    lines = _lines(_text(path))
    filled = [number for number, line in lines if line]
    between = lines[filled[0] : filled[-1]] if filled else []
    if all(line for _, line in between):
        yield from ((f"{path}:{number}", line) for number, line in lines)
        return
    paragraph: list[str] = []
    for number, line in [*lines, (len(lines) + 1, "")]:
        if line:
            paragraph.append(line)
        else:
            yield f"{path}:{number}", "\n".join(paragraph)
            paragraph = []


def _ids(place: str, sample: Sample, tokenizer: Tokenizer) -> list[int]:
    if isinstance(sample, str):
        return [int(token) for token in tokenizer(sample)["input_ids"]]
    if not tokenizer.chat_template:
        raise ConfigError(
            f'{place}: the model has no chat template; write {{"text": "..."}}, or add the template'
        )
    try:
        ids = tokenizer.apply_chat_template(sample, tokenize=True, return_dict=False)
    except TemplateError as error:
        raise ConfigError(f"{place}: the model's chat template refuses this conversation: {error}") from error
    return [int(token) for token in ids]
