"""SGLang: its native /generate, since the OpenAI protocol there takes no ids back.

`return_logprob` from `logprob_start_len` 0 on gives `meta_info.input_token_logprobs`, a [logprob, id, text] for each
token of the prompt (null for the first), and with `top_logprobs_num` N `input_top_logprobs`, the N most probable as
such triples. `token_ids_logprob` reads one list of ids at every token: the baseline's ids differ from token to token,
so it is of no use here. Read from SGLang's protocol of 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_quantgate.backends.server_flavor import Ending, Flavor, Piece, entries, seed_of
from pytest_quantgate.backends.server_rows import Row
from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Completion, Decoding, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["SGLang"]

GENERATE = "/generate"
PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "skip_special_tokens": True,
}
TRIPLE = 3


class SGLang(Flavor):
    """How SGLang is asked."""

    name = "sglang"
    owner = "sglang"
    ignores_end = True

    def version(self) -> str:
        """Return what its information page says; the page was renamed."""
        for path in ("/server_info", "/get_server_info"):
            status, told = self.link.get(path)
            if status == 200 and isinstance(told, dict):  # noqa: PLR2004  OK
                return str(told.get("version", ""))
        return ""

    def read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        """Return a row for each token of ids[start:]; see `Flavor.read`."""
        body = {
            "input_ids": ids.tolist(),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0, **PLAIN},
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": depth,
        }
        reply = self.link.post(GENERATE, body)
        about = reply.get("meta_info") if isinstance(reply, dict) else None
        own, tops = (entries(self, about, name) for name in ("input_token_logprobs", "input_top_logprobs"))
        if len(own) != len(ids) or len(tops) != len(ids):
            raise ObservationError(
                f"{self.link.root}: log-probabilities of {len(own)} tokens for {len(ids)}: it saw another prompt"
            )
        return [self._row(own[t], tops[t], int(ids[t]), t, depth) for t in range(start, len(ids))]

    def _row(self, own: Any, top: Any, token: int, place: int, depth: int) -> Row:
        value, found = self._pair(own)
        if found != token:
            raise ObservationError(f"{self.link.root}: token {place} is {found} there, and {token} here")
        pairs = (
            [self._pair(one) for one in top]
            if isinstance(top, list)
            else self.unreadable("input_top_logprobs")
        )
        known = {number: logprob for logprob, number in pairs}
        if len(known) < min(depth, self.text.vocab_size):
            raise ObservationError(
                f"{self.link.root}: {len(known)} of the {depth} log-probabilities asked for at token {place}"
            )
        whole = {"floor": min(known.values())} if len(known) >= self.text.vocab_size else {}
        return Row(value, max(known, key=known.__getitem__), known, **whole)

    def _pair(self, triple: Any) -> tuple[float, int]:
        if not isinstance(triple, list) or len(triple) not in (2, TRIPLE) or not isinstance(triple[1], int):
            self.unreadable("[logprob, id, text]")
        return self.number(triple[0]), triple[1]

    def complete(self, prompt: Prompt, decoding: Decoding) -> Completion:
        """Return what the model makes of a prompt."""
        settings = {
            "max_new_tokens": decoding.new_tokens,
            **PLAIN,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "sampling_seed": seed_of(prompt, decoding),
            "stop": list(decoding.stops),
            "stop_token_ids": self.text.special(decoding.stops),
        }
        reply = self.link.post(GENERATE, {"input_ids": prompt.ids.tolist(), "sampling_params": settings})
        about = self._about(reply)
        ended = self._ended(about.get("finish_reason"))
        return self.completion(reply.get("text"), about.get("completion_tokens"), ended, decoding)

    def _about(self, reply: Any) -> dict[str, Any]:
        found = reply.get("meta_info") if isinstance(reply, dict) else None
        if not isinstance(found, dict):
            self.unreadable("meta_info")
        return found

    def _ended(self, reason: Any) -> Ending:
        kind = reason.get("type") if isinstance(reason, dict) else None
        if kind == "length":
            return "length"
        if kind != "stop":
            said = reason.get("message", kind) if isinstance(reason, dict) else reason
            raise ObservationError(
                f"{self.link.root}: an answer ended by {said!r}; look into the server's log"
            )
        return "stop" if isinstance(reason.get("matched"), str) else "end"

    def stream(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool) -> Iterator[Piece]:
        """Yield the tokens of a greedy continuation; each event repeats all before it, or gives the new ones alone."""
        settings = {
            "max_new_tokens": new_tokens,
            "temperature": 0,
            **PLAIN,
            "ignore_eos": not stop_at_end,
            "min_new_tokens": 0 if stop_at_end else new_tokens,
        }
        body = {"input_ids": list(ids), "sampling_params": settings, "stream": True}
        seen = 0
        for event in self.link.stream(GENERATE, body):
            about = self._about(event.data)
            count, made = about.get("completion_tokens"), event.data.get("output_ids")
            if not isinstance(count, int) or not isinstance(made, list) or len(made) < count - seen:
                self.unreadable("output_ids")
            fresh = made[len(made) - (count - seen) :]
            seen = count
            reason = about.get("finish_reason")
            yield Piece(event.seconds, "", fresh, self._ended(reason) if reason else "")
