"""Tests of the checks that a model folder passes before any framework sees it."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import CONFIG, INDEX, raw, tensor, weights, write_model, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.checkpoint.identity import fingerprint
from pytest_quantgate.checkpoint.preflight import check_unchanged, preflight
from pytest_quantgate.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 1.0
"""A bad checkpoint is refused in less."""


def refusal(folder: Path, **options: bool) -> str:
    """Return why a folder is refused; it must be one printable line, and come at once."""
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        preflight(folder, **options)
    took = time.monotonic() - began
    message = str(caught.value)
    assert took < SECONDS, f"{took:.2f} s"
    assert message.isprintable()
    assert ";" in message, f"no next step: {message}"
    return message


def test_a_sound_model_passes_and_is_described(tmp_path: Path) -> None:
    """Names, sizes, shapes and dtypes are those of the files."""
    found = preflight(write_model(tmp_path, {"tokenizer.json": "{}", "chat_template.jinja": "{{ x }}"}))
    info = found.tensors["w"]
    assert (info.dtype, info.shape, info.nbytes, info.file) == ("F32", (2,), 8, "model.safetensors")
    assert found.weight_files == {"model.safetensors": (tmp_path / "model.safetensors").stat().st_size}
    assert (found.config, found.quantization) == (CONFIG, None)
    assert (found.has_tokenizer, found.has_chat_template) == (True, True)


def test_a_sharded_model_passes_with_the_tensors_of_all_shards(tmp_path: Path) -> None:
    """The union of the shards is the model."""
    found = preflight(write_shards(tmp_path))
    assert {name: info.file for name, info in found.tensors.items()} == {
        "a": "x-1.safetensors",
        "b": "x-2.safetensors",
    }
    assert (found.has_tokenizer, found.has_chat_template) == (False, False)


@pytest.mark.parametrize(
    "dtype_bytes", [("BF16", 2), ("F16", 2), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("I64", 8)]
)
def test_every_dtype_has_its_size(tmp_path: Path, dtype_bytes: tuple[str, int]) -> None:
    """Six elements take six times the dtype's bytes, and not one byte less."""
    dtype, size = dtype_bytes
    sound = weights({"w": tensor(dtype, [2, 3], [0, 6 * size])}, bytes(6 * size))
    assert (
        preflight(write_model(tmp_path / "a", {"model.safetensors": sound})).tensors["w"].nbytes == 6 * size
    )
    short = weights({"w": tensor(dtype, [2, 3], [0, 6 * size - 1])}, bytes(6 * size - 1))
    assert "dtype and shape ask for" in refusal(write_model(tmp_path / "b", {"model.safetensors": short}))


def test_elements_below_a_byte_must_fill_bytes(tmp_path: Path) -> None:
    """Two 4-bit elements are one byte; three are refused."""
    even = weights({"w": tensor("F4", [2], [0, 1])}, b"\0")
    assert preflight(write_model(tmp_path / "a", {"model.safetensors": even})).tensors["w"].nbytes == 1
    odd = weights({"w": tensor("F4", [3], [0, 1])}, b"\0")
    assert "whole bytes" in refusal(write_model(tmp_path / "b", {"model.safetensors": odd}))


def many(count: int) -> bytes:
    """Return a header of so many empty tensors."""
    return (
        b"{"
        + b",".join(b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count))
        + b"}"
    )


HEADERS: dict[str, tuple[bytes, str]] = {
    "04 empty file": (b"", "an empty file"),
    "05 seven bytes": (b"1234567", "truncated"),
    "12 LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "13 HTML page": (b"<!DOCTYPE html><html>", "a web page"),
    "14 pickle": (b"\x80\x04\x95" + bytes(40), "a pickle"),
    "15 zip": (b"PK\x03\x04" + bytes(40), "a zip or .pt archive"),
    "16 gguf": (b"GGUF" + bytes(40), "a GGUF file"),
    "21 length 0": (raw(b""), "a header of 0 bytes"),
    "22 length 2^62": (struct.pack("<Q", 1 << 62) + b"{}", "a header of 4611686018427387904 bytes"),
    "23 above the limit": (struct.pack("<Q", 100_000_001) + b"{}", "a header of 100000001 bytes"),
    "24 past the end": (struct.pack("<Q", 1000) + b"{}", "truncated inside the header"),
    "25 not UTF-8": (raw(b'{"\xff":1}'), "not UTF-8"),
    "26 not JSON": (raw(b"{nonsense}"), "not JSON"),
    "27 a list": (raw(b"[1, 2]"), "begins with"),
    "27 a number": (raw(b"17"), "begins with"),
    "28 deep": (raw(b'{"a":' * 100_000), "too deep"),
    "29 a name twice": (raw(b'{"w":{},"w":{}}'), "the key 'w' twice"),
    "29 a field twice": (raw(b'{"w":{"dtype":"F32","dtype":"F16"}}'), "the key 'dtype' twice"),
    "30 unknown dtype": (weights({"w": tensor("F31")}), "the dtype 'F31'"),
    "31 dtype number": (weights({"w": tensor(3)}), "the dtype '3'"),
    "31 dtype list": (weights({"w": tensor(["F32"])}), "the dtype"),
    "32 no shape": (weights({"w": {"dtype": "F32", "data_offsets": [0, 8]}}), "other fields"),
    "33 negative": (weights({"w": tensor(shape=[-2])}), "the shape [-2]"),
    "33 true": (weights({"w": tensor(shape=[True, 2])}), "the shape"),
    "34 overflow": (weights({"w": tensor(shape=[1 << 62, 1 << 62])}), "dtype and shape ask for"),
    "35 other span": (weights({"w": tensor(shape=[3])}), "dtype and shape ask for 12"),
    "36 past the end": (weights({"w": tensor(shape=[4], offsets=[0, 16])}), "truncated"),
    "37 reversed": (weights({"w": tensor(offsets=[8, 0])}), "dtype and shape ask for"),
    "38 overlap": (weights({"a": tensor(), "b": tensor(offsets=[4, 12])}, bytes(12)), "overlaps"),
    "39 hole": (weights({"a": tensor(), "b": tensor(offsets=[12, 20])}, bytes(20)), "a hole before it"),
    "39 hole at 0": (weights({"w": tensor(offsets=[8, 16])}, bytes(16)), "a hole before it"),
    "40 trailing": (weights({"w": tensor()}, bytes(9)), "1 bytes after the last tensor"),
    "41 truncated": (weights({"w": tensor()}, bytes(7)), "truncated (found 7 bytes"),
    "42 float offsets": (weights({"w": tensor(offsets=[0.0, 8.0])}), "the offsets"),
    "42 three offsets": (weights({"w": tensor(offsets=[0, 4, 8])}), "the offsets"),
    "43 metadata": (weights({"__metadata__": {"a": 1}, "w": tensor()}), "map of strings"),
    "43 metadata list": (weights({"__metadata__": ["a"], "w": tensor()}), "map of strings"),
    "44 20 MB metadata": (
        weights({"__metadata__": {"a": "x" * 20_000_000}, "w": tensor()}),
        "a header of 200",
    ),
    "45 10^6 tensors": (raw(many(1_000_000)), "a header of"),
    "45 100,001 tensors": (raw(many(100_001)), "too many tensors (found 100001"),
    "46 traversal": (weights({"../../x": tensor()}), "the tensor name '../../x'"),
    "46 inner traversal": (weights({"a/../x": tensor()}), "the tensor name"),
    "47 NUL": (weights({"a\0b": tensor()}), r"a\x00b"),
    "47 ESC": (weights({"a\x1b[2Jb": tensor()}), r"a\x1b[2Jb"),
    "47 newline": (weights({"a\n::error::b": tensor()}), r"a\n::error::b"),
    "47 command": (weights({"::error::b": tensor()}), "the tensor name '::error::b'"),
    "48 empty name": (weights({"": tensor()}), "the tensor name ''"),
    "48 long name": (weights({"a" * 257: tensor()}), "the tensor name"),
    "49 BOM": (raw(b"\xef\xbb\xbf{}"), "begins with"),
    "50 blanks": (raw(b"   " + json.dumps({"w": tensor()}).encode(), bytes(8)), "begins with"),
    "51 extra field": (weights({"w": tensor(extra=1)}), "other fields"),
    "51 tensor is a list": (weights({"w": []}), "other fields"),
    "52 2,000 dimensions": (weights({"w": tensor(shape=[1] * 2000, offsets=[0, 4])}, bytes(4)), "at most 32"),
    "53 no tensor": (weights({}, b""), "no tensor at all"),
    "53 only metadata": (weights({"__metadata__": {"format": "pt"}}, b""), "no tensor at all"),
    "55 zeros": (bytes(4096), "a header of 0 bytes"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_bad_weight_files_are_refused(tmp_path: Path, case: str) -> None:
    """Each fault of a safetensors file is one line that names the file and the fault."""
    content, expected = HEADERS[case]
    message = refusal(write_model(tmp_path, {"model.safetensors": content}))
    assert message.startswith(f"{tmp_path / 'model.safetensors'}: ")
    assert expected in message


def config(**fields: Any) -> str:
    """Return a config.json with some fields replaced."""
    return json.dumps({**CONFIG, **fields})


CONFIGS: dict[str, tuple[bytes | str, str]] = {
    "70 null": ("null", "None (allowed: a JSON object)"),
    "70 number": ("7", "7 (allowed: a JSON object)"),
    "70 list": ("[]", "(allowed: a JSON object)"),
    "70 empty": ("", "not JSON"),
    "70 text": ("model", "not JSON"),
    "71 deep": ('{"a":' * 100_000, "too deep"),
    "71 deep within": ('{"model_type":"qwen2","a":' + "[" * 70 + "]" * 70 + "}", "too deep"),
    "72 100 MB": (b" " * 100_000_000, "too large (found 100000000 bytes"),
    "73 5,000 digits": ('{"model_type":"qwen2","hidden_size":' + "9" * 5000 + "}", "not JSON"),
    "74 twice": ('{"model_type":"llama","model_type":"gpt2"}', "the key 'model_type' twice"),
    "75 none": ("{}", '"model_type" is None'),
    "75 list": (config(model_type=["qwen2"]), '"model_type" is'),
    "75 traversal": (config(model_type="../../x"), '"model_type" is'),
    "75 control": (config(model_type="\x1b[2J"), r"\x1b[2J"),
    "76 text": (config(hidden_size="64"), "\"hidden_size\" is '64'"),
    "76 negative": (config(hidden_size=-64), '"hidden_size" is -64'),
    "76 10^15": (config(hidden_size=10**15), '"hidden_size" is 1000000000000000'),
    "76 true": (config(hidden_size=True), '"hidden_size" is True'),
    "76 nested": (config(text_config={"hidden_size": -1}), '"text_config.hidden_size" is -1'),
    "77 10^9 layers": (config(num_hidden_layers=10**9), '"num_hidden_layers"'),
    "78 no heads": (config(num_attention_heads=0), '"num_attention_heads" is 0'),
    "78 7 of 64": (
        config(num_attention_heads=7),
        '"num_attention_heads" is 7 (allowed: a divisor of hidden_size 64)',
    ),
    "78 groups": (config(num_key_value_heads=3), '"num_key_value_heads" is 3'),
    "79 NaN": ('{"model_type":"qwen2","x":NaN}', "the number NaN"),
    "79 infinity": ('{"model_type":"qwen2","x":-Infinity}', "the number -Infinity"),
    "79 1e999": ('{"model_type":"qwen2","x":1e999}', "the number 1e999"),
    "80 method": (config(quantization_config={"quant_method": "magic"}), "\"quant_method\" is 'magic'"),
    "80 method list": (config(quantization_config={"quant_method": ["gptq"]}), '"quant_method" is'),
    "80 text": (config(quantization_config="gptq"), "a quantization section that is 'gptq'"),
    "80 bits": (config(quantization_config={"quant_method": "gptq", "bits": 13}), '"bits" is 13'),
    "80 bits true": (config(quantization_config={"quant_method": "gptq", "bits": True}), '"bits" is True'),
    "80 group": (config(quantization_config={"quant_method": "gptq", "group_size": 0}), '"group_size" is 0'),
    "80 desc_act": (config(quantization_config={"quant_method": "gptq", "desc_act": "no"}), '"desc_act" is'),
    "81 labels": (config(num_labels=10**7), '"num_labels" is 10000000'),
    "81 named labels": (
        config(id2label=dict.fromkeys(map(str, range(10**5 + 1)), 0)).replace(" ", ""),
        '"id2label" has 100001 entries',
    ),
    "82 BOM": (b"\xef\xbb\xbf{}", "not JSON"),
    "82 not UTF-8": (b'{"model_type":"\xff"}', "not UTF-8"),
    "89 dtype": (config(dtype="int4"), "\"dtype\" is 'int4'"),
    "89 torch_dtype": (config(torch_dtype=16), '"torch_dtype" is 16'),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_configurations_are_refused(tmp_path: Path, case: str) -> None:
    """Each fault of config.json is one line that names the file, the field and what is allowed."""
    content, expected = CONFIGS[case]
    message = refusal(write_model(tmp_path, {"config.json": content}))
    assert message.startswith(f"{tmp_path / 'config.json'}: ")
    assert expected in message


@pytest.mark.parametrize(
    "fields",
    [
        {"num_attention_heads": 7, "head_dim": 16},
        {"num_key_value_heads": None, "dtype": None},
        {"intermediate_size": [128, 256]},
        {"dtype": "bfloat16", "torch_dtype": "torch.float16"},
        {"quantization_config": {"quant_method": "GPTQ", "bits": 4, "group_size": -1, "desc_act": True}},
        {"quantization_config": None, "vocab_size": 151_936, "num_hidden_layers": 126},
    ],
)
def test_configurations_of_real_models_pass(tmp_path: Path, fields: dict[str, Any]) -> None:
    """What published models write is accepted."""
    assert preflight(write_model(tmp_path, {"config.json": config(**fields)})).config == {**CONFIG, **fields}


INDEXES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "56 traversal": (lambda f: write_shards(f, {"a": "../../../../etc/passwd"}), "'../../../../etc/passwd'"),
    "56 .safetensors": (lambda f: write_shards(f, {"a": "../y.safetensors"}), "'../y.safetensors'"),
    "57 absolute": (lambda f: write_shards(f, {"a": "/etc/passwd"}), "'/etc/passwd'"),
    "57 absolute .safetensors": (lambda f: write_shards(f, {"a": "/y.safetensors"}), "'/y.safetensors'"),
    "58 shard missing": (lambda f: write_shards(f, x_2=None), "x-2.safetensors: missing"),
    "59 no metadata": (lambda f: write_model(f, {"model.safetensors": None, INDEX: '{"weight_map":{"a":"x.safetensors"}}'}), "no metadata"),
    "59 metadata list": (lambda f: write_shards(f, metadata=[1]), "no metadata"),
    "60 no weight_map": (lambda f: write_model(f, {"model.safetensors": None, INDEX: '{"metadata":{}}'}), "no weight_map"),
    "61 list": (lambda f: write_model(f, {"model.safetensors": None, INDEX: "[]"}), "no weight_map"),
    "61 weight_map list": (lambda f: write_shards(f, ["a"]), "no weight_map"),
    "62 number": (lambda f: write_shards(f, {"a": 1}), "in the file 1"),
    "62 null": (lambda f: write_shards(f, {"a": None}), "in the file None"),
    "63 empty": (lambda f: write_shards(f, {}), "an empty weight_map"),
    "64 NUL": (lambda f: write_shards(f, {"a": "x\0.safetensors"}), r"'x\\x00.safetensors'".replace("\\\\", "\\")),
    "64 newline": (lambda f: write_shards(f, {"a\n": "x\n.safetensors"}), r"x\n.safetensors"),
    "65 pickle": (lambda f: write_shards(f, {"a": "pytorch_model.bin"}), "'pytorch_model.bin'"),
    "66 other shard": (lambda f: write_shards(f, {"a": "x-2.safetensors", "b": "x-1.safetensors"}), "'a' listed in x-2.safetensors (found in x-1.safetensors)"),
    "66 not listed": (lambda f: write_shards(f, {"a": "x-1.safetensors"}, x_1=weights({"a": tensor(), "c": tensor(offsets=[8, 16])}, bytes(16))), "'c' listed in no file"),
    "66 not there": (lambda f: write_shards(f, {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-2.safetensors"}), "'c' listed in x-2.safetensors (found in none)"),
    "67 twice": (lambda f: write_shards(f, x_2=weights({"a": tensor()})), "'a' is also in x-1.safetensors"),
    "68 total_size": (lambda f: write_shards(f, metadata={"total_size": 17}), '"total_size" is 17 (the shards hold 16)'),
    "69 10^6 entries": (lambda f: write_shards(f, {f"t{i}": "x-1.safetensors" for i in range(1_000_000)}), "too many entries (found 1000003, allowed: 500000)"),
    "two models": (lambda f: (write_shards(f), write_model(f)), "one model or two?"),
    "no index": (lambda f: write_shards(f) and (f / INDEX).unlink(), "2 safetensors files and no"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_bad_indexes_are_refused(tmp_path: Path, case: str) -> None:
    """Each fault of a shard index is one line, and no shard outside the folder is opened."""
    write, expected = INDEXES[case]
    write(tmp_path)
    assert expected in refusal(tmp_path)


def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a writer of a sound model in which one file is made otherwise."""

    def write(folder: Path) -> None:
        write_model(folder, {name: None})
        make(folder / name)

    return write


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "01 no folder": (lambda f: None, "no model folder"),
    "01 a file": (lambda f: f.write_text("x"), "no model folder"),
    "02 no config": (lambda f: write_model(f, {"config.json": None}), "config.json: missing"),
    "03 no weights": (lambda f: write_model(f, {"model.safetensors": None}), "no weights"),
    "06 folder": (replaced("model.safetensors", Path.mkdir), "not a regular file"),
    "06 config is a folder": (replaced("config.json", Path.mkdir), "not a regular file"),
    "07 fifo": (replaced("model.safetensors", os.mkfifo), "not a regular file"),
    "07 config is a fifo": (replaced("config.json", os.mkfifo), "not a regular file"),
    "08 link": (replaced("model.safetensors", lambda p: p.symlink_to("/etc/passwd")), "leads out of the folder"),
    "08 config is a link": (replaced("config.json", lambda p: p.symlink_to("/etc/passwd")), "leads out of the folder"),
    "09 loop": (replaced("model.safetensors", lambda p: p.symlink_to(p)), "cannot be read"),
    "10 dangling": (replaced("model.safetensors", lambda p: p.symlink_to("gone")), "cannot be read"),
    "17 pickle": (lambda f: write_model(f, {"model.safetensors": None, "pytorch_model.bin": b"\x80"}), "pickle refused"),
    "17 .pt": (lambda f: write_model(f, {"model.safetensors": None, "consolidated.00.pth": b"\x80"}), "pickle refused"),
    "17 no weights": (lambda f: write_model(f, {"model.safetensors": None, "training_args.bin": b"\x80"}), "no weights"),
    "18 code": (lambda f: write_model(f, {"modeling_x.py": "print()"}), "custom code refused (has modeling_x.py"),
    "18 auto_map": (lambda f: write_model(f, {"config.json": config(auto_map={"AutoModel": "x.Y"})}), "custom code refused"),
    "18 tokenizer": (lambda f: write_model(f, {"tokenizer_config.json": {"auto_map": {}}}), "in tokenizer_config.json"),
    "adapter": (lambda f: write_model(f, {"adapter_config.json": "{}"}), "an adapter"),
    "94 100 MB": (replaced("tokenizer.json", lambda p: (p.touch(), os.truncate(p, 101 << 20))), "too large"),
    "96 template": (lambda f: write_model(f, {"chat_template.jinja": "x" * (2 << 20)}), "too large"),
    "96 inner template": (lambda f: write_model(f, {"tokenizer_config.json": {"chat_template": "x" * (2 << 20)}}), "chat template"),
    "tokenizer list": (lambda f: write_model(f, {"tokenizer_config.json": "[]"}), "no JSON object"),
    "quantize_config": (lambda f: write_model(f, {"quantize_config.json": '{"bits": 13}'}), '"bits" is 13'),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_folders_are_refused(tmp_path: Path, case: str) -> None:
    """Files that are missing, links, fifos, pickles or code are one line; nothing blocks and nothing is followed."""
    write, expected = FILES[case]
    write(tmp_path / "model")
    assert expected in refusal(tmp_path / "model")


def test_no_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be opened names itself; the mode bits cannot be tested as root."""
    folder = write_model(tmp_path)
    real = os.open

    def denied(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("model.safetensors"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)
    assert "model.safetensors: cannot be read (Permission denied)" in refusal(folder)


def test_pickle_and_code_pass_only_when_allowed(tmp_path: Path) -> None:
    """Each permission opens its own door and not the other's."""
    pickled = write_model(tmp_path / "p", {"model.safetensors": None, "pytorch_model.bin": b"\x80"})
    assert preflight(pickled, allow_pickle=True).weight_files == {"pytorch_model.bin": 1}
    assert "pickle refused" in refusal(pickled, allow_code=True)
    coded = write_model(tmp_path / "c", {"modeling_x.py": ""})
    assert preflight(coded, allow_code=True).tensors
    assert "custom code refused" in refusal(coded, allow_pickle=True)


def test_the_hub_cache_may_link_to_its_blobs(tmp_path: Path) -> None:
    """Links from a snapshot into the repository's blobs, or on into the blobs shared by all, are followed."""
    repository = tmp_path / "models--a--b"
    snapshot = write_model(repository / "snapshots" / "0")
    (repository / "blobs").mkdir()
    shared = tmp_path / "blobs" / "ab" / "abcd"
    shared.parent.mkdir(parents=True)
    (snapshot / "config.json").rename(repository / "blobs" / "x")
    (snapshot / "config.json").symlink_to("../../blobs/x")
    (snapshot / "model.safetensors").rename(shared)
    (repository / "blobs" / "y").symlink_to("../../blobs/ab/abcd")
    (snapshot / "model.safetensors").symlink_to("../../blobs/y")
    assert preflight(snapshot).config == CONFIG
    (repository / "blobs" / "y").unlink()
    (repository / "blobs" / "y").symlink_to("/etc/passwd")
    assert "leads out of the folder" in refusal(snapshot)


def test_quantization_is_read_from_either_file(tmp_path: Path) -> None:
    """config.json wins over quantize_config.json, which older quantizers write."""
    section = {"quant_method": "gptq", "bits": 4}
    old = write_model(tmp_path / "a", {"quantize_config.json": section})
    assert preflight(old).quantization == section
    both = write_model(
        tmp_path / "b",
        {"quantize_config.json": {"bits": 8}, "config.json": config(quantization_config=section)},
    )
    assert preflight(both).quantization == section


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    """Quantizers name their only weight file as they like."""
    folder = write_model(
        tmp_path, {"model.safetensors": None, "gptq_model-4bit-128g.safetensors": weights({"w": tensor()})}
    )
    assert list(preflight(folder).weight_files) == ["gptq_model-4bit-128g.safetensors"]


@pytest.mark.parametrize("change", ["rewritten", "replaced", "removed", "same size and time"])
def test_weights_that_change_in_use_are_noticed(tmp_path: Path, change: str) -> None:
    """What is true before loading is compared with what is true after it."""
    folder = write_model(tmp_path)
    path = folder / "model.safetensors"
    sound = preflight(folder)
    check_unchanged(sound)
    before = path.stat()
    if change == "rewritten":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "removed":
        path.unlink()
    else:
        (folder / "other").write_bytes(path.read_bytes())
        os.utime(folder / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder / "other").replace(path)
    with pytest.raises(CheckpointError, match=r"changed while it was used|missing"):
        check_unchanged(sound)


SOUND = weights(
    {"__metadata__": {"format": "pt"}, "a": tensor(), "b": tensor("BF16", [1, 3], [8, 14])}, bytes(14)
)


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=3),
    length=st.integers(0, len(SOUND)) | st.just(len(SOUND)),
)
def test_damaged_bytes_are_refused_or_sound(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]], length: int
) -> None:
    """However a weight file is damaged, the answer is a checkpoint or a CheckpointError, and a cut is an error."""
    content = bytearray(SOUND)
    for position, value in edits:
        content[position] = value
    folder = write_model(tmp_path_factory.mktemp("m"), {"model.safetensors": bytes(content[:length])})
    try:
        found = preflight(folder)
    except CheckpointError as error:
        refused = error
    else:
        assert length == len(SOUND)
        assert sum(info.nbytes for info in found.tensors.values()) <= len(SOUND)
        assert fingerprint(found)
        return
    assert str(refused).isprintable()
