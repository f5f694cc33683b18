"""A model behind an endpoint: scored and run by requests; started here, if that is asked for.

What kinds of servers there are, and how each is asked, is in the `server_*` files beside this one. Log-probabilities
are those that the server tells: of the token that is there always, of others as far as its lists reach (`server_rows`).
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.backends.launching import free_port, launch
from pytest_quantgate.backends.server_finding import flavor_of, served_by, wait_for
from pytest_quantgate.backends.server_link import Link, LostError, RefusedError, key_of, root_of
from pytest_quantgate.backends.server_pool import in_order
from pytest_quantgate.backends.server_rows import Row, checked, to_scores
from pytest_quantgate.backends.server_settings import settings_of
from pytest_quantgate.backends.server_text import Text
from pytest_quantgate.errors import ObservationError
from pytest_quantgate.interfaces import TokenScores, Trace, Window

if TYPE_CHECKING:
    from pytest_quantgate.backends.launching import Launched
    from pytest_quantgate.backends.server_flavor import Flavor, Piece
    from pytest_quantgate.backends.server_settings import Settings
    from pytest_quantgate.interfaces import Choices, Completion, Decoding, Progress, Prompt
    from pytest_quantgate.spec import FloatArray, IntArray, Json, ModelSpec

__all__ = ["ServerModel", "load"]

DEPTHS = (64, 20, 5, 1)
"""How many of the most probable tokens are tried where a server refuses more, and does not say its limit."""
NAMED_LIMIT = re.compile(
    r"(?:max(?:imum)?(?: allowed)?|at most|less than or equal to)\D{0,20}?(\d+)", re.IGNORECASE
)
NO_LIMIT = 2**31


def load(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> ServerModel:
    """Reach the server that `spec.options` names, or start it; `spec.path` is the folder of the tokenizer.

    Args: spec: its options may hold `server`, `launch`, `served`, `flavor`, `start_limit`, `request_limit`,
        `api_key_env` and `concurrency`. allow_code: let the tokenizer's own Python code run. allow_pickle: of no
        meaning, since no weights are read here.

    Raises:
        ConfigError: an option that cannot be used.
        CheckpointError: the tokenizer cannot be loaded.
        NotMeasurableError: the key or the program of the server is not here.
        ObservationError: the server cannot be reached, ends, is not ready in time, or serves another model.

    """
    del allow_pickle
    settings = settings_of(spec)
    key = key_of(settings.api_key_env, spec.name)
    text = Text(spec, allow_code=allow_code)
    port = free_port()
    root = root_of(settings.server or f"http://127.0.0.1:{port}", spec.name)
    launched = None
    link = Link(root, key, float(settings.request_limit))
    began = time.perf_counter()
    try:
        if settings.launch:
            at = _port_of(root) if "{port}" not in settings.launch else port
            launched = launch(settings.launch, spec.name, port=at, model=spec.path, secret=key)
        models = wait_for(link, spec.name, float(settings.start_limit), launched)
        seconds = time.perf_counter() - began if launched else math.nan
        card = served_by(models, settings.served, spec.name, root)
        flavor = flavor_of(settings.flavor, card, link, text, spec.name)
        return ServerModel(spec, settings, flavor, launched, seconds)
    except BaseException:
        link.close()
        if launched is not None:
            launched.stop()
        raise


def _port_of(root: str) -> int:
    _, _, tail = root.rpartition(":")
    return int(tail) if tail.isdigit() else 443 if root.startswith("https") else 80


class ServerModel:
    """A served model; see `interfaces.Model`, `interfaces.Answering` and `interfaces.Concurrent` for its methods."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: Settings,
        flavor: Flavor,
        launched: Launched | None,
        load_seconds: float,
    ) -> None:
        self.spec, self.load_seconds = spec, load_seconds
        self._text, self._flavor, self._launched = flavor.text, flavor, launched
        self.vocab_size, self.bos_id = self._text.vocab_size, self._text.bos_id
        # one place is kept for the new token that every request makes
        self.max_length = flavor.context - 1 if flavor.context else self._text.positions or NO_LIMIT
        self.native, self.tokenizer = flavor.link, self._text.tokenizer
        self._threads = settings.concurrency
        self._most = NO_LIMIT

    def encode(self, text: str) -> IntArray:
        """Return the ids of a text (N,), without special tokens added."""
        return self._text.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> IntArray:
        """Return the ids of a conversation (N,), ready for the assistant's turn."""
        return self._text.encode_chat(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self._text.decode(ids)

    # --- scoring

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[IntArray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield one `TokenScores` per window, in order; `at` and `floor` hold NaN for what the server does not tell."""

        def work(number: int) -> TokenScores:
            window, asked = windows[number], None if at is None else at[number]
            depth = max(1, top_k if asked is None else asked.shape[1])
            rows = self._rows(window, depth, f"window {number}")
            return to_scores(rows, window.ids[window.start :], top_k, asked)

        with self._explained():
            yield from in_order(work, range(len(windows)), self._threads)

    def _rows(self, window: Window, wanted: int, place: str) -> Sequence[Row]:
        """Return the rows of a window, with as many most probable tokens as the server tells."""
        while True:
            depth = min(wanted, self._most, self.vocab_size)
            try:
                rows = self._flavor.read(window.ids, window.start, depth)
            except RefusedError as error:
                fewer = _fewer(str(error), depth)
                if not fewer:
                    raise
                self._most = min(self._most, fewer)
                continue
            return checked(rows, len(window.ids) - window.start, f"{self._flavor.link.root}: {place}")

    # --- generation

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue `ids` greedily by up to `new_tokens`; seconds are those of this end of the connection."""
        with self._explained():
            pieces = list(self._flavor.stream([int(i) for i in ids], new_tokens, stop_at_end=stop_at_end))
        return self._trace(pieces, new_tokens)

    def generate_many(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[Trace]:
        """Continue all prompts at once; see `interfaces.Concurrent`."""
        start = threading.Barrier(len(prompts))
        begun: list[float] = [0.0] * len(prompts)

        def work(number: int) -> list[Piece]:
            prompt = [int(i) for i in prompts[number]]
            start.wait(timeout=60)
            begun[number] = time.perf_counter()
            return list(self._flavor.stream(prompt, new_tokens, stop_at_end=False))

        with self._explained():
            found = list(in_order(work, range(len(prompts)), len(prompts)))
        traces = [self._trace(pieces, new_tokens) for pieces in found]
        first = min(begun)
        return [
            Trace(trace.ids, trace.seconds + (own - first)) for trace, own in zip(traces, begun, strict=True)
        ]

    def _trace(self, pieces: Sequence[Piece], new_tokens: int) -> Trace:
        """Return the tokens of a stream and when each came; those of one piece came together."""
        if not pieces or not pieces[-1].ended:
            raise ObservationError(
                f"{self._flavor.link.root}: a stream ended after {len(pieces)} pieces without saying why: the server"
                " was interrupted, by another request perhaps"
            )
        if all(piece.ids is not None for piece in pieces):
            told = [(piece.seconds, list(piece.ids or ())) for piece in pieces]
        else:
            told = self._spelled(pieces, new_tokens)
        tokens = [int(token) for _, ids in told for token in ids]
        seconds = [when for when, ids in told for _ in ids]
        return Trace(np.asarray(tokens, dtype=np.int64), np.asarray(seconds, dtype=np.float64))

    def _spelled(self, pieces: Sequence[Piece], new_tokens: int) -> list[tuple[float, list[int]]]:
        """Return when the tokens of pieces of text came: one each, or as many as its text has.

        Raises:
            ObservationError: neither gives the number of tokens that were made.

        """
        shown = [piece for piece in pieces if piece.text or not piece.ended]
        ids = [self._text.encode(piece.text).tolist() for piece in shown]
        is_whole = pieces[-1].ended == "length"
        if len(shown) == new_tokens or not is_whole:
            ids = [one[:1] or [0] for one in ids]
        elif sum(map(len, ids)) != new_tokens:
            raise ObservationError(
                f"{self._flavor.link.root}: {new_tokens} tokens came in {len(shown)} pieces of text: when each token"
                " came cannot be told"
            )
        return [(piece.seconds, one) for piece, one in zip(shown, ids, strict=True)]

    # --- answers

    def likelihoods(self, asked: Sequence[Choices], progress: Progress) -> list[FloatArray]:
        """Return the log-probability of each choice; see `interfaces.Answering`."""
        windows = [
            Window(np.concatenate([one.context, ids]), len(one.context))
            for one in asked
            for ids in one.continuations
        ]
        scores = self.score(windows, top_k=1)
        found: list[FloatArray] = []
        for one in asked:
            sums = [float(next(scores).logprob.sum(dtype=np.float64)) for _ in one.continuations]
            found.append(np.asarray(sums))
            progress(len(found), len(asked))
        return found

    def complete(self, prompts: Sequence[Prompt], decoding: Decoding, progress: Progress) -> list[Completion]:
        """Return the answer to each prompt; see `interfaces.Answering`."""
        found: list[Completion] = []
        with self._explained():
            for answer in in_order(lambda one: self._flavor.complete(one, decoding), prompts, self._threads):
                found.append(answer)
                progress(len(found), len(prompts))
        return found

    def remarks(self) -> Sequence[str]:
        """Return which server answered."""
        version = self._flavor.version()
        return (
            f"answered by {self._flavor.name}{f' {version}' if version else ''} as {self._flavor.served}",
        )

    # --- what it is, and the end

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Let a server that was started here and died say why, instead of a connection that broke."""
        try:
            yield
        except LostError as error:
            if self._launched is not None and (ended := self._launched.mourned()):
                raise ObservationError(ended) from error
            raise

    def findings(self) -> Mapping[str, Json]:
        """Return nothing: an endpoint shows no layers."""
        return {"quantized": {}, "dense": [], "nonfinite": [], "unseen": True}

    def memory(self) -> Mapping[str, float]:
        """Return nothing: an endpoint does not tell its memory."""
        return {}

    def close(self) -> None:
        """End the server if it was started here; closing twice is harmless."""
        self._flavor.link.close()
        if self._launched is not None:
            ended = self._launched.died()
            self._launched.stop()
            if not ended:  # nobody will look for the reason
                self._launched.log.unlink(missing_ok=True)


def _fewer(refusal: str, depth: int) -> int:
    """Return how many most probable tokens to ask for after `depth` was refused; 0 if that is not what was refused."""
    if "logprob" not in refusal.lower():
        return 0
    named = NAMED_LIMIT.search(refusal)
    if named and 0 < int(named[1]) < depth:
        return int(named[1])
    return next((lower for lower in DEPTHS if lower < depth), 0)
