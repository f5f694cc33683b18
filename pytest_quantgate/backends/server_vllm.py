"""vLLM: token ids in, prompt_logprobs and token ids out.

`prompt_logprobs = N` gives for each token of the prompt a table from id to {logprob, rank, decoded_token}: the N most
probable ones and the token itself, whatever its rank; null for the first. N is limited by `--max-logprobs` (20 unless
set), and minus infinity is written as -9999. Sampling defaults are those of the model's generation_config.json, so all
are stated. A salt of its own keeps a timed prompt out of the prefix cache. Read from vLLM's protocol of 0.10 to 0.33.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pytest_quantgate.backends.server_flavor import COMPLETIONS, Ending, Flavor, best, entries, seed_of
from pytest_quantgate.backends.server_rows import Row
from pytest_quantgate.errors import ObservationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.interfaces import Completion, Decoding, Prompt
    from pytest_quantgate.spec import IntArray

__all__ = ["VLLM"]

PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "add_special_tokens": False,
}
"""Nothing but temperature and nucleus; no second BOS."""


class VLLM(Flavor):
    """How vLLM is asked."""

    name = "vllm"
    owner = "vllm"
    ignores_end = True

    def version(self) -> str:
        """Return what /version says."""
        _, told = self.link.get("/version")
        return str(told.get("version", "")) if isinstance(told, dict) else ""

    def read(self, ids: IntArray, start: int, depth: int) -> list[Row]:
        """Return a row for each token of ids[start:]; see `Flavor.read`."""
        body = {"prompt": ids.tolist(), "max_tokens": 1, "temperature": 0, "prompt_logprobs": depth, **PLAIN}
        reply = self.link.post(COMPLETIONS, self.named(body))
        choice = self.choice(reply)
        tables = entries(self, choice if "prompt_logprobs" in choice else reply, "prompt_logprobs")
        if len(tables) != len(ids):
            raise ObservationError(
                f"{self.link.root}: prompt_logprobs of {len(tables)} tokens for {len(ids)}: it saw another prompt"
            )
        return [self._row(tables[t], int(ids[t]), t, depth) for t in range(start, len(ids))]

    def _row(self, table: Any, token: int, place: int, depth: int) -> Row:
        if not isinstance(table, dict) or not all(
            name.isdigit() and isinstance(entry, dict) for name, entry in table.items()
        ):
            self.unreadable("prompt_logprobs")
        top = {int(name): self.number(entry.get("logprob")) for name, entry in table.items()}
        if token not in top:
            raise ObservationError(
                f"{self.link.root}: prompt_logprobs tells nothing of token {place}, id {token}"
            )
        if len(top) < min(depth, self.text.vocab_size):
            raise ObservationError(
                f"{self.link.root}: {len(top)} of the {depth} log-probabilities asked for at token {place}"
            )
        whole = {"floor": min(top.values())} if len(top) >= self.text.vocab_size else {}
        return Row(top[token], max(top, key=top.__getitem__), best(top, depth), **whole)

    def complete(self, prompt: Prompt, decoding: Decoding) -> Completion:
        """Return what the model makes of a prompt."""
        body = {
            "prompt": prompt.ids.tolist(),
            "max_tokens": decoding.new_tokens,
            **PLAIN,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed_of(prompt, decoding),
            "stop": list(decoding.stops),
            "stop_token_ids": self.text.special(decoding.stops),
        }
        reply = self.link.post(COMPLETIONS, self.named(body))
        choice = self.choice(reply)
        tokens = (reply.get("usage") or {}).get("completion_tokens")
        return self.completion(choice.get("text"), tokens, self.ending(choice, decoding), decoding)

    def ending(self, choice: Mapping[str, Any], decoding: Decoding) -> Ending:
        """Return why an answer ended: `stop_reason` names a stop's text, an id, or nothing for the end token."""
        ended = super().ending(choice, decoding)
        if ended == "length":
            return ended
        return "stop" if isinstance(choice.get("stop_reason"), str) else "end"

    def streaming(self, new_tokens: int, *, stop_at_end: bool) -> dict[str, Any]:
        """Return what a timed continuation needs: exactly so many tokens, their ids, and nothing from a cache."""
        return {
            **PLAIN,
            "ignore_eos": not stop_at_end,
            "min_tokens": 0 if stop_at_end else new_tokens,
            "return_token_ids": True,
            "cache_salt": secrets.token_hex(16),
        }
