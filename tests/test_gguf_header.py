"""GGUF files before llama.cpp sees them: read strictly, by their own size and not by their counts."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf_files
import pytest
from gguf_files import ARRAY, F16, METADATA, Q4_K, STRING, UINT32
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.checkpoint import check_unchanged, fingerprint, preflight, resolve
from pytest_quantgate.checkpoint.gguf import read_gguf
from pytest_quantgate.checkpoint.gguf_types import FILE_TYPES, TYPES, bits_of
from pytest_quantgate.errors import CheckpointError
from pytest_quantgate.files import MalformedError

SECONDS = 1.0


def refusal(path: Path) -> str:
    """Return why a file is refused; it must be one printable line with a next step, and come at once."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        preflight(path)
    assert time.monotonic() - began < SECONDS
    message = str(caught.value)
    assert message.isprintable()
    assert ";" in message
    return message


def test_a_sound_file_is_described(tmp_path: Path) -> None:
    """Sizes, types, shapes and the tokenizer come from the header alone."""
    path = gguf_files.write(tmp_path)
    found = preflight(path)
    assert found.is_gguf
    assert (found.path, found.folder) == (path, tmp_path)
    assert found.weight_files == {"model.gguf": path.stat().st_size}
    info = found.tensors["blk.0.attn_q.weight"]
    assert (info.dtype, info.shape, info.nbytes, info.file) == ("Q4_K", (2, 256), 288, "model.gguf")
    assert found.config["model_type"] == "qwen2"
    assert (found.config["hidden_size"], found.config["num_hidden_layers"]) == (64, 2)
    assert (found.config["vocab_size"], found.config["tie_word_embeddings"]) == (3, True)
    assert found.quantization == {
        "quant_method": "gguf",
        "bits": 4,
        "file_type": "Q4_K_M",
        "types": {"Q4_K": 1},
    }
    assert (found.has_tokenizer, found.has_chat_template) == (True, False)


def test_a_float_file_is_not_quantized_and_a_template_is_seen(tmp_path: Path) -> None:
    metadata = {**METADATA, "tokenizer.chat_template": (STRING, "{{ messages }}")}
    found = preflight(
        gguf_files.write(tmp_path, metadata=metadata, tensors={"output.weight": ((64, 4), F16)})
    )
    assert found.quantization is None
    assert found.has_chat_template
    assert found.config["tie_word_embeddings"] is False


def test_the_offsets_lead_to_the_bytes(tmp_path: Path) -> None:
    """What stands at a tensor's offset is its data, not the padding before it."""
    data = bytearray(gguf_files.gguf(tensors={"a": ((3,), 0), "b": ((2,), 0)}))
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    header = read_gguf(path, "x.gguf")
    assert header.offsets["b"] - header.offsets["a"] == 32
    assert header.offsets["a"] % 32 == 0
    assert header.offsets["b"] + 32 == len(data)


def test_the_tables_are_those_of_the_gguf_package() -> None:
    """Every type has ggml's number, block and bytes; every file type llama.cpp's name."""
    constants = pytest.importorskip("gguf.constants")
    theirs = {
        int(kind): (kind.name, *constants.GGML_QUANT_SIZES[kind]) for kind in constants.GGMLQuantizationType
    }
    assert {number: tuple(kind) for number, kind in TYPES.items()} == theirs
    names = {int(kind): kind.name for kind in constants.LlamaFileType if kind.name != "GUESSED"}
    assert {
        number: name.removeprefix("MOSTLY_").removeprefix("ALL_") for number, name in names.items()
    } == FILE_TYPES


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("Q8_0", 8),
        ("Q6_K", 6),
        ("Q4_K", 4),
        ("IQ4_NL", 4),
        ("IQ2_XXS", 2),
        ("TQ1_0", 1),
        ("F16", 0),
        ("BF16", 0),
        ("I32", 0),
    ],
)
def test_nominal_bits(name: str, bits: int) -> None:
    assert bits_of(name) == bits


# --- damaged


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    """Wherever the end is, it is refused, and the message says in which part."""
    data = gguf_files.gguf()
    whole = preflight(gguf_files.write(tmp_path)).tensors["blk.0.attn_norm.weight"]
    header = read_gguf(tmp_path / "model.gguf", "model.gguf")
    needed = header.offsets["blk.0.attn_norm.weight"] + whole.nbytes
    path = tmp_path / "cut.gguf"
    said = set()
    for size in range(needed):
        path.write_bytes(data[:size])
        with pytest.raises(MalformedError) as caught:
            read_gguf(path, path.name)
        said.add(str(caught.value).split("(")[0].strip())
    assert said >= {"truncated inside the metadata", "truncated inside the list of tensors", "truncated"}
    path.write_bytes(data[:needed])
    assert read_gguf(path, path.name).tensors == {
        name: type(info)(info.dtype, info.shape, info.nbytes, "cut.gguf")
        for name, info in header.tensors.items()
    }


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"magic": b"GGML"}, "begins with b'GGML'"),
        ({"magic": b"PK\x03\x04"}, "give a GGUF file"),
        ({"version": 1}, "of version 1"),
        ({"version": 4}, "of version 4"),
        ({"version": 3 << 24}, "big-endian"),
        ({"counts": (HUGE, None)}, "too many tensors"),
        ({"counts": (None, HUGE)}, "too much metadata"),
        ({"counts": (0, None)}, "no tensor at all"),
        ({"counts": (None, 50)}, "truncated|metadata key"),
        ({"counts": (50, None)}, "truncated|tensor"),
        ({"metadata": {}}, "no general.architecture"),
        ({"metadata": {"general.architecture": (UINT32, 3)}}, "no general.architecture"),
        ({"metadata": {**METADATA, "general.alignment": (UINT32, 33)}}, "a power of 2"),
        ({"metadata": {**METADATA, "general.alignment": (UINT32, 0)}}, "a power of 2"),
        ({"metadata": {**METADATA, "qwen2.block_count": (UINT32, 0)}}, '"num_hidden_layers" is 0'),
        (
            {"metadata": {**METADATA, "qwen2.attention.head_count": (UINT32, 3)}},
            "a divisor of hidden_size 64",
        ),
        ({"metadata": {**METADATA, "qwen2.attention.head_count_kv": (UINT32, 1 << 20)}}, "from 1 to 65536"),
        ({"metadata": {**METADATA, "general.architecture": (STRING, "a b")}}, '"model_type" is'),
        (
            {"metadata": {**METADATA, "qwen2.rope.dimension_count": (UINT32, 1 << 30)}},
            "rope.dimension_count is",
        ),
        ({"tensors": {"x": ((64,), 4)}}, "of the type 4"),
        ({"tensors": {"x": ((64,), 999)}}, "of the type 999"),
        ({"tensors": {"x": ((255, 2), Q4_K)}}, "multiple of 256"),
        ({"tensors": {"x": ((HUGE, 4), F16)}}, "less than 2\\^63"),
        ({"tensors": {"x": ((0, 4), F16)}}, "less than 2\\^63"),
        ({"tensors": {"x": ((), F16)}}, "0 dimensions"),
        ({"tensors": {"x": ((1, 1, 1, 1, 1), F16)}}, "5 dimensions"),
        ({"tensors": {"x" * 65: ((64,), F16)}}, "a tensor name of 65 bytes"),
        ({"tensors": {"a\nb": ((64,), F16)}}, "printable"),
        ({"places": {"blk.0.attn_norm.weight": 64}}, "begins at 64"),
        ({"places": {"blk.0.attn_q.weight": HUGE}}, "begins at"),
        ({"tensors": {"x": ((1 << 40,), F16)}}, "truncated"),
    ],
)
def test_damaged_files(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """Each fault has a message of its own."""
    path = gguf_files.write(tmp_path, **options)
    with pytest.raises(CheckpointError, match=said):
        preflight(path)
    refusal(path)


def with_value(raw: bytes) -> bytes:
    """Return a file whose one metadata entry has these bytes for its type and value."""
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + gguf_files.string("k") + raw + bytes(64)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (struct.pack("<I", 13), "of the type 13"),
        (struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1), "an array of the type 9"),
        (struct.pack("<I", ARRAY) + struct.pack("<IQ", STRING, HUGE), "strings \\(allowed"),
        (struct.pack("<I", ARRAY) + struct.pack("<IQ", STRING, 1 << 21), "truncated"),
        (struct.pack("<I", ARRAY) + struct.pack("<IQ", 6, HUGE), "truncated"),
        (struct.pack("<I", STRING) + struct.pack("<Q", HUGE), "truncated"),
        (struct.pack("<I", STRING) + struct.pack("<Q", (1 << 64) - 1), "truncated"),
    ],
)
def test_counts_in_the_metadata_allocate_nothing(tmp_path: Path, raw: bytes, said: str) -> None:
    """A length that the file cannot hold ends with the file, not with the memory."""
    path = tmp_path / "x.gguf"
    path.write_bytes(with_value(raw))
    with pytest.raises(CheckpointError, match=said):
        preflight(path)


@pytest.mark.parametrize("what", ["metadata", "tensor"])
def test_a_name_twice(tmp_path: Path, what: str) -> None:
    data = gguf_files.gguf(tensors={"aa": ((8,), 0), "ab": ((8,), 0)})
    old, new = (b"qwen2.block_count", b"general.file_type") if what == "metadata" else (b"ab", b"aa")
    path = tmp_path / "x.gguf"
    path.write_bytes(data.replace(old, new))
    assert "twice" in refusal(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_flipped_byte_never_gives_anything_but_a_refusal(data: Any) -> None:
    """Any byte changed anywhere: a described file, or one clear error."""
    raw = bytearray(gguf_files.gguf())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flipped.gguf"
        path.write_bytes(raw)
        assert outcome(path).isprintable()


def outcome(path: Path) -> str:
    """Return why a file is refused; nothing if it is not."""
    try:
        preflight(path)
    except CheckpointError as error:
        return str(error)
    return ""


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """A fifo does not hang, a link out of the folder is not followed, nothing is not a file."""
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal(tmp_path / "pipe.gguf")
    home = tmp_path / "home"
    gguf_files.write(tmp_path, "real.gguf")
    home.mkdir()
    (home / "link.gguf").symlink_to(tmp_path / "real.gguf")
    assert "out of the folder" in refusal(home / "link.gguf")
    assert "missing" in refusal(home / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    assert "begins with b''" in refusal(tmp_path / "empty.gguf")


# --- where it lies


def test_a_path_resolves_to_the_file(tmp_path: Path) -> None:
    gguf_files.write(tmp_path)
    assert resolve("model.gguf", None, root=tmp_path) == tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve("./other.gguf", None, root=tmp_path)


def test_a_folder_with_one_file_is_that_model(tmp_path: Path) -> None:
    """Several are a question, which is asked; beside safetensors a GGUF file is not looked at."""
    gguf_files.write(tmp_path)
    (tmp_path / "README.md").write_text("x")
    found = preflight(tmp_path)
    assert (found.path, found.folder, found.is_gguf) == (tmp_path, tmp_path, True)
    assert fingerprint(found) == fingerprint(preflight(tmp_path / "model.gguf"))
    gguf_files.write(tmp_path, "other.gguf")
    assert "2 GGUF models" in refusal(tmp_path)


def test_the_fingerprint_is_the_contents(tmp_path: Path) -> None:
    """Neither name nor neighbors count; one byte of data does; a file that changes is noticed."""
    one = gguf_files.write(tmp_path / "a")
    other = gguf_files.write(tmp_path / "b", "renamed.gguf")
    (tmp_path / "b" / "tokenizer_config.json").write_text("{}")
    found = preflight(one)
    assert fingerprint(found) == fingerprint(preflight(other))
    data = bytearray(one.read_bytes())
    data[-1] ^= 1
    one.write_bytes(data)
    assert fingerprint(preflight(one)) != fingerprint(preflight(other))
    with pytest.raises(CheckpointError, match="changed while it was used"):
        check_unchanged(found)


def parts(folder: Path, count: int = 2, **wrong: Any) -> Path:
    """Write a model in parts; return the first."""
    for number in range(count):
        metadata = {
            **(METADATA if number == 0 else {}),  # as llama-gguf-split leaves it
            "split.count": (2, wrong.get("claimed", count)),
            "split.no": (2, wrong.get("number", number)),
        }
        tensors = {wrong.get("tensor", f"t{number}"): ((64, 4), F16)}
        name = f"m-{number + 1:05}-of-{count:05}.gguf"
        gguf_files.write(folder, name, metadata=metadata, tensors=tensors)
    return folder / f"m-00001-of-{count:05}.gguf"


def test_a_model_in_parts(tmp_path: Path) -> None:
    """All parts are one model, named by the first or by the folder."""
    first = parts(tmp_path, 3)
    found = preflight(first)
    assert list(found.tensors) == ["t0", "t1", "t2"]
    assert len(found.weight_files) == 3
    assert fingerprint(found) == fingerprint(preflight(tmp_path))
    assert "name the first part" in refusal(tmp_path / "m-00002-of-00003.gguf")
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    assert "missing" in refusal(first)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"claimed": 5}, "part 0 of 5"), ({"number": 0}, "part 0 of 2"), ({"tensor": "t"}, "is also in")],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    assert said in refusal(parts(tmp_path, **wrong))
