"""llama.cpp's own server, llama-server: its native /completion, with token ids in and out.

It tells no log-probabilities of a prompt (nor does its /v1/completions: `echo` is not served), only those of a new
token. So every token to be scored is made the new one: the request holds the tokens before it, and a bias that leaves
no other choice. `n_probs` are read from the raw logits, before any bias, for the chosen token as for the most probable
ones. That is a request per token, each continuing from the cache of the one before. Read from llama.cpp's documentation
of 2026.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_quantgate.backends.server_flavor import Ending, Flavor, Piece, entries, seed_of
from pytest_quantgate.backends.server_rows import Row
from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from pytest_quantgate.interfaces import Completion, Decoding, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["LlamaCpp"]

COMPLETION = "/completion"
CERTAIN = 1e6  # added to a logit
PLAIN = {
    "top_k": 0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "samplers": ["top_p", "temperature"],
}
ENDINGS: Mapping[str, Ending] = {"eos": "end", "word": "stop", "limit": "length"}


class LlamaCpp(Flavor):
    """How llama-server is asked."""

    name = "llama.cpp"
    owner = "llamacpp"
    ignores_end = True

    def version(self) -> str:
        """Return the build that /props names."""
        return str(self._properties().get("build_info", ""))

    def _properties(self) -> Mapping[str, Any]:
        _, told = self.link.get("/props")
        return told if isinstance(told, dict) else {}

    def _context(self, card: Mapping[str, Any]) -> int:  # of one slot
        del card
        settings = self._properties().get("default_generation_settings")
        found = settings.get("n_ctx") if isinstance(settings, dict) else 0
        return found if isinstance(found, int) else 0

    def read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        """Return a row for each token of ids[start:], by a request for each; see `Flavor.read`."""
        return [self._row(ids[:t].tolist(), int(ids[t]), t, depth) for t in range(start, len(ids))]

    def _row(self, before: list[int], token: int, place: int, depth: int) -> Row:
        body = {
            "prompt": before,
            "n_predict": 1,
            "n_probs": depth,
            "post_sampling_probs": False,
            "logit_bias": [[token, CERTAIN]],
            "temperature": 0,
            "cache_prompt": True,
            **PLAIN,
        }
        made = entries(self, self.link.post(COMPLETION, body), "completion_probabilities")
        if len(made) != 1 or not isinstance(made[0], dict) or "top_logprobs" not in made[0]:
            self.unreadable("completion_probabilities")
        if made[0].get("id") != token:
            raise ObservationError(
                f"{self.link.root}: token {place} was to be {token}, and it made {made[0].get('id')}"
            )
        known = dict(self._pair(one) for one in entries(self, made[0], "top_logprobs"))
        if len(known) < min(depth, self.text.vocab_size):
            raise ObservationError(
                f"{self.link.root}: {len(known)} of the {depth} log-probabilities asked for at token {place}"
            )
        whole = {"floor": min(known.values())} if len(known) >= self.text.vocab_size else {}
        return Row(self.number(made[0].get("logprob")), max(known, key=known.__getitem__), known, **whole)

    def _pair(self, entry: Any) -> tuple[int, float]:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            self.unreadable("top_logprobs")
        return entry["id"], self.number(entry.get("logprob"))

    def complete(self, prompt: Prompt, decoding: Decoding) -> Completion:
        """Return what the model makes of a prompt."""
        body = {
            "prompt": prompt.ids.tolist(),
            "n_predict": decoding.new_tokens,
            **PLAIN,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed_of(prompt, decoding),
            "stop": list(decoding.stops),
        }
        reply = self.link.post(COMPLETION, body)
        ended = self._ended(reply if isinstance(reply, dict) else {})
        return self.completion(reply.get("content"), reply.get("tokens_predicted"), ended, decoding)

    def _ended(self, reply: Mapping[str, Any]) -> Ending:
        if reply.get("truncated"):
            raise ObservationError(
                f"{self.link.root}: it cut the prompt to its context; start it with a larger -c"
            )
        ended = ENDINGS.get(str(reply.get("stop_type")))
        return ended or self.unreadable("stop_type")

    def stream(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool) -> Iterator[Piece]:
        """Yield the tokens of a greedy continuation, from an empty cache."""
        body = {
            "prompt": list(ids),
            "n_predict": new_tokens,
            **PLAIN,
            "temperature": 0,
            "ignore_eos": not stop_at_end,
            "cache_prompt": False,
            "stream": True,
            "return_tokens": True,
        }
        for event in self.link.stream(COMPLETION, body):
            made = entries(self, event.data, "tokens")
            ended = self._ended(event.data) if event.data.get("stop") else ""
            yield Piece(event.seconds, str(event.data.get("content", "")), made, ended)
