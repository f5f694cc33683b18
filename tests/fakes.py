"""A backend that is a pure function: a bigram table with a known amount of damage, for tests of everything else.

Its figures follow from the variant's options alone (`damage`, `speed`, `vram`), so a gate's limit can be set exactly.
Every load and every pass is written to the file that FAKE_LOG names, so that a test can count them.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_quantgate import damages
from pytest_quantgate.errors import NotMeasurableError, ObservationError
from pytest_quantgate.interfaces import TokenScores, Trace, Window
from pytest_quantgate.spec import Json, ModelSpec, Recipe

VOCABULARY = 64


def log(event: str) -> None:
    """Append one line to the log of this test, if it keeps one; O_APPEND keeps lines of several processes apart."""
    if path := os.environ.get("FAKE_LOG"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(event + "\n")


def load(spec: ModelSpec, *, allow_code: bool = False, allow_pickle: bool = False) -> FakeModel:
    """Load a fake: what a backend registers."""
    log(f"load {spec.name}")
    model = FakeModel(spec)
    model.meet("load")
    return model


def table(damage: float = 0.0) -> np.ndarray:
    """Return the log-probabilities (64, 64) of the next token, with noise of the given size on the logits."""
    clean = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)) * 2
    logits = clean + damage * np.random.default_rng(1).normal(size=clean.shape)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def corpus(length: int = 4000) -> str:
    """Return text that the undamaged table would write."""
    rng = np.random.default_rng(2)
    chances = np.exp(table())
    ids = [1]
    while len(ids) < length:
        ids.append(int(rng.choice(VOCABULARY, p=chances[ids[-1]] / chances[ids[-1]].sum())))
    return "".join(chr(64 + token) for token in ids)


class FakeModel:
    """A bigram model over the low 6 bits of each byte."""

    vocab_size = VOCABULARY
    max_length = 4096
    bos_id = None
    load_seconds = 0.25

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.native = self
        self.tokenizer = self
        self._options: Mapping[str, Any] = dict(spec.options)
        self._inflicted = "" if self._options.get("undamageable") else self._options.get(damages.OPTION, "")
        if self._inflicted == "missing_bos":
            raise NotMeasurableError("missing_bos cannot be tried: the model has no BOS")
        self._logprob = table(self._options.get("damage", 0.0) + self._worse() + self._drift())

    def _worse(self) -> float:
        """Return how much noise the damage of a self-test adds, or another attention implementation."""
        if not self._inflicted:
            return 0.001 if self._options.get("attention") == "eager" else 0.0
        return 3.0 if damages.DAMAGES[self._inflicted].severe else 0.01

    def _drift(self) -> float:
        """Return how much noise an engine adds to the baseline that nobody has put into its identity."""
        return float(os.environ.get("FAKE_DRIFT", "0")) if self.spec.is_baseline else 0.0

    def meet(self, stage: str) -> None:
        """Do what the options have in store for this stage: die of a signal, hang, or raise what nobody expects."""
        if stage in str(self._options.get("tells", "")):
            log(f"pid {os.getpid()}")
        if self._options.get("dies") == stage:
            os.write(2, b"the last words\n")
            os.kill(os.getpid(), getattr(signal, self._options.get("of", "SIGKILL").upper()))
        if self._options.get("hangs") == stage:
            time.sleep(600)
        if self._options.get("stumbles") == stage:
            raise ZeroDivisionError("by accident")

    def encode(self, text: str) -> np.ndarray:
        """Return one id per byte."""
        shift = self._options.get("tokenizer_shift", 0)
        return (np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + shift) % VOCABULARY

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """Return the ids of the contents, one after another."""
        if self._options.get("no_template"):
            raise ObservationError(f"{self.spec.name}: its tokenizer has no chat template; use plain prompts")
        return self.encode("".join(message["content"] for message in messages))

    def decode(self, ids: Sequence[int]) -> str:
        """Return letters."""
        return "".join(chr(65 + int(token) % 26) for token in ids)

    def score(
        self, windows: Sequence[Window], *, top_k: int = 0, at: Sequence[np.ndarray] | None = None
    ) -> Iterator[TokenScores]:
        """Yield the table's rows."""
        log(f"score {self.spec.name}")
        if self._options.get("broken") or (self._inflicted and self._options.get("breaks")):
            raise ObservationError(f"{self.spec.name}: logits are not finite")
        for index, window in enumerate(windows):
            if index == 1:
                self.meet("score")
            ids = np.asarray(window.ids)
            rows = self._logprob[ids[window.start - 1 : -1]]
            wanted = (
                np.argsort(-rows, axis=1)[:, :top_k] if at is None else np.asarray(at[index]).astype(np.int64)
            )
            yield TokenScores(
                logprob=np.take_along_axis(rows, ids[window.start :, None], axis=1)[:, 0].astype(np.float32),
                top1=rows.argmax(axis=1).astype(np.int64),
                ids=wanted.astype(np.int64),
                at=np.take_along_axis(rows, wanted, axis=1).astype(np.float32),
                floor=rows.min(axis=1).astype(np.float32),
            )

    def generate(self, ids: Sequence[int], new_tokens: int, *, stop_at_end: bool = False) -> Trace:
        """Continue by a full cycle through the vocabulary, at a steady speed."""
        log(f"generate {self.spec.name}")
        self.meet("generate")
        step = 1.0 / self._options.get("speed", 100.0)
        tokens = (np.arange(new_tokens) * 7 + 3) % VOCABULARY
        if self._options.get("gibberish"):
            tokens = np.zeros(new_tokens, dtype=np.int64)
        return Trace(tokens, np.cumsum(np.full(new_tokens, step)))

    def findings(self) -> Mapping[str, Json]:
        """Return what the options say."""
        quantized: dict[str, Json] = {} if self.spec.is_baseline else {"layers.0.linear": 8}
        nonfinite: list[Json] = ["layers.0.linear.scales"] if self._options.get("nan") else []
        return {
            "quantized": ({} if self._options.get("dense") else quantized) | self._options.get("cache", {}),
            "dense": [],
            "nonfinite": nonfinite,
        }

    def memory(self) -> Mapping[str, float]:
        """Return a fixed peak."""
        return {"ram": float(self._options.get("ram", 1024**2))}

    def close(self) -> None:
        """Note it."""
        log(f"close {self.spec.name}")


class FakeQuantizer:
    """Writes a sound checkpoint, unless its calibration text names the signal to die of."""

    def quantize(self, recipe: Recipe, baseline: ModelSpec, out: Path, progress: Any) -> None:
        """Write half of it, meet its fate, write the rest."""
        log(f"pid {os.getpid()}")
        (out / "half").write_text("half")
        progress(1, 2)
        text = Path(recipe.calibration).read_text()
        if text.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, text.strip()))
        (out / "half").unlink()
        write_checkpoint(out, seed=5, bits=8)


QUANTIZER = FakeQuantizer()


def write_checkpoint(folder: Path, *, seed: int = 0, bits: int = 16) -> Path:
    """Write a sound checkpoint of one small tensor, without any library of safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = 8, 32
    payload = (
        np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float16 if bits == 16 else np.int8)
    )
    kind = "F16" if bits == 16 else "I8"
    entry = {"dtype": kind, "shape": [rows, columns], "data_offsets": [0, payload.nbytes]}
    header = json.dumps({"model.layers.0.linear.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + payload.tobytes())
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": columns,
        "num_hidden_layers": 1,
        "vocab_size": VOCABULARY,
        "dtype": "float32",
    }
    if bits != 16:
        config["quantization_config"] = {"quant_method": "gptq", "bits": bits, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {}}})
    )
    return folder
