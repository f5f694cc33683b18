"""Data sets of the hub as corpora: `datasets` as a stub, and the real one before a hub that nobody serves."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_quantgate import network
from pytest_quantgate.errors import MissingExtraError, UsageError
from pytest_quantgate.metrics import corpus
from pytest_quantgate.metrics.corpus import Corpus

WIKITEXT = Corpus(**corpus.WIKITEXT2)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stub of `datasets` that notes what it is asked for, on a network that answers."""
    stub = SimpleNamespace(config=SimpleNamespace(HF_HUB_OFFLINE=False), calls=[], error=None)

    def load_dataset(*names: str, split: str) -> dict[str, list[str]]:
        stub.calls.append((*names, split, stub.config.HF_HUB_OFFLINE))
        if stub.error:
            raise stub.error
        return {"text": ["one", "two"]}

    stub.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stub)
    monkeypatch.setattr(network, "obstacle", lambda: "")
    corpus._read_dataset.cache_clear()
    return stub


def test_rows_are_joined(library: SimpleNamespace) -> None:
    """WikiText-2 is joined as in the GPTQ papers, and read once."""
    assert WIKITEXT.read() == WIKITEXT.read() == "one\n\ntwo"
    assert library.calls == [("Salesforce/wikitext", "wikitext-2-raw-v1", "test", False)]


@pytest.mark.parametrize("obstacle", ["https://hub: refused", "HF_HUB_OFFLINE is set"])
def test_an_unreachable_hub_leaves_the_cache(
    library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    """What `datasets` fetched before is used; what it lacks is one line with why; its setting is put back."""
    monkeypatch.setattr(network, "obstacle", lambda: obstacle)
    assert WIKITEXT.read() == "one\n\ntwo"
    assert library.calls[0][-1] is True
    corpus._read_dataset.cache_clear()
    library.error = ConnectionError("Couldn't reach 'Salesforce/wikitext'\nat all")
    with pytest.raises(UsageError, match="wikitext-2-raw-v1 test cannot be had") as caught:
        WIKITEXT.read()
    assert f"({obstacle}, and the local cache lacks it); fetch it" in str(caught.value)
    assert str(caught.value).isprintable()
    assert library.config.HF_HUB_OFFLINE is False


def test_offline_asks_nobody(
    library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, local_only: Callable[[], None]
) -> None:
    """Under --quantgate-offline not even the check goes out."""
    local_only()
    monkeypatch.setattr(network, "obstacle", lambda: pytest.fail("asked"))
    assert WIKITEXT.read() == "one\n\ntwo"
    assert library.calls[0][-1] is True
    corpus._read_dataset.cache_clear()
    library.error = ValueError("no cache")
    with pytest.raises(UsageError, match=r"\(--quantgate-offline, and the local cache lacks it\)"):
        WIKITEXT.read()


@pytest.fixture
def local_only() -> Any:
    """A way to set what --quantgate-offline sets, undone afterwards."""
    tokens = []
    yield lambda: tokens.append(network.LOCAL_ONLY.set(True))
    for token in tokens:
        network.LOCAL_ONLY.reset(token)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Unknown split 'tset'.\nmore"), "Unknown split 'tset'."),
        (OSError(), "OSError"),
        (RuntimeError("Dataset scripts\x1b[31m"), "Dataset scripts\\x1b[31m"),
    ],
)
def test_what_the_library_says_is_one_line(library: SimpleNamespace, error: Exception, said: str) -> None:
    """With a hub that answers, the library's own first line is the reason."""
    library.error = error
    with pytest.raises(UsageError) as caught:
        WIKITEXT.read()
    assert f"cannot be had ({said}); fetch it" in str(caught.value)
    assert str(caught.value).isprintable()


def test_another_field(library: SimpleNamespace) -> None:
    """A data set without the field is named with what to set."""
    with pytest.raises(UsageError, match="has no field 'story'; set field="):
        Corpus(dataset="a/b", field="story").read()


def test_the_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `datasets` the message is the pip command."""
    corpus._read_dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pytest-quantgate\[hf\]'"):
        WIKITEXT.read()


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HF_HUB_OFFLINE"])
def test_no_hub_is_said_within_seconds(tmp_path: Path, variable: str) -> None:
    """With the real library: one line, no retries, nothing kept."""
    code = (
        "from pytest_quantgate.errors import UsageError\n"
        "from pytest_quantgate.metrics.corpus import WIKITEXT2, Corpus\n"
        "try: Corpus(**WIKITEXT2).read()\n"
        "except UsageError as error: print(error)\n"
    )
    told = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}[variable]
    environment = {**os.environ, "HF_HOME": str(tmp_path), variable: told}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert time.monotonic() - began < 10
    assert done.stdout.startswith("corpus Salesforce/wikitext wikitext-2-raw-v1 test cannot be had (")
    assert done.stdout.count("\n") == 1
    assert "etry" not in done.stderr
    assert "Traceback" not in done.stderr
