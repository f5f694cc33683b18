"""The kind of machine that speed and memory figures belong to, read from the kernel's text files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_quantgate import machine


@pytest.fixture(autouse=True)
def _looked_up_anew() -> Iterator[None]:
    caches = (machine.installed, machine._cards, machine._processor)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two NVIDIA cards, and a torch that was built for them."""
    for number, model in (("0000:01:00.0", "NVIDIA H100 80GB HBM3"), ("0000:02:00.0", "NVIDIA L4")):
        (tmp_path / number).mkdir()
        (tmp_path / number / "information").write_text(f"Model: \t\t {model}\nIRQ:   42\n")
    monkeypatch.setattr(machine, "_NVIDIA_CARDS", tmp_path)
    monkeypatch.setattr(machine, "installed", lambda name: "2.13.0+cu128" if name == "torch" else "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.mark.usefixtures("cards")
def test_a_card_has_its_name() -> None:
    """Figures of one kind of card are not another's; a number beyond the last card is the last card's."""
    assert machine.default_device() == "cuda"
    assert machine.device_kind("cuda") == machine.device_kind("cuda:0") == "cuda NVIDIA H100 80GB HBM3"
    assert machine.device_kind("cuda:1") == machine.device_kind("cuda:7") == "cuda NVIDIA L4"


def test_a_card_without_a_name(cards: Path) -> None:
    """A driver that says nothing of a card still makes it one."""
    (cards / "0000:01:00.0" / "information").unlink()
    assert machine.device_kind("cuda") == "cuda NVIDIA"


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_cards_are_none(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """CUDA_VISIBLE_DEVICES can hide every card."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert machine.default_device() == "cpu"


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize("version", ["2.13.0+cpu", ""])
def test_a_torch_that_cannot_use_them(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """A build for processors, or none, computes on the processor."""
    monkeypatch.setattr(machine, "installed", lambda _: version)
    assert machine.default_device() == "cpu"


def test_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the driver's folder there is the processor, with its name and its cores."""
    monkeypatch.setattr(machine, "_NVIDIA_CARDS", tmp_path / "none")
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: Xeon: a @ 2.80GHz\nmodel name\t: other\n")
    monkeypatch.setattr(machine, "_CPU_INFO", information)
    monkeypatch.setattr(machine, "_cores", lambda: 4)
    assert machine.default_device() == "cpu"
    assert machine.device_kind("cuda") == "cuda"
    assert machine.device_kind("cpu") == "cpu Xeon: a @ 2.80GHz x4"


def test_versions_of_what_is_installed() -> None:
    """What is not installed has no part in an identity."""
    found = dict(machine.versions("pytest", "no-such-distribution"))
    assert list(found) == ["pytest"]
    assert found["pytest"] == pytest.__version__
