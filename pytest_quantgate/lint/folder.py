"""Everything that lint knows of a model folder: names, configuration, headers, tokenizer. No framework.

Nothing here stops at the first fault: what cannot be read becomes a finding, and what can be read is judged.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_quantgate.checkpoint.folder import listing, locate, read_json
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.files import MalformedError, opened, read_all
from pytest_quantgate.lint.configuration import sound_config, sound_section
from pytest_quantgate.lint.finding import Finding, unreadable
from pytest_quantgate.lint.modules import Module, modules_of
from pytest_quantgate.lint.section import Section
from pytest_quantgate.lint.shards import Weights, read_weights
from pytest_quantgate.lint.vocabulary import ids_of

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.checkpoint.headers import TensorInfo

__all__ = ["Folder", "default_template", "survey"]

MAX_CONFIG = 1 << 20
MAX_TOKENIZER = 96 << 20
MAX_TEXT = 1 << 20
SECTION_FILES = ("quantize_config.json", "quant_config.json")
QUANTO = "quanto_qmap.json"
"""What optimum-quanto writes in place of a quantization section: the type of each module."""
_JSON = ("tokenizer_config.json", "generation_config.json", "added_tokens.json", "chat_template.json")


@dataclass(frozen=True)
class Folder:
    """A model folder, as far as it can be read.

    Attributes:
        path: the folder.
        sizes: bytes of every regular file, by name.
        config: config.json without the fields that are not sound; empty if it cannot be read.
        sections: quantization sections without unsound fields, by the file that they stand in.
        weights: headers, index, and what is wrong with them.
        documents: other JSON files of the folder that are objects, by name.
        findings: what could not be read.

    """

    path: Path
    sizes: dict[str, int]
    config: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    weights: Weights
    documents: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """All tensors that could be read, by name."""
        return self.weights.tensors

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The tensors by the module that they belong to."""
        return modules_of(self.tensors)

    @cached_property
    def section(self) -> Section | None:
        """The quantization section that loaders read: of config.json, else of the first file that has one."""
        if not self.sections:
            return None
        file = "config.json" if "config.json" in self.sections else next(iter(self.sections))
        return Section.of(file, self.sections[file])

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the language model: multimodal checkpoints nest it."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) and "hidden_size" not in self.config else self.config

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """The tokenizer of tokenizer.json; empty if it is missing or no object."""
        value = _quick_json(self.path, "tokenizer.json") if "tokenizer.json" in self.sizes else {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def ids(self) -> dict[str, int]:
        """The ids of tokenizer.json by token."""
        return ids_of(self.tokenizer)

    @cached_property
    def template(self) -> str | None:
        """The default chat template, or None."""
        if "chat_template.jinja" in self.sizes:
            return _text(self.path, "chat_template.jinja")
        for name in ("chat_template.json", "tokenizer_config.json"):
            found = default_template(self.documents.get(name, {}).get("chat_template"))
            if found is not None:
                return found
        return None

    def read_text(self, name: str) -> str:
        """Return the beginning of a text file; empty if it cannot be read."""
        return _text(self.path, name) or "" if name in self.sizes else ""


def survey(path: Path) -> Folder:
    """Read a model folder.

    Raises:
        CheckpointError: it is no folder, or cannot be listed.

    """
    findings: list[Finding] = []
    sizes = _sizes(path, listing(path), findings)
    config = sound_config(_read(path, "config.json", MAX_CONFIG, "QG201", findings), findings)
    documents = {
        name: found
        for name in _JSON
        if name in sizes and (found := _object(path, name, findings)) is not None
    }
    sections = _sections(path, sizes, config, findings)
    weights = read_weights(path, sizes)
    return Folder(path, sizes, config, sections, weights, documents, (*findings, *weights.findings))


def _sizes(path: Path, names: set[str], findings: list[Finding]) -> dict[str, int]:
    sizes = {}
    for name in sorted(names):
        try:
            status = (path / name).lstat()
            if stat.S_ISLNK(status.st_mode):
                status = locate(path, name).stat()
        except CheckpointError as error:
            findings.append(unreadable("QG606", path, name, error))
            continue
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
        elif name.endswith((".safetensors", ".json")):
            findings.append(Finding("QG606", name, "is not a regular file", "put the file itself there"))
    return sizes


def _read(path: Path, name: str, limit: int, rule: str, findings: list[Finding]) -> Any:
    try:
        return read_json(path, name, limit)
    except CheckpointError as error:
        findings.append(unreadable(rule, path, name, error))
        return None


def _object(path: Path, name: str, findings: list[Finding]) -> dict[str, Any] | None:
    rule = "QG410" if name == "generation_config.json" else "QG402"
    before = len(findings)
    value = _read(path, name, MAX_CONFIG * 16, rule, findings)
    if isinstance(value, dict):
        return value
    if len(findings) == before:
        findings.append(Finding(rule, name, "is no JSON object", "export the checkpoint again"))
    return None


def _sections(
    path: Path, sizes: dict[str, int], config: dict[str, Any], findings: list[Finding]
) -> dict[str, dict[str, Any]]:
    # compressed-tensors used compression_config before transformers took it over
    nested = config.get("text_config")
    holders = [config, nested] if isinstance(nested, dict) else [config]
    keys = ("quantization_config", "compression_config")
    raw = {"config.json": next((h[key] for h in holders for key in keys if h.get(key) is not None), None)}
    for name in SECTION_FILES:
        if name in sizes:
            raw[name] = _read(path, name, MAX_CONFIG, "QG101", findings)
    found = {name: sound_section(name, value, findings) for name, value in raw.items() if value is not None}
    return found or ({QUANTO: {"quant_method": "quanto"}} if QUANTO in sizes else {})


def _quick_json(path: Path, name: str) -> Any:
    """Parse without the strict reader's hooks, which cost a second on a vocabulary of 150,000."""
    try:
        with opened(locate(path, name)) as (descriptor, status):
            if status.st_size > MAX_TOKENIZER:
                return None
            return json.loads(bytes(read_all(descriptor, status.st_size)))
    except (CheckpointError, MalformedError, OSError, ValueError, RecursionError):
        return None


def _text(path: Path, name: str) -> str | None:
    try:
        with opened(locate(path, name)) as (descriptor, status):
            return bytes(read_all(descriptor, min(status.st_size, MAX_TEXT))).decode("utf-8", "replace")
    except (CheckpointError, MalformedError, OSError):
        return None


def default_template(value: Any) -> str | None:
    """Return the template that chat_template means: itself, or the one of a list that is named "default"."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {
            item.get("name"): item.get("template")
            for item in value
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
        found = named.get("default")
        return found if isinstance(found, str) else None
    return None
