"""The OpenAI completions protocol, which every server speaks to some part; what a kind does otherwise is a subclass.

`POST /v1/completions` with a list of token ids as prompt. `echo` with `logprobs` gives the prompt's log-probabilities:
lists of T entries for T tokens, one more for the one new token, the first null, and the most probable tokens as a table
from text to log-probability. Several tokens can have one text (pieces of a character above all): such an entry tells
nothing. Since the lists hold no ids, the model's own greedy continuation is read once: it must be the most probable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from pytest_quantgate.backends.server_rows import NOBODY, Row
from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import Completion

if TYPE_CHECKING:
    from pytest_quantgate.backends.server_link import Link
    from pytest_quantgate.backends.server_text import Text
    from pytest_quantgate.interfaces import Decoding, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["COMPLETIONS", "Ending", "Flavor", "Piece", "best", "entries", "seed_of"]

Ending = Literal["stop", "end", "length"]
COMPLETIONS = "/v1/completions"
TRIED = "The river rises in the mountains and flows past the old town, and then"
TRIED_TOKENS = 8
ID_MARK = "token_id:"
SAME = 1e-6  # of two log-probabilities


class Piece(NamedTuple):
    """Some new tokens, as they came.

    Attributes:
        seconds: after the request.
        text: of the new tokens; may be empty.
        ids: the tokens, or None where the server does not tell them.
        ended: why it is the last; empty for any other.

    """

    seconds: float
    text: str
    ids: Sequence[int] | None
    ended: str


class Flavor:
    """How a server of the plain OpenAI protocol is asked.

    Args:
        link: the connection.
        text: the tokenizer.
        card: the model's entry in /v1/models.

    Attributes:
        served: the model's name there.
        context: how many tokens fit, prompt and new ones together; 0 where it does not tell.

    """

    name = "openai"
    owner = ""
    """What it writes as `owned_by` in /v1/models."""
    ignores_end = False
    """Whether it can be told to go on behind an end token."""

    def __init__(self, link: Link, text: Text, card: Mapping[str, Any]) -> None:
        self.link, self.text, self.served = link, text, str(card.get("id", ""))
        self.context = self._context(card)
        self._is_tried = False

    def version(self) -> str:
        """Return the version of the server; empty where it does not tell."""
        return ""

    def _context(self, card: Mapping[str, Any]) -> int:
        found = card.get("max_model_len")
        return found if isinstance(found, int) else 0

    # --- the prompt's log-probabilities

    def read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        """Return a row for each token of ids[start:], with its `depth` most probable tokens.

        Raises:
            RefusedError: perhaps too many of them are asked for.
            ObservationError: the answer holds no log-probabilities of these tokens.

        """
        if not self._is_tried:
            self._try()
        return self._read(ids, start, depth)

    def _read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        body = {"prompt": ids.tolist(), "echo": True, "logprobs": depth, "max_tokens": 1, "temperature": 0}
        choice = self.choice(self.link.post(COMPLETIONS, self.named(body)))
        table = choice.get("logprobs")
        if not isinstance(table, dict):
            raise NotMeasurableError(
                f"{self.link.root}: no log-probabilities of a prompt; start a server that gives them (docs/servers.md)"
            )
        own, tops = entries(self, table, "token_logprobs"), entries(self, table, "top_logprobs")
        if len(own) not in (len(ids), len(ids) + 1) or len(tops) != len(own):
            raise ObservationError(
                f"{self.link.root}: {len(own)} log-probabilities for a prompt of {len(ids)} tokens and one new one"
            )
        return [self.row(own[t], tops[t], int(ids[t]), depth) for t in range(start, len(ids))]

    def row(self, own: Any, top: Any, token: int, depth: int) -> Row:
        """Return the row of a token from its log-probability and a table from text to log-probability."""
        table = top if isinstance(top, dict) else {}
        known, top1 = self.by_id(table)
        value = self.number(own)
        if table and top1 == NOBODY and max(map(self.number, table.values())) <= value + SAME:
            top1 = token
        return Row(value, top1, best(known, depth))

    def by_id(self, top: Mapping[str, Any]) -> tuple[dict[int, float], int]:
        """Return a table of texts as one of ids, without the texts of several tokens; and the most probable."""
        values = {name: self.number(value) for name, value in top.items()}
        ids = {name: self._id(name) for name in values}
        known = {token: values[name] for name, token in ids.items() if token != NOBODY}
        return known, ids[max(values, key=values.__getitem__)] if values else NOBODY

    def _id(self, name: str) -> int:
        if name.startswith(ID_MARK) and name[len(ID_MARK) :].isdigit():
            return int(name[len(ID_MARK) :])
        return self._alone.get(name, NOBODY)

    @cached_property
    def _alone(self) -> dict[str, int]:
        """The tokens whose text no other token has."""
        counts = Counter(self.text.pieces)
        return {piece: token for token, piece in enumerate(self.text.pieces) if piece and counts[piece] == 1}

    def _try(self) -> None:
        """Read the model's own continuation: its tokens are the most probable, unless the lists are out of step."""
        prompt = self.text.encode(TRIED).tolist()
        made = [piece for piece in self.stream(prompt, TRIED_TOKENS, stop_at_end=True) if piece.text]
        whole = self.text.encode(TRIED + "".join(piece.text for piece in made))
        if whole[: len(prompt)].tolist() == prompt and len(whole) > len(prompt):
            rows = self._read(whole, len(prompt), 1)
            right = sum(row.top1 == token for row, token in zip(rows, whole[len(prompt) :], strict=True))
            if right * 2 < len(rows):
                raise ObservationError(
                    f"{self.link.root}: its log-probabilities do not belong to the prompt's tokens: of its own greedy"
                    f" continuation {right} of {len(rows)} are the most probable; name its kind by flavor"
                )
        self._is_tried = True

    # --- new tokens

    def complete(self, prompt: Prompt, decoding: Decoding) -> Completion:
        """Return what the model makes of a prompt."""
        body = {
            "prompt": prompt.ids.tolist(),
            "max_tokens": decoding.new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed_of(prompt, decoding),
            **({"stop": list(decoding.stops)} if decoding.stops else {}),
        }
        reply = self.link.post(COMPLETIONS, self.named(body))
        choice = self.choice(reply)
        usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
        ended = self.ending(choice, decoding)
        return self.completion(choice.get("text"), usage.get("completion_tokens"), ended, decoding)

    def completion(self, text: Any, tokens: Any, ended: Ending, decoding: Decoding) -> Completion:
        """Return an answer, cut at the first stop as every backend's is."""
        if not isinstance(text, str):
            self.unreadable("text")
        cuts = [text.index(stop) for stop in decoding.stops if stop in text]
        count = tokens if isinstance(tokens, int) else len(self.text.encode(text))
        return Completion(text[: min(cuts)] if cuts else text, count, "stop" if cuts else ended)

    def ending(self, choice: Mapping[str, Any], decoding: Decoding) -> Ending:
        """Return why an answer ended; the plain protocol does not tell a stop from an end token."""
        reason = choice.get("finish_reason")
        if reason == "length":
            return "length"
        if reason != "stop":
            raise ObservationError(
                f"{self.link.root}: an answer ended by {reason!r}; look into the server's log"
            )
        return "stop" if decoding.stops else "end"

    def stream(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool) -> Iterator[Piece]:
        """Yield the tokens of a greedy continuation as they come; the last piece says why it is."""
        body = {"prompt": list(ids), "max_tokens": new_tokens, "temperature": 0, "stream": True}
        yield from self.pieces(self.named({**body, **self.streaming(new_tokens, stop_at_end=stop_at_end)}))

    def streaming(self, new_tokens: int, *, stop_at_end: bool) -> dict[str, Any]:  # noqa: ARG002  of the plain protocol
        """Return what this kind needs beyond the plain protocol."""
        return {}

    def pieces(self, body: Mapping[str, Any]) -> Iterator[Piece]:
        """Yield the pieces of a stream of completions."""
        for event in self.link.stream(COMPLETIONS, body):
            if isinstance(event.data, dict) and event.data.get("choices") == []:
                continue  # the account at the end
            choice = self.choice(event.data)
            ids, text = choice.get("token_ids"), choice.get("text")
            yield Piece(
                event.seconds,
                text if isinstance(text, str) else "",
                ids if isinstance(ids, list) else None,
                str(choice.get("finish_reason") or ""),
            )

    # --- reading answers

    def named(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request with the model's name."""
        return {"model": self.served, **body}

    def choice(self, reply: Any) -> dict[str, Any]:
        """Return the one choice of an answer."""
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            self.unreadable("choices")
        found: dict[str, Any] = choices[0]
        return found

    def number(self, value: Any) -> float:
        """Return a log-probability; NaN for null."""
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.unreadable("a log-probability")
        return float(value)

    def unreadable(self, what: str) -> NoReturn:
        """Raise: an answer does not hold what its kind of server writes."""
        raise ObservationError(
            f"{self.link.root}: no usable {what} in an answer: not a server of the kind {self.name!r}; set flavor"
        )


def entries(flavor: Flavor, table: Any, name: str) -> list[Any]:
    """Return a list of an answer."""
    found = table.get(name) if isinstance(table, dict) else None
    if not isinstance(found, list):
        flavor.unreadable(name)
    return found


def best(known: Mapping[int, float], depth: int) -> dict[int, float]:
    """Return the most probable tokens; a list may hold the one that is there besides."""
    return {token: known[token] for token in sorted(known, key=known.__getitem__, reverse=True)[:depth]}


def seed_of(prompt: Prompt, decoding: Decoding) -> int:
    """Return the seed of one answer: a stream of random numbers of its own for each prompt."""
    return (decoding.seed * 1_000_003 + prompt.stream) % 2**31
