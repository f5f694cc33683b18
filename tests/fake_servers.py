"""Servers of the kinds that cannot run here, after their documented formats, over a model that is a table.

The model is a bigram table over the vocabulary of `tiny_models.tokenizer`: what a server must tell is known in closed
form. `Faults` makes it answer as servers do on a bad day.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import numpy as np

VOCABULARY = 320
END = 0
NAME = "tiny"
OWNERS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "openai": "somebody"}
CAP = {"vllm": 20, "sglang": 320, "llama.cpp": 320, "openai": 5}


def table(favored: tuple[int, ...] = ()) -> np.ndarray:
    """Return log-probabilities (V, V) of the next token; the most probable is a favored one, if there are any."""
    logits = np.random.default_rng(7).normal(size=(VOCABULARY, VOCABULARY)) * 3
    logits[:, END] -= 30
    logits[:, list(favored)] += 15
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


TABLE = table()


@dataclass
class Faults:
    """What goes wrong; empty for a sound server.

    Attributes:
        status: of every answer to a POST.
        body: of such an answer, instead of JSON.
        edit: changes an answer before it is sent.
        hang: seconds before a POST is answered.
        drip: seconds between the bytes of an answer.
        cut: a stream is closed after so many events.
        location: where every POST is redirected to.
        loading: how many GETs are answered with 503.
        busy: how many POSTs are answered with 429.
        models: names that are listed.
        key: the bearer token that is wanted.

    """

    status: int = 200
    body: bytes | None = None
    edit: Any = None
    hang: float = 0.0
    drip: float = 0.0
    cut: int = -1
    location: str = ""
    loading: int = 0
    busy: int = 0
    models: tuple[str, ...] = (NAME,)
    key: str = ""


@dataclass
class Fake:
    """A server in a thread; `asked` keeps the bodies of all POSTs."""

    kind: str
    faults: Faults = field(default_factory=Faults)
    pieces: tuple[str, ...] = ()
    table: Any = field(default_factory=lambda: TABLE)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def start(self, port: int = 0) -> str:
        fake = self

        class Handler(_Handler):
            server_of = fake

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # --- what each kind answers

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            card = {"object": "model", "owned_by": OWNERS[self.kind]}
            if self.kind in ("vllm", "sglang"):
                card["max_model_len"] = 513
            return {"object": "list", "data": [{"id": name, **card} for name in self.faults.models]}
        known = {
            ("vllm", "/version"): {"version": "0.33.0"},
            ("sglang", "/server_info"): {"version": "0.5.6"},
            ("llama.cpp", "/props"): {
                "build_info": "b9999-abc",
                "default_generation_settings": {"n_ctx": 513},
            },
        }
        return {} if path == "/health" else known.get((self.kind, path))

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        count = body.get("prompt_logprobs") or body.get("logprobs") or body.get("top_logprobs_num") or 0
        if count > CAP[self.kind]:
            said = (
                f"Requested prompt logprobs of {count}, which is greater than max allowed: {CAP[self.kind]}"
            )
            return 400, {"error": {"message": said, "type": "BadRequestError", "code": 400}}
        answers = {"/v1/completions": self._completion, "/generate": self._sglang, "/completion": self._llama}
        return 200, answers[path](body)

    def new(
        self, ids: list[int], count: int, *, stop_at_end: bool, bias: dict[int, float] | None = None
    ) -> list[int]:
        made = []
        for _ in range(count):
            row = self.table[(ids + made)[-1]].copy()
            for token, value in (bias or {}).items():
                row[token] += value
            made.append(int(row.argmax()))
            if made[-1] == END and stop_at_end:
                break
        return made

    def text(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)

    def _completion(self, body: Any) -> Any:
        ids = body["prompt"]
        assert isinstance(ids, list)
        made = self.new(ids, body["max_tokens"], stop_at_end=not body.get("ignore_eos"))
        text, matched = _cut(self.text(made), body.get("stop") or [])
        reason = "stop" if matched or made[-1] == END else "length"
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        if self.kind == "vllm":
            choice |= {"stop_reason": matched, "token_ids": made}
            if body.get("prompt_logprobs") is not None:
                choice["prompt_logprobs"] = [None, *self._vllm(ids, body["prompt_logprobs"])]
        elif body.get("logprobs") is not None:
            choice["logprobs"] = self._lists(ids + made if body.get("echo") else made, ids, body["logprobs"])
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(made)}
        return {"object": "text_completion", "model": NAME, "choices": [choice], "usage": usage}

    def _vllm(self, ids: list[int], count: int) -> list[Any]:
        rows = []
        for before, token in pairwise(ids):
            row = self.table[before]
            order = np.argsort(-row)
            listed = dict.fromkeys([token, *order[:count].tolist()])
            rows.append(
                {
                    str(i): {
                        "logprob": float(row[i]),
                        "rank": int((row > row[i]).sum()) + 1,
                        "decoded_token": self.pieces[i],
                    }
                    for i in listed
                }
            )
        return rows

    def _lists(self, shown: list[int], ids: list[int], count: int) -> Any:
        own: list[Any] = [None]
        tops: list[Any] = [None]
        for before, token in pairwise(shown):
            row = self.table[before]
            own.append(float(row[token]))
            tops.append({self.pieces[i]: float(row[i]) for i in np.argsort(-row)[:count]})
        return {"tokens": [self.pieces[i] for i in shown], "token_logprobs": own, "top_logprobs": tops}

    def _sglang(self, body: Any) -> Any:
        ids, settings = body["input_ids"], body["sampling_params"]
        made = self.new(ids, settings["max_new_tokens"], stop_at_end=not settings.get("ignore_eos"))
        text, matched = _cut(self.text(made), settings.get("stop") or [])
        kind = (
            {"type": "stop", "matched": matched or END} if matched or made[-1] == END else {"type": "length"}
        )
        about: dict[str, Any] = {
            "finish_reason": kind,
            "prompt_tokens": len(ids),
            "completion_tokens": len(made),
        }
        if body.get("return_logprob"):
            assert body["logprob_start_len"] == 0
            own, tops = [[None, ids[0], None]], [None]
            for before, token in pairwise(ids):
                row = self.table[before]
                own.append([float(row[token]), token, None])
                order = np.argsort(-row)[: body["top_logprobs_num"]]
                tops.append([[float(row[i]), int(i), None] for i in order])
            about |= {"input_token_logprobs": own, "input_top_logprobs": tops}
        return {"text": text, "output_ids": made, "meta_info": about}

    def _llama(self, body: Any) -> Any:
        bias = {int(token): value for token, value in body.get("logit_bias", [])}
        made = self.new(body["prompt"], body["n_predict"], stop_at_end=not body.get("ignore_eos"), bias=bias)
        text, matched = _cut(self.text(made), body.get("stop") or [])
        ended = "word" if matched else "eos" if made[-1] == END else "limit"
        answer = {"content": text, "tokens": made, "stop": True, "stop_type": ended, "truncated": False}
        answer |= {"tokens_predicted": len(made), "model": NAME}
        if body.get("n_probs"):
            row = self.table[body["prompt"][-1]]
            tops = [{"id": int(i), "logprob": float(row[i])} for i in np.argsort(-row)[: body["n_probs"]]]
            one = {"id": made[0], "logprob": float(row[made[0]]), "top_logprobs": tops}
            answer["completion_probabilities"] = [one]
        return answer

    def events(self, path: str, body: Any) -> list[Any]:
        """Return the events of a stream: one token each, and the end."""
        whole = self.post(path, {**body, "stream": False})[1]
        if path == "/generate":
            made = whole["output_ids"]
            parts = []
            for n in range(1, len(made) + 1):
                about = {**whole["meta_info"], "completion_tokens": n}
                about["finish_reason"] = whole["meta_info"]["finish_reason"] if n == len(made) else None
                parts.append({"text": self.text(made[:n]), "output_ids": made[:n], "meta_info": about})
            return [*parts, "[DONE]"]
        if path == "/completion":
            parts = [{"content": self.text([i]), "tokens": [i], "stop": False} for i in whole["tokens"]]
            return [*parts, {**whole, "content": "", "tokens": []}]
        made = self.new(body["prompt"], body["max_tokens"], stop_at_end=not body.get("ignore_eos"))
        parts = []
        for i in made:
            choice = {"index": 0, "text": self.text([i]), "finish_reason": None}
            parts.append(
                {"choices": [{**choice, **({"token_ids": [i]} if body.get("return_token_ids") else {})}]}
            )
        parts[-1]["choices"][0]["finish_reason"] = "length"
        return [*parts, {"choices": [], "usage": {}}, "[DONE]"]


def _cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    found = [(text.index(stop), stop) for stop in stops if stop in text]
    return (text[: min(found)[0]], min(found)[1]) if found else (text, None)


class _Handler(BaseHTTPRequestHandler):
    server_of: Fake
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        fake = self.server_of
        if fake.faults.key and self.headers.get("Authorization") != f"Bearer {fake.faults.key}":
            self._send(401, {"error": {"message": f"wrong key {self.headers.get('Authorization')}"}})
        elif fake.faults.loading:
            fake.faults.loading -= 1
            self._send(503, {"error": {"message": "Loading model"}})
        else:
            found = fake.get(self.path)
            self._send(404 if found is None else 200, found)

    def do_POST(self) -> None:
        fake, faults = self.server_of, self.server_of.faults
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.asked.append((self.path, body))
        time.sleep(faults.hang)
        if faults.location:
            self._send(307, {}, location=faults.location)
        elif faults.busy:
            faults.busy -= 1
            self._send(429, {"error": "busy"})
        elif faults.status != 200 or faults.body is not None:
            self._send(
                faults.status, {"error": {"message": "CUDA error: an illegal memory access"}}, raw=faults.body
            )
        elif body.get("stream"):
            self._stream(fake.events(self.path, body))
        else:
            status, reply = fake.post(self.path, body)
            self._send(status, faults.edit(reply) if faults.edit and status == 200 else reply)

    def _send(self, status: int, value: Any, *, raw: bytes | None = None, location: str = "") -> None:
        data = json.dumps(value).encode() if raw is None else raw
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self._write(data)

    def _stream(self, events: list[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": ping\n\n")
        for number, event in enumerate(events):
            if number == self.server_of.faults.cut:
                break
            data = event if isinstance(event, str) else json.dumps(event)
            self._write(f"data: {data}\n\n".encode())
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        """Send an answer, or let it drip."""
        slow = self.server_of.faults.drip and self.command == "POST"
        pieces = [data[i : i + 1] for i in range(len(data))] if slow else [data]
        try:
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(self.server_of.faults.drip if slow else 0)
        except OSError:
            self.close_connection = True
