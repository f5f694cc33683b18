"""Lint against checkpoints that were made to break it: findings, and soon; never a traceback, a hang or a pass."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lint_models as models
import pytest
from checkpoints import raw, tensor, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from lint_cases import CASES, Case
from lint_models import INDEX, SECTIONS

from pytest_quantgate.checkpoint.preflight import preflight
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.lint import Linted, lint
from pytest_quantgate.lint.naming import Names
from pytest_quantgate.lint.output import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 3.0
"""In all; alone on a quiet machine each takes less than one."""

DEEP = "[" * 100_000 + "]" * 100_000
F32: dict[str, Any] = {"w": tensor()}


def judged(folder: Path) -> Linted:
    """Lint a folder; it must come back soon, find an error, and print as single lines in every format."""
    began = time.monotonic()
    found = lint(folder)
    took = time.monotonic() - began
    assert took < SECONDS, f"{took:.2f} s"
    assert found.counts()["error"] > 0
    for write in FORMATS.values():
        assert all(line.isprintable() for line in write(found).splitlines())
    assert len(FORMATS["text"](found).splitlines()) == len(found.findings) + 1
    return found


WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "web page": b"<!DOCTYPE html><html></html>",
    "pickle": b"\x80\x04\x95",
    "zip": b"PK\x03\x04" + bytes(60),
    "gguf": b"GGUF" + bytes(60),
    "length 0": struct.pack("<Q", 0) + b"{}",
    "length 2^62": struct.pack("<Q", 1 << 62) + b"{}",
    "past the end": struct.pack("<Q", 1000) + b"{}",
    "not UTF-8": raw(b'{"\xff": 1}'),
    "not JSON": raw(b"{nonsense}"),
    "list": raw(b"[1]"),
    "deep": raw(b'{"w":' + b"[" * 100_000),
    "twice": raw(b'{"w": {"dtype": "F32"}, "w": {}}'),
    "unknown dtype": weights({"w": tensor("F128")}),
    "dtype number": weights({"w": tensor(7)}),
    "negative": weights({"w": tensor(shape=[-1])}),
    "huge": weights({"w": tensor(shape=[1 << 62, 1 << 62])}),
    "reversed": weights({"w": tensor(offsets=[8, 0])}),
    "overlap": weights({"a": tensor(), "b": tensor()}),
    "hole": weights({"w": tensor(offsets=[8, 16])}, bytes(16)),
    "trailing": weights(F32, bytes(9)),
    "float offsets": weights({"w": tensor(offsets=[0.0, 8.0])}),
    "metadata": weights({**F32, "__metadata__": {"a": 1}}),
    "traversal": weights({"../../x": tensor()}),
    "escape": weights({"\x1b[31m::error::": tensor()}),
    "no name": weights({"": tensor()}),
    "2,000 dims": weights({"w": tensor(shape=[1] * 2000)}),
    "nothing": weights({}),
    "all zero": bytes(4096),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights_are_a_finding(tmp_path: Path, name: str) -> None:
    """QG302 says what the file is, and the rest of the folder is judged all the same."""
    models.write(tmp_path, files={"model.safetensors": WEIGHTS[name], "README.md": "no licence"}, shards=0)
    rules = {finding.rule for finding in judged(tmp_path).findings}
    assert {"QG302", "QG604"} <= rules
    assert not rules & {"QG203", "QG204", "QG206", "QG301"}, "what could not be read is not missing"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, Callable[[Path], Any]] = {
    "fifo": fifo,
    "loop": loop,
    "folder": Path.mkdir,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "out": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "model.safetensors", INDEX, "tokenizer_config.json"]
)
@pytest.mark.parametrize("kind", PLACES)
def test_files_that_are_no_files(tmp_path: Path, kind: str, file: str) -> None:
    """A fifo does not block, a link is not followed out, a loop ends; each is an error."""
    models.write(tmp_path, "gptq")
    (tmp_path / file).unlink(missing_ok=True)
    PLACES[kind](tmp_path / file)
    assert judged(tmp_path).counts()["error"] > 0


CONFIGS: dict[str, Any] = {
    "null": "null",
    "number": "3",
    "text": '"qwen2"',
    "empty": "",
    "deep": DEEP,
    "large": '{"a": "' + "x" * (1 << 21) + '"}',
    "digits": '{"hidden_size": ' + "9" * 5000 + "}",
    "twice": '{"model_type": "a", "model_type": "b"}',
    "NaN": '{"model_type": "a", "x": NaN}',
    "BOM": b"\xef\xbb\xbf{}",
    "not UTF-8": b"\xff\xfe",
    "many": json.dumps({f"k{number}": number for number in range(5000)}),
    "sizes": json.dumps({**models.CONFIG, "hidden_size": -64, "num_hidden_layers": 10**9}),
    "odd types": json.dumps(
        {**models.CONFIG, "architectures": 3, "layer_types": {"a": 1}, "eos_token_id": 10**30}
    ),
    "text_config": json.dumps({"text_config": [1], "model_type": "a"}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_configurations(tmp_path: Path, name: str) -> None:
    """Every kind of nonsense in config.json is an error, and nothing else breaks."""
    made = models.tensors("gptq")
    assert judged(models.write(tmp_path, "gptq", made=made, files={"config.json": CONFIGS[name]}))


SECTION_VALUES: list[Any] = [
    [],
    3,
    "x",
    {"quant_method": []},
    {"quant_method": "gptq", "bits": "4"},
    {"bits": True},
]


@pytest.mark.parametrize("value", SECTION_VALUES, ids=repr)
def test_damaged_sections(tmp_path: Path, value: Any) -> None:
    """A quantization section of any JSON type."""
    assert judged(models.write(tmp_path, made=models.tensors("gptq"), quantization_config=value))


INDICES: dict[str, Any] = {
    "traversal": {"metadata": {}, "weight_map": {"a": "../x.safetensors"}},
    "absolute": {"metadata": {}, "weight_map": {"a": "/etc/passwd"}},
    "pickle": {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}},
    "no metadata": {"weight_map": {"a": "x.safetensors"}},
    "list": [1],
    "null": {"metadata": {}, "weight_map": {"a": None}},
    "empty": {"metadata": {}, "weight_map": {}},
    "missing": {"metadata": {}, "weight_map": {f"t{n}": f"x{n}.safetensors" for n in range(3000)}},
}


@pytest.mark.parametrize("name", INDICES)
def test_damaged_indices(tmp_path: Path, name: str) -> None:
    """An index cannot lead out of the folder; three thousand missing shards are few lines."""
    found = judged(models.write(tmp_path, files={INDEX: INDICES[name]}))
    assert len(found.findings) < 60


@pytest.mark.parametrize(
    "text", [DEEP, "{", "[]", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": -5}}}', "null"]
)
def test_damaged_tokenizers(tmp_path: Path, text: str) -> None:
    """A tokenizer that cannot be read is an error where it matters."""
    found = lint(models.write(tmp_path, files={"tokenizer.json": text}))
    assert {finding.rule for finding in found.findings} & {"QG402", "QG413"}


def test_a_header_of_100_megabytes_is_not_read(tmp_path: Path) -> None:
    """Its length is refused before a byte of it is read."""
    path = models.write(tmp_path, shards=0) / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100 << 20) + b"{")
        file.truncate(200 << 20)
    assert "a header of 104857600 bytes" in FORMATS["text"](judged(tmp_path))


def test_many_tensors_end_soon(tmp_path: Path) -> None:
    """Ten thousand modules, none like another, against a hundred exclusions that are expressions."""
    made = {f"m{number}x.qweight": ("I8", (1,)) for number in range(10_000)}
    section = {**SECTIONS["compressed"], "ignore": [f"re:.*a{number}.*b" for number in range(100)]}
    models.write(tmp_path, made=made, quantization_config=section)
    began = time.monotonic()
    found = lint(tmp_path)
    assert time.monotonic() - began < SECONDS
    assert len(found.findings) < 100


@pytest.mark.parametrize(
    "expression",
    ["(a+)+$", "(a|a)*$", "a?" * 40 + "a" * 40, "(a|a)" * 30 + "b", ".*.*.*.*.*.*x", "(?=a)b", "[", "\\1"],
)
def test_expressions_of_a_checkpoint_cannot_hang(expression: str) -> None:
    """What could take forever is not tried, and then nothing is said about the modules."""
    names = Names.of([f"re:{expression}"])
    began = time.monotonic()
    assert names.has("a" * 200) is None
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("written", "name", "expected"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", "model.lm_head", True),
        ("layers.1", "model.layers.10.mlp", False),
        ("re:.*lm_head", "model.lm_head", True),
        (r"re:model\.layers\.\d+\.mlp\.gate$", "model.layers.3.mlp.gate", True),
        (r"re:model\.layers\.\d+\.mlp\.gate$", "model.layers.3.mlp.gate_proj", False),
        (r"re:.*\.(?:q_proj|k_proj)", "model.layers.3.self_attn.k_proj", True),
    ],
)
def test_names_as_configurations_write_them(written: str, name: str, expected: bool) -> None:  # noqa: FBT001
    """Whole dotted parts, or expressions from the beginning."""
    assert Names.of([written]).has(name) is expected


def test_what_is_no_folder(tmp_path: Path) -> None:
    """A file or a missing path is the user's mistake."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="no model folder"):
            lint(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    *models.CONFIG,
    *("quantization_config", "layer_types", "text_config", "auto_map", "torch_dtype", "rope_parameters"),
]
KEYS = sorted(
    {key for section in SECTIONS.values() for key in section} | {"dynamic", "modules_in_block_to_quantize"}
)


@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.sampled_from(sorted(SECTIONS)),
)
@settings(max_examples=150, deadline=None)
def test_no_configuration_breaks_it(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any], section: dict[str, Any], kind: str
) -> None:
    """Any JSON value in any field: findings, never an exception."""
    folder = tmp_path_factory.mktemp("any")
    whole = {"quantization_config": SECTIONS[kind] | section, **fields}
    models.write(folder, kind, files={"config.json": models.config(kind) | whole})
    found = lint(folder, folder)
    assert all(write(found) for write in FORMATS.values())


@given(st.dictionaries(st.sampled_from(["model", "added_tokens", "normalizer"]), VALUES), VALUES, VALUES)
@settings(max_examples=80, deadline=None)
def test_no_document_breaks_it(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: dict[str, Any], generation: Any, template: Any
) -> None:
    """Any JSON value in the documents beside."""
    folder = tmp_path_factory.mktemp("any")
    files = {
        "tokenizer.json": json.dumps(tokenizer),
        "generation_config.json": json.dumps({"eos_token_id": generation, "top_p": generation}),
        "tokenizer_config.json": json.dumps({"chat_template": template, "eos_token": generation}),
    }
    models.write(folder, files=files)
    baseline = models.write(tmp_path_factory.mktemp("baseline"))
    assert lint(folder, baseline).findings
    assert lint(baseline, folder).findings


def test_a_folder_of_many_files_and_odd_names(tmp_path: Path) -> None:
    """Twenty thousand files, and names that are no UTF-8 or would write to a terminal."""
    models.write(tmp_path, files={"config.json": None})
    for number in range(20_000):
        (tmp_path / f"{number}.txt").touch()
    for name in (b"\xff.py", b"\x1b[31m.bin", b"a\n::error::b.pkl"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    found = judged(tmp_path)
    assert {"QG602", "QG603"} <= {finding.rule for finding in found.findings}


REFUSED = {
    **{f"weights: {name}": {"shards": 0, "files": {"model.safetensors": it}} for name, it in WEIGHTS.items()},
    **{f"config: {name}": {"files": {"config.json": it}} for name, it in CONFIGS.items()},
    **{f"index: {name}": {"shards": 0, "files": {INDEX: it}} for name, it in INDICES.items()},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_loading_refuses_is_an_error(tmp_path: Path, name: str) -> None:
    """Lint is never milder than the check that every model passes before it is loaded."""
    models.write(tmp_path, **REFUSED[name])
    if refuses(tmp_path):
        judged(tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_neither_is_it_milder_on_the_cases_of_the_rules(tmp_path: Path, case: Case) -> None:
    """The same for every checkpoint that breaks a rule."""
    case.write(tmp_path)
    if refuses(tmp_path):
        assert lint(tmp_path).counts()["error"] > 0


def refuses(folder: Path) -> bool:
    try:
        preflight(folder)
    except CheckpointError:
        return True
    return False
