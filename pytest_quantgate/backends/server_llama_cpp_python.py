"""llama-cpp-python's server: text in, text out; log-probabilities of a prompt by `echo`, if it runs with --logits_all.

Seen of 0.3.36, and handled:

- A prompt is text. It is sent only if the server's own tokenizer makes the very ids of it; what follows a window may be
  made up for that, since no token sees what comes after it. A window that begins inside a word may have no such text.
- It puts a BOS token before every text if the file says so, and leaves it out of the lists. If the prompt begins with
  another token, the lists are one place late: beside each token stands what the model says of the *next* one. Then
  log-probabilities are read from the list of the place before, which must hold the whole vocabulary; so vocabularies
  of more than `MOST` tokens are refused. Null at the first place costs one more request.
- Tokens equal to BOS are left out everywhere. Lists go by text: pieces of characters all have the text "".
- `max_tokens = 0` means without end, top_k is 40 and min_p 0.05 unless stated, repetition is punished by 1.1.
- A stream is cut short when another request comes, unless it runs with --interrupt_requests false.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_quantgate.backends.server_flavor import COMPLETIONS, Flavor, Piece, entries, seed_of
from pytest_quantgate.backends.server_rows import Row
from pytest_quantgate.errors import NotMeasurableError, ObservationError

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Completion, Decoding, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["LlamaCppPython"]

MOST = 8192
CERTAIN = 1e4  # added to a logit
BEHIND = ("", "\n", " ", " a", ".", "0")
"""What may follow a prompt so that its last token ends where it does."""
PLAIN = {
    "top_k": 0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
GREEDY = {**PLAIN, "temperature": 0.0, "top_p": 1.0}
NO_LOGITS = "logits_all"
UNSPELLED = (
    "has no text that the server's tokenizer turns into the same tokens (it takes no ids); load the file in this"
    " process (model = the .gguf), or serve it by one that takes ids"
)


class LlamaCppPython(Flavor):
    """How llama-cpp-python's server is asked."""

    name = "llama-cpp-python"
    owner = "me"
    ignores_end = True

    def version(self) -> str:
        """Return the version that its API page names."""
        _, told = self.link.get("/openapi.json")
        about = told.get("info") if isinstance(told, dict) else None
        return str(about.get("version", "")) if isinstance(about, dict) else ""

    # --- text for ids

    def _tokens(self, text: str) -> list[int]:
        """Return the ids that the server makes of a text, its BOS included."""
        reply = self.link.post("/extras/tokenize", self.named({"input": text}))
        return [int(token) for token in entries(self, reply, "tokens")]

    @cached_property
    def _put(self) -> list[int]:
        """The BOS token that the server puts before a text, if it puts one."""
        return self._tokens("")

    def _spelled(self, ids: Sequence[int], *, exactly: bool = False) -> tuple[str, list[int]]:
        """Return a text, and the ids that the server makes of it: `ids`, and perhaps some behind them.

        Raises:
            ObservationError: there is none.

        """
        wanted = [int(token) for token in ids]
        own = len(self._put) if wanted[: len(self._put)] == self._put else 0
        plain = self.text.decode(wanted[own:])
        for behind in ("",) if exactly else BEHIND:
            sent = self._tokens(plain + behind)
            if sent[: len(wanted)] == wanted and (len(sent) == len(wanted) or not exactly):
                return plain + behind, sent
        raise ObservationError(
            f"{self.link.root}: {self._difference(wanted, self._tokens(plain))} {UNSPELLED}"
        )

    def _difference(self, wanted: list[int], found: list[int]) -> str:
        alike = next(
            (n for n, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]),
            min(len(wanted), len(found)),
        )
        there = found[alike] if alike < len(found) else "none"
        here = wanted[alike] if alike < len(wanted) else "none"
        return f"a prompt of {len(wanted)} tokens (token {alike} is {there} there, {here} here)"

    # --- the prompt's log-probabilities

    def read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        """Return a row for each token of ids[start:]; see `Flavor.read`."""
        text, sent = self._spelled(ids.tolist())
        is_special = (
            sent[0] in self.text.tokenizer.all_special_ids
        )  # it may be BOS, though the server puts none
        for told in (depth, self.text.vocab_size) if self._put or is_special else (self.text.vocab_size,):
            if told > depth:
                self._check_size()
            table = self._table({"prompt": text, "echo": True, "logprobs": told, "max_tokens": 1, **GREEDY})
            places = self._places([str(token) for token in entries(self, table, "tokens")], sent)
            if places[0]:
                return self._in_step(table, places, ids, start, depth)
        return self._late(table, places, ids, start)

    def _in_step(self, table: Any, places: Sequence[int], ids: IntArray, start: int, depth: int) -> list[Row]:
        own, tops = entries(self, table, "token_logprobs"), entries(self, table, "top_logprobs")
        said = {place: (own[n], tops[n]) for n, place in enumerate(places) if tops[n]}
        return [
            self.row(*said[t], int(ids[t]), depth) if t in said else self._alone_row(ids, t, depth)
            for t in range(start, len(ids))
        ]

    def _table(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = self.link.post(COMPLETIONS, self.named(body))
        except ObservationError as error:
            if NO_LOGITS in str(error):
                raise NotMeasurableError(
                    f"{self.link.root}: it tells no log-probabilities of prompts; start it with --logits_all true"
                ) from error
            raise
        table = self.choice(reply).get("logprobs")
        if not isinstance(table, dict):
            self.unreadable("logprobs")
        return table

    def _check_size(self) -> None:
        if self.text.vocab_size > MOST:
            raise NotMeasurableError(
                f"{self.link.root}: log-probabilities of a prompt that begins without BOS come one place late from"
                f" llama-cpp-python, and its vocabulary of {self.text.vocab_size} is too large to read round that;"
                " load the file in this process (model = the .gguf), or use llama-server"
            )

    def _places(self, tokens: Sequence[str], sent: Sequence[int]) -> list[int]:
        """Return for each entry of the lists where its token stands in the prompt; some tokens have none.

        Raises:
            ObservationError: the texts are not those of the prompt's tokens.

        """
        pieces = [self.text.pieces[token] for token in sent]
        begin = self._begin(tokens, sent, pieces)
        places: list[int] = []
        for number, token in enumerate(tokens):
            place = places[-1] + 1 if places else begin
            while place < len(sent) and pieces[place].lstrip() != token.lstrip() and not pieces[place]:
                place += 1
            if place == len(sent) and number == len(tokens) - 1:
                break  # the new token
            if place >= len(sent) or pieces[place].lstrip() != token.lstrip():
                raise ObservationError(
                    f"{self.link.root}: entry {number} of its log-probabilities is for {token!r}: not the prompt's"
                )
            places.append(place)
        if not places:
            self.unreadable("tokens")
        return places

    def _begin(self, tokens: Sequence[str], sent: Sequence[int], pieces: Sequence[str]) -> int:
        """Return the place of the first entry: 1 if the prompt begins with BOS, which is left out."""
        if self._put:
            return 1
        if sent[0] not in self.text.tokenizer.all_special_ids:
            return 0
        if len(pieces) == 1 or not pieces[1].strip() or not tokens:
            raise ObservationError(
                f"{self.link.root}: whether its log-probabilities begin at the first token or the second cannot be told"
            )
        return int(tokens[0].lstrip() == pieces[1].lstrip())

    def _late(self, table: Any, places: Sequence[int], ids: IntArray, start: int) -> list[Row]:
        """Read lists that are one place late: what stands beside token t - 1 is said of token t."""
        tops = entries(self, table, "top_logprobs")
        said = {place + 1: tops[n] for n, place in enumerate(places) if tops[n]}
        return [self._from_whole(said.get(t), ids, t) for t in range(start, len(ids))]

    def _from_whole(self, top: dict[str, Any] | None, ids: IntArray, place: int) -> Row:
        """Return the row of a token from the whole vocabulary's table, or by asking for that token alone."""
        known, top1 = self.by_id(top or {})
        token = int(ids[place])
        if top is None or token not in known:
            return self._alone_row(ids, place, self.text.vocab_size)
        return Row(known[token], top1, known, min(self.number(value) for value in top.values()))

    def _alone_row(self, ids: IntArray, place: int, depth: int) -> Row:
        """Return the row of one token by making it the next: a bias leaves no choice, and does not reach the lists.

        As a stream, since what follows BOS alone is told in no other way.
        """
        token = int(ids[place])
        text, _ = self._spelled(ids[:place].tolist(), exactly=True)
        bias = {"logit_bias": {str(token): CERTAIN}, "logit_bias_type": "input_ids"}
        body = {"prompt": text, "logprobs": depth, "max_tokens": 1, "stream": True, **GREEDY, **bias}
        for event in self.link.stream(COMPLETIONS, self.named(body)):
            table = self.choice(event.data).get("logprobs")
            if table:
                own, tops = entries(self, table, "token_logprobs"), entries(self, table, "top_logprobs")
                row = self.row(own[0], tops[0], token, depth)
                whole = depth >= self.text.vocab_size
                return replace(row, floor=min(map(self.number, tops[0].values()))) if whole else row
        raise NotMeasurableError(
            f"{self.link.root}: nothing is told of token {place} (id {token}): BOS and end tokens are left out;"
            " load the file in this process (model = the .gguf)"
        )

    # --- new tokens

    def complete(self, prompt: Prompt, decoding: Decoding) -> Completion:
        """Return what the model makes of a prompt."""
        text, _ = self._spelled(prompt.ids.tolist(), exactly=True)
        body = {
            "prompt": text,
            "max_tokens": decoding.new_tokens,
            **PLAIN,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed_of(prompt, decoding),
            "stop": list(decoding.stops),
        }
        reply = self.link.post(COMPLETIONS, self.named(body))
        choice = self.choice(reply)
        tokens = (reply.get("usage") or {}).get("completion_tokens")
        return self.completion(choice.get("text"), tokens, self.ending(choice, decoding), decoding)

    def stream(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool) -> Iterator[Piece]:
        """Yield the tokens of a greedy continuation as they come."""
        text, _ = self._spelled(list(ids), exactly=True)
        body = {
            "prompt": text,
            "max_tokens": new_tokens,
            "min_tokens": 0 if stop_at_end else new_tokens,
            "stream": True,
            **GREEDY,
        }
        yield from self.pieces(self.named(body))
