"""The wire to a server: one request, one answer or one stream of events, in bounded time, and one line for what failed.

Nothing here knows what a model is. A limit holds for a request as a whole, also where a server sends a byte now and
then. No redirect is followed, since the key would follow it; the key itself is kept out of every message.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx2

from pytest_quantgate.errors import ConfigError, NotMeasurableError, ObservationError
from pytest_quantgate.escaping import plain

__all__ = ["Event", "Link", "LostError", "RefusedError", "key_of", "root_of"]

CONNECT_SECONDS = 10.0
LONGEST_ANSWER = 2**29  # bytes
SHOWN = 240  # characters of what a server said
BUSY = (429, 503)
BUSY_TRIES, BUSY_SECONDS = 5, 1.0
NO_ANSWER = (httpx2.ConnectError, httpx2.ConnectTimeout)


class RefusedError(ObservationError):
    """The server understood the request and does not serve it so (status 400 or 422)."""


class LostError(ObservationError):
    """The connection broke, or there is none any more."""


class Event(NamedTuple):
    """One event of a stream, and how many seconds after the request it came."""

    seconds: float
    data: Any


def root_of(address: str, place: str) -> str:
    """Return the address of a server without the path of its API.

    Raises:
        ConfigError: it is none, or holds a password.

    """
    try:
        url = httpx2.URL(address.strip())
    except (httpx2.InvalidURL, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: server = {address!r} is no address ({error})") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f'{place}: server = {address!r} is no address; write "http://host:port"')
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(
            f"{place}: the address of a server holds host and path alone; name the variable with its key by api_key_env"
        )
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")


def key_of(variable: str, place: str) -> str:
    """Return the key that an environment variable holds, without blanks around it; empty if none is named.

    Raises:
        NotMeasurableError: the variable is not set.
        ConfigError: a request cannot carry what it holds, which an error of the connection would show.

    """
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise NotMeasurableError(f"{place}: api_key_env = {variable!r}, and that variable is not set here")
    if not key.isascii() or not all("!" <= sign <= "~" for sign in key):
        raise ConfigError(
            f"{place}: what the variable {variable!r} holds is no key: blanks or signs beyond ASCII are in it"
        )
    return key


@dataclass(slots=True)
class Link:
    """A connection to one server.

    Attributes:
        root: its address without "/v1".
        key: sent as a bearer token where there is one.
        limit: seconds for one request, from sending it to the last byte of the answer.

    """

    root: str
    key: str = field(default="", repr=False)
    limit: float = 300.0
    _client: httpx2.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            trust_env=not _is_loopback(httpx2.URL(self.root).host),  # no proxy leads to this machine
            # a server closes an idle connection after some seconds: what may be closed is not used again
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=2.0),
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str, seconds: float = CONNECT_SECONDS) -> tuple[int, Any]:
        """Return status and JSON of an answer; (0, reason) where there was none, None for what is not JSON."""
        try:
            with self._opened("GET", path, None, seconds) as (answer, until):
                return answer.status_code, _lenient(self._body(answer, path, until))
        except httpx2.HTTPError as error:
            return 0, self._said(error)
        except ObservationError as error:
            return 0, str(error)

    def post(self, path: str, body: Any) -> Any:
        """Return the JSON that answers a request.

        Raises:
            RefusedError: status 400 or 422.
            ObservationError: no answer in time, another status, or no JSON.

        """
        for left in reversed(range(BUSY_TRIES)):
            with self._asked(path, body) as (answer, until):
                if answer.status_code in BUSY and left:
                    wait = min(_seconds(answer.headers.get("retry-after")), self.limit)
                else:
                    text = self._body(answer, path, until)
                    self._check(answer, path, text)
                    return self._json(path, text)
            time.sleep(wait)
        raise AssertionError

    def stream(self, path: str, body: Any) -> Iterator[Event]:
        """Yield the events of an answer as they come, to the one that says it is complete.

        Raises:
            RefusedError: status 400 or 422.
            ObservationError: as `post`; or the stream broke off.

        """
        began = time.perf_counter()
        with self._asked(path, body) as (answer, until):
            if answer.status_code != httpx2.codes.OK:
                self._check(answer, path, self._body(answer, path, until))
            for line in self._lines(answer, path, until):
                seconds = time.perf_counter() - began
                name, _, value = line.partition(b":")
                if name != b"data":
                    continue
                if value.strip() == b"[DONE]":
                    return
                event = self._json(path, value)
                if isinstance(event, dict) and event.get("error"):
                    raise ObservationError(
                        f"{self.root}{path}: broke off: {self._shown(json.dumps(event['error']))}"
                    )
                yield Event(seconds, event)

    # --- one request

    @contextmanager
    def _asked(self, path: str, body: Any) -> Iterator[tuple[httpx2.Response, float]]:
        """Send a request, and turn what the connection raises, also while the answer is read, into one line."""
        try:
            with self._opened("POST", path, body, self.limit) as found:
                yield found
        except httpx2.TimeoutException as error:
            if isinstance(error, httpx2.ConnectTimeout):
                raise ObservationError(f"{self.root}: {self._said(error)}") from error
            raise self._late(path) from error
        except httpx2.HTTPError as error:
            raise LostError(
                f"{self.root}{path}: the connection broke ({self._said(error)}); look into the server's log"
            ) from error

    @contextmanager
    def _opened(
        self, method: str, path: str, body: Any, seconds: float
    ) -> Iterator[tuple[httpx2.Response, float]]:
        until = time.monotonic() + seconds
        patience = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        with self._client.stream(method, self.root + path, json=body, timeout=patience) as answer:
            yield answer, until

    def _body(self, answer: httpx2.Response, path: str, until: float) -> bytes:
        return b"".join(self._pieces(answer, path, until))

    def _lines(self, answer: httpx2.Response, path: str, until: float) -> Iterator[bytes]:
        begun: list[bytes] = []  # of a line that has no end yet
        for piece in self._pieces(answer, path, until):
            first, *others = piece.split(b"\n")
            begun.append(first)
            for other in others:
                yield b"".join(begun)
                begun = [other]
        yield b"".join(begun)

    def _pieces(self, answer: httpx2.Response, path: str, until: float) -> Iterator[bytes]:
        size = 0
        for piece in answer.iter_bytes():
            self._in_time(path, until)
            size += len(piece)
            if size > LONGEST_ANSWER:
                raise ObservationError(
                    f"{self.root}{path}: an answer of more than {LONGEST_ANSWER >> 20} MiB"
                )
            yield piece

    def _in_time(self, path: str, until: float) -> None:
        if time.monotonic() > until:
            raise self._late(path)

    def _late(self, path: str) -> ObservationError:
        return ObservationError(
            f"{self.root}{path}: no complete answer in {self.limit:g} s; set request_limit, or look into its log"
        )

    def _check(self, answer: httpx2.Response, path: str, text: bytes) -> None:
        status, place = answer.status_code, f"{self.root}{path}"
        if status == httpx2.codes.OK:
            return
        if answer.is_redirect or answer.has_redirect_location:
            target = self._shown(answer.headers.get("location", ""))
            raise ObservationError(f"{place}: redirects to {target}; give the address that answers as server")
        said = f"status {status}: {self._shown(_reason(text))}"
        if status in (httpx2.codes.BAD_REQUEST, httpx2.codes.UNPROCESSABLE_ENTITY):
            raise RefusedError(f"{place}: {said}")
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            raise ObservationError(f"{place}: {said}; name the variable that holds its key by api_key_env")
        raise ObservationError(f"{place}: {said}")

    def _json(self, path: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ObservationError(
                f"{self.root}{path}: no JSON came, but {self._shown(text[:SHOWN].decode(errors='replace'))!r}"
            ) from error

    def _said(self, error: Exception) -> str:
        said = self._shown(str(error) or type(error).__name__)
        return f"nothing listens there ({said})" if isinstance(error, NO_ANSWER) else said

    def _shown(self, text: str) -> str:
        """Return what a server said as one line, without the key."""
        hidden = text.replace(self.key, "***") if self.key else text
        return plain(" ".join(hidden.split()))[:SHOWN]


def _reason(text: bytes) -> str:
    """Return what the body of an error says: every server puts it somewhere else."""
    value = _lenient(text)
    for _ in range(3):
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict):
            keys = (key for key in ("error", "message", "detail", "msg") if value.get(key))
            value = next((value[key] for key in keys), value)
    return value if isinstance(value, str) else text.decode(errors="replace")


def _lenient(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _seconds(text: str | None) -> float:
    try:
        return max(BUSY_SECONDS, min(float(text or 0), 30.0))
    except ValueError:
        return BUSY_SECONDS


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
