"""What servers do on a bad day: each is one line, in bounded time, and never a number."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx2")
pytest.importorskip("transformers")

import tiny_models as tiny
from fake_servers import Fake, Faults

from pytest_quantgate.backends.server import ServerModel, load
from pytest_quantgate.errors import (
    CheckpointError,
    ConfigError,
    NotMeasurableError,
    ObservationError,
    QuantgateError,
)
from pytest_quantgate.interfaces import Decoding, Prompt, Window
from pytest_quantgate.spec import ModelSpec

Serve = Callable[..., str]
KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer."""
    made = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(made)
    return made


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a fake and gives its address."""
    fakes: list[Fake] = []

    def start(kind: str = "vllm", **faults: Any) -> str:
        fakes.append(Fake(kind, Faults(**faults), tuple("x" * 320)))
        return fakes[-1].start()

    yield start
    for fake in fakes:
        fake.stop()


@pytest.fixture
def reach(folder: Path) -> Iterator[Callable[..., ServerModel]]:
    """Return a function that loads an endpoint."""
    models: list[ServerModel] = []

    def make(server: str, **options: Any) -> ServerModel:
        given = {"server": server, "request_limit": 5, **options}
        spec = ModelSpec("v", "", "w", path=str(folder), backend="server", options=tuple(given.items()))
        models.append(load(spec))
        return models[-1]

    yield make
    for model in models:
        model.close()


def score(model: ServerModel) -> Any:
    """Score one window."""
    return list(model.score([Window(np.arange(1, 30))], top_k=8))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    """Return the message, which is one line."""
    assert isinstance(error.value, QuantgateError)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    return str(error.value)


def row(place: int, **changes: Any) -> Callable[[Any], Any]:
    """Return an edit of one token's table of vLLM."""

    def edit(reply: Any) -> Any:
        table = reply["choices"][0]["prompt_logprobs"][place]
        for entry in table.values():
            entry.update(changes)
        return reply

    return edit


def cut_list(reply: Any) -> Any:
    del reply["choices"][0]["prompt_logprobs"][20:]
    return reply


def thin(reply: Any) -> Any:
    rows = reply["choices"][0]["prompt_logprobs"]
    rows[5] = dict(list(rows[5].items())[:2])
    return reply


def other_tokens(reply: Any) -> Any:
    rows = reply["choices"][0]["prompt_logprobs"]
    rows[3] = {"300": {"logprob": -1.0}, **{str(n): {"logprob": -5.0} for n in range(301, 310)}}
    return reply


def drop(name: str) -> Callable[[Any], Any]:
    def edit(reply: Any) -> Any:
        del reply["choices"][0][name]
        return reply

    return edit


ANSWERS: dict[str, tuple[Faults, str]] = {
    "500": (Faults(status=500), "status 500: CUDA error: an illegal memory access"),
    "400": (Faults(status=400), "status 400"),
    "not JSON": (Faults(body=b"<html>\n<b>Bad gateway"), "no JSON came, but '<html>"),
    "empty": (Faults(body=b""), "no JSON came"),
    "binary": (Faults(body=b"\xff\x00\x1b[31m"), "no JSON came"),
    "nested without end": (Faults(body=b"[" * 200_000), "no JSON came"),
    "another JSON": (Faults(body=b"[1, 2]"), "no usable choices in an answer"),
    "null": (Faults(body=b"null"), "no usable choices"),
    "no choice": (Faults(body=b'{"choices": []}'), "no usable choices"),
    "no lists": (Faults(edit=drop("prompt_logprobs")), "no usable prompt_logprobs"),
    "truncated list": (Faults(edit=cut_list), "prompt_logprobs of 20 tokens for 29"),
    "truncated row": (Faults(edit=thin), "2 of the 8 log-probabilities asked for at token 5"),
    "other tokens": (Faults(edit=other_tokens), "tells nothing of token 3, id 4"),
    "NaN": (Faults(edit=row(4, logprob=math.nan)), "a log-probability of nan"),
    "infinite": (Faults(edit=row(4, logprob=-math.inf)), "a log-probability of -inf"),
    "placeholder": (Faults(edit=row(4, logprob=-9999.0)), "a log-probability of -9999"),
    "positive": (Faults(edit=row(4, logprob=3.5)), "a positive log-probability"),
    "too probable": (Faults(edit=row(4, logprob=-0.5)), "probabilities that sum to more than 1"),
    "text for a number": (Faults(edit=row(4, logprob="x")), "no usable a log-probability"),
    "null for a number": (Faults(edit=row(4, logprob=None)), "a log-probability of nan"),
    "hang": (Faults(hang=30), "no complete answer in 1 s"),
    "drip": (Faults(drip=0.2), "no complete answer in 1 s"),
    "redirect": (
        Faults(location="http://127.0.0.1:1/elsewhere"),
        "redirects to http://127.0.0.1:1/elsewhere",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none(serve: Serve, reach: Any, name: str) -> None:
    """Said with the address and what came; nothing is scored."""
    faults, says = ANSWERS[name]
    address = serve(**{field: getattr(faults, field) for field in faults.__dataclass_fields__})
    model = reach(address, request_limit=1)
    began = time.monotonic()
    with pytest.raises(ObservationError) as error:
        score(model)
    assert says in one_line(error)
    assert address in one_line(error)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp", "openai"])
def test_a_stream_that_breaks_off(serve: Serve, reach: Any, kind: str, cut: int) -> None:
    """Tokens that came before it broke are no measurement."""
    model = reach(serve(kind, cut=cut))
    with pytest.raises(ObservationError, match=f"a stream ended after {cut} pieces without saying why"):
        model.generate([3, 4], 8)


def test_a_stream_that_drips(serve: Serve, reach: Any) -> None:
    """The limit of a request holds within a line, too."""
    model, began = reach(serve("vllm", drip=0.2), request_limit=1), time.monotonic()
    with pytest.raises(ObservationError, match="no complete answer in 1 s"):
        model.generate([3, 4], 8)
    assert time.monotonic() - began < 4


def test_a_stream_that_carries_an_error(reach: Any) -> None:
    """What the server says in the middle is the message."""
    events = (
        b'data: {"choices": [{"text": "a", "index": 0}]}\n\n'
        b'data: {"error": {"message": "engine died", "code": 500}}\n\ndata: [DONE]\n\n'
    )
    with raw_server(events) as address:
        model = reach(address, flavor="vllm")
        with pytest.raises(ObservationError, match=r"broke off: .*engine died"):
            model.generate([3], 4)


def test_a_connection_that_is_cut(reach: Any) -> None:
    """A body shorter than it says, as from a server that died."""
    with raw_server(b'{"choices": [', length=5000) as address:
        model = reach(address, flavor="vllm")
        with pytest.raises(ObservationError, match="the connection broke"):
            score(model)


def test_a_busy_server_is_asked_again(serve: Serve, reach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 passes; one that stays busy is an error."""
    monkeypatch.setattr("pytest_quantgate.backends.server_link.BUSY_SECONDS", 0.01)
    score(reach(serve(busy=2)))
    with pytest.raises(ObservationError, match="status 429: busy"):
        score(reach(serve(busy=99)))


def test_a_server_that_is_not_there(reach: Any) -> None:
    """At once, not after the limit of a start."""
    began = time.monotonic()
    with pytest.raises(ObservationError, match="nothing listens there") as error:
        reach("http://127.0.0.1:1")
    assert "start it, or give launch" in one_line(error)
    assert time.monotonic() - began < 5


def test_a_server_that_is_loading(serve: Serve, reach: Any) -> None:
    """Waited for, but not for ever."""
    assert reach(serve("llama.cpp", loading=3)).max_length == 512
    with pytest.raises(ObservationError, match=r"was not ready in 0.5 s \(it is loading\); set start_limit"):
        reach(serve("llama.cpp", loading=10_000), start_limit=0.5)


def test_another_model_than_said(serve: Serve, reach: Any) -> None:
    """The name that is wanted must be listed; of several one must be named."""
    with pytest.raises(ObservationError, match="serves another model than said: tiny, not qwen"):
        reach(serve(), served="qwen")
    with pytest.raises(ConfigError, match=r"serves 2 models \(a, b\); name one by served"):
        reach(serve(models=("a", "b")))
    with pytest.raises(ConfigError, match="serves 0 models"):
        reach(serve(models=()))
    assert reach(serve(models=("a", "b")), served="b").remarks() == ("answered by vllm 0.33.0 as b",)


def test_no_server_of_models(reach: Any) -> None:
    """A web page is no server of models."""
    refusal = pytest.raises(ObservationError, match="no list of models; is it an OpenAI-compatible")
    with raw_server(b"<html>", always=True) as address, refusal:
        reach(address)


def test_the_key(serve: Serve, reach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from the environment, is sent, and shows nowhere, not even where the server repeats it."""
    address = serve(key=KEY)
    with pytest.raises(ObservationError, match=r"refuses the key \(status 401\)"):
        reach(address)
    with pytest.raises(
        NotMeasurableError, match="api_key_env = 'THE_KEY', and that variable is not set here"
    ):
        reach(address, api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", KEY)
    model = reach(address, api_key_env="THE_KEY")
    score(model)
    assert KEY not in repr(model.native)
    assert KEY not in repr(model.spec)
    loud = serve(body=f"the key {KEY} is bad".encode(), status=500)
    with pytest.raises(ObservationError, match=r"the key \*\*\* is bad") as error:
        score(reach(loud, api_key_env="THE_KEY"))
    assert KEY not in one_line(error)


def test_a_key_that_no_request_can_carry(serve: Serve, reach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line end of a file is no part of it; anything else is refused without being shown."""
    address = serve(key=KEY)
    monkeypatch.setenv("THE_KEY", f" {KEY}\n")
    score(reach(address, api_key_env="THE_KEY"))
    for wrong in (f"{KEY}\nmore", f"{KEY}\u00e9", f"{KEY} {KEY}"):
        monkeypatch.setenv("THE_KEY", wrong)
        with pytest.raises(ConfigError, match="what the variable 'THE_KEY' holds is no key") as error:
            reach(address, api_key_env="THE_KEY")
        assert KEY not in one_line(error)
    monkeypatch.setenv("THE_KEY", " \n")
    with pytest.raises(NotMeasurableError, match="is not set here"):
        reach(address, api_key_env="THE_KEY")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"server": ""}, "needs server = "),
        ({"server": "", "launch": "serve --port 80"}, "write {port} where the port goes"),
        ({"server": "host:80"}, "is no address"),
        ({"server": "ftp://host"}, "is no address"),
        ({"server": "http://"}, "is no address"),
        ({"server": "http://me:secret@host/"}, "host and path alone"),
        ({"server": "http://host/?key=secret"}, "host and path alone"),
        ({"concurrency": 0}, "concurrency = 0"),
        ({"concurrency": 2.5}, "concurrency = 2.5"),
        ({"concurrency": True}, "concurrency = True"),
        ({"request_limit": -1}, "request_limit = -1"),
        ({"start_limit": math.inf}, "start_limit = inf"),
        ({"served": 3}, "served = 3"),
        ({"sever": "x"}, "no option 'sever'"),
    ],
)
def test_options_that_cannot_be_used(reach: Any, options: dict[str, Any], says: str) -> None:
    """Refused before anything is asked; a password in an address is not repeated."""
    with pytest.raises(ConfigError) as error:
        reach(**{"server": "http://127.0.0.1:1", **options})
    assert says in one_line(error)
    assert "secret" not in str(error.value)


def test_a_kind_that_does_not_exist(serve: Serve, reach: Any) -> None:
    """A suggestion, as for every name."""
    with pytest.raises(ConfigError.__mro__[1], match="unknown flavor of v 'vlm'; did you mean 'vllm'"):
        reach(serve(), flavor="vlm")


def test_a_kind_that_it_is_not(serve: Serve, reach: Any) -> None:
    """A server that is asked as another kind says so."""
    with pytest.raises(ObservationError, match="not a server of the kind 'vllm'; set flavor"):
        score(reach(serve("openai"), flavor="vllm"))


def test_the_damage_of_a_self_test(serve: Serve, reach: Any) -> None:
    """It cannot be tried, and is left out."""
    with pytest.raises(NotMeasurableError, match="an endpoint cannot be damaged"):
        reach(serve(), inflicted="scales_zeroed")


def test_no_tokenizer(tmp_path: Path) -> None:
    """The ids are made here: without a tokenizer there is nothing to ask."""
    options = (("server", "http://127.0.0.1:1"),)
    for path in ("", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(CheckpointError, match="tokenizer"):
            load(ModelSpec("v", "", "w", path=path, backend="server", options=options))


def test_an_answer_that_was_aborted(serve: Serve, reach: Any) -> None:
    """An answer that the server gave up is no answer."""

    def abort(reply: Any) -> Any:
        reply["choices"][0]["finish_reason"] = "abort"
        return reply

    model = reach(serve(edit=abort))
    with pytest.raises(ObservationError, match="ended by 'abort'"):
        model.complete([Prompt(np.array([3]))], Decoding(4), lambda *_: None)


def test_what_is_given_up_asks_no_more(serve: Serve, reach: Any) -> None:
    """Whoever stops reading, by an error or by leaving, ends the requests that wait."""
    fake = Fake("vllm", Faults(hang=0.02), tuple("x" * 320))
    model = reach(fake.start(), concurrency=2)
    windows = [Window(np.arange(1, 10))] * 200
    for _ in model.score(windows):
        break
    time.sleep(0.2)
    asked = len(fake.asked)
    time.sleep(0.2)
    fake.stop()
    assert len(fake.asked) == asked < 40


class raw_server:  # noqa: N801  used like a function
    """A server that lists a model, and answers every POST with the same bytes."""

    def __init__(self, body: bytes, *, length: int | None = None, always: bool = False) -> None:
        self._body, self._length, self._always = body, length, always

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        models = b'{"data": [{"id": "tiny"}]}'
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                got = connection.recv(2**16)
                body = self._body if got.startswith(b"POST") or self._always else models
                length = self._length if got.startswith(b"POST") and self._length else len(body)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)
