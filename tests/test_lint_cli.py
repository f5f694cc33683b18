"""`quantgate lint`: exit codes, formats, nothing heavy imported; and GGUF files, made here byte by byte."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import lint_models as models
import pytest
from lint_cases import section

from pytest_quantgate.cli import main
from pytest_quantgate.lint import RULES, lint

HEAVY = (
    *(
        "torch",
        "transformers",
        "tokenizers",
        "safetensors",
        "numpy",
        "gptqmodel",
        "gguf",
        "pytest",
        "sqlite3",
    ),
    *("pytest_quantgate.session", "pytest_quantgate.engine", "pytest_quantgate.backends"),
)


def given(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command here; return its exit code, output and errors."""
    try:
        code = main(["lint", *map(str, arguments)])
    except SystemExit as left:
        code = int(left.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A checkpoint that says 8 bits and is packed to 4."""
    return models.write(tmp_path / "bad", "gptq", quantization_config=section(bits=8))


def test_exit_codes(capsys, tmp_path, bad):
    """0 without an error, 1 with one, 1 under --strict for a warning, 4 for a mistake."""
    good = models.write(tmp_path / "good", "gptq")
    warned = models.write(tmp_path / "warned", "gptq", files={"README.md": "no licence"})
    assert given(capsys, good)[0] == 0
    assert given(capsys, good, "--strict")[0] == 0
    assert given(capsys, warned)[0] == 0
    assert given(capsys, warned, "--strict")[0] == 1
    assert given(capsys, warned, "--strict", "--ignore", "licence-missing")[0] == 0
    assert given(capsys, bad)[0] == 1
    assert given(capsys, bad, "--ignore", "QG115", "--ignore", "QG112")[0] == 0
    for mistake in (
        ["nowhere"],
        [good, "--baseline", "nowhere"],
        [good, "--ignore", "QG9"],
        [good, "--format", "xml"],
        [],
    ):
        code, out, err = given(capsys, *mistake)
        assert (code, out) == (4, "")
        assert len(err.splitlines()) == 1


def test_text_is_a_line_each_and_a_summary(capsys, bad):
    """Severity, rule, place, what, advice; the counts and the size at the end."""
    _, out, _ = given(capsys, bad)
    lines = out.splitlines()
    assert lines[0].startswith(
        "error   QG115 bits-differ: model.safetensors: model.layers.0.self_attn.q_proj.qweight"
    )
    assert "(and 27 more like it); quantize the model again" in lines[0]
    assert lines[-1].startswith(f"{bad}: 1 error, ")
    assert "4.42 in 28 packed modules" in lines[-1]


def test_json_is_versioned_and_whole(capsys, bad):
    """What lint found, as builtin types."""
    _, out, _ = given(capsys, bad, "--format", "json")
    document = json.loads(out)
    assert document["format"] == "quantgate-lint/1"
    assert document["counts"] == lint(bad).counts()
    assert len(document["findings"]) == len(lint(bad).findings)
    assert document["findings"][0]["rule"] == "QG115"
    assert document["facts"]["packed_modules"] == 28


SARIF: dict[str, Any] = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"enum": ["2.1.0"]},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool"],
                "additionalProperties": False,
                "properties": {
                    "tool": {"$ref": "#/$defs/tool"},
                    "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                },
            },
        },
    },
    "$defs": {
        "tool": {
            "type": "object",
            "required": ["driver"],
            "properties": {"driver": {"type": "object", "required": ["name"], "properties": {
                "rules": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/rule"}}}}},
        },
        "rule": {
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": {"type": "string"},
                "name": {"type": "string"},
                "shortDescription": {"type": "object", "required": ["text"]},
                "defaultConfiguration": {"properties": {"level": {"enum": ["none", "note", "warning", "error"]}}},
            },
            "additionalProperties": False,
        },
        "result": {
            "type": "object",
            "required": ["message"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": -1},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "message": {"type": "object", "required": ["text"], "additionalProperties": False,
                            "properties": {"text": {"type": "string", "minLength": 1}}},
                "locations": {"type": "array", "items": {"type": "object", "properties": {"physicalLocation": {
                    "type": "object", "required": ["artifactLocation"], "properties": {"artifactLocation": {
                        "type": "object", "required": ["uri"], "properties": {
                            "uri": {"type": "string", "pattern": r"^[A-Za-z0-9._~!$&'()*+,;=:@/%-]+$"}}}}}}}},
            },
        },
    },
}  # fmt: skip
"""What the standard's schema asks of the parts that are written here, in its own words."""


def test_sarif_is_as_the_standard_says(capsys, bad, monkeypatch):
    """Structure, rules by index, and locations that a CI service finds: relative, with the characters of a URI."""
    monkeypatch.chdir(bad.parent)
    odd = models.write(bad.parent / "my model", "gptq", quantization_config=section(bits=8))
    for folder, beginning in ((odd.name, "my%20model/"), (bad, "file:///")):
        code, out, _ = given(capsys, folder, "--format", "sarif")
        document = json.loads(out)
        jsonschema.Draft7Validator(SARIF).validate(document)
        (run,) = document["runs"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert rules == list(RULES)
        assert len(run["results"]) == len(lint(bad).findings)
        for result in run["results"]:
            assert rules[result["ruleIndex"]] == result["ruleId"]
            uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            assert uri.startswith(beginning)
        assert code == 1


def test_output_goes_to_a_file(capsys, bad, tmp_path):
    """Whole or not at all; a place that cannot be written is a mistake."""
    code, out, _ = given(capsys, bad, "--format", "sarif", "--output", tmp_path / "new" / "lint.sarif")
    assert (code, out) == (1, "")
    assert json.loads((tmp_path / "new" / "lint.sarif").read_text())["version"] == "2.1.0"
    code, _, err = given(capsys, bad, "--output", bad / "config.json" / "x")
    assert code == 4
    assert "cannot be written" in err


def test_a_terminal_that_only_knows_ascii(tmp_path, bad):
    """What it cannot show is written as an escape; it is no traceback."""
    (bad / "gr\u00fcn.py").touch()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "pytest_quantgate.cli", "lint", str(bad)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "gr\\xfcn.py: is code" in done.stdout


def test_nothing_heavy_is_imported(run_python, tmp_path):
    """No framework, no tokenizer library, no numpy: looked at when the interpreter exits."""
    folder, baseline = models.write(tmp_path / "m", "gptq"), models.write(tmp_path / "b")
    printed = run_python(
        "import sys, atexit\n"
        f"atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules]))\n"
        "from pytest_quantgate.cli import main\n"
        f"code = main(['lint', {str(folder)!r}, '--baseline', {str(baseline)!r}, '--output', {str(tmp_path / 'o')!r}])\n"
        "assert code == 0\n"
    )
    assert printed.strip().splitlines()[-1] == "[]"


# --- GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def typed(value: Any) -> bytes:
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value)


def gguf(
    layers: int = 2, said: int = 2, kind: int = 12, head: int = 14, names: str = "ffn_up",
    *, width: int = 256,
    **metadata: Any,
) -> bytes:  # fmt: skip
    """Return a GGUF file named as llama.cpp does; `kind` and `head` are types of matrices, "first" skips layer 0."""
    values: dict[str, Any] = {
        "general.architecture": "qwen2",
        "general.file_type": 15,
        "general.license": "mit",
        "qwen2.block_count": said,
        "qwen2.embedding_length": 256,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.chat_template": "{{ messages }}",
        **metadata,
    }
    values = {key: value for key, value in values.items() if value is not None}
    blocks = [
        f"blk.{n}.{name}.weight" for n in range(layers) for name in names.split() if n or name != "first"
    ]
    tensors = [("token_embd.weight", head), *((block, kind) for block in blocks)]
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values))
    start += b"".join(text(key) + typed(value) for key, value in values.items())
    data = b""
    for name, number in tensors:
        wide = (width, 256 // width) if name.startswith("blk") else (256, 1)
        start += text(name) + struct.pack("<IQQIQ", 2, *wide, number, len(data))
        size = {12: 144, 8: 8 * 34, 10: 84, 14: 210}[number]
        data += bytes(-(-size // 32) * 32)
    return start + bytes(-len(start) % 32) + data


GGUF = [
    ("QG801", gguf()[:-200], "truncated"),
    ("QG801", b"GGUF" + bytes(4), "truncated"),
    ("QG801", b"nonsense", "begins with"),
    ("QG203", gguf(said=3), "says 3 layers (its tensors have 2"),
    ("QG121", gguf(kind=8, width=64), "blk.0.ffn_up.weight has 64 inputs and is Q8_0 (2 of 3 matrices)"),
    ("QG115", gguf(kind=8), "says file type Q4_K_M (most weights have 8 bits"),
    (
        "QG202",
        gguf(**{"qwen2.embedding_length": 512, "tokenizer.ggml.tokens": ["a"]}),
        "(the metadata implies 1x512)",
    ),
    ("QG204", gguf(20, 20, names="ffn_up first"), "blk.0.first.weight is missing (19 of 20 layers have it)"),
    ("QG111", gguf(head=10), "token_embd.weight is quantized to Q2_K"),
    ("QG401", gguf(**{"tokenizer.ggml.model": None}), "has no tokenizer"),
    ("QG414", gguf(**{"tokenizer.chat_template": None}), "has no chat template"),
    ("QG604", gguf(**{"general.license": None}), "has no general.license"),
]


@pytest.mark.parametrize(
    ("rule", "content", "said"), GGUF, ids=[f"{rule}-{said[:20]}" for rule, _, said in GGUF]
)
def test_gguf_files_are_judged_by_their_header(capsys, tmp_path, rule, content, said):
    """Cut short, of other layers or types than said, without tokenizer, template or licence."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    found = [finding for finding in lint(file).findings if finding.rule == rule]
    assert found, lint(file).findings
    assert said in found[0].line()
    assert given(capsys, file)[0] == (1 if RULES[rule].severity == "error" else 0)


def test_a_sound_gguf_file(tmp_path):
    """Nothing is found, alone or as a folder's only file; against another network it is."""
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "model.gguf"
    file.write_bytes(gguf())
    assert lint(file).findings == ()
    assert lint(file.parent).findings == ()
    # 2 matrices of 256 weights in 144 bytes and one in 210
    assert lint(file).facts.bits == pytest.approx(8 * (2 * 144 + 210) / (3 * 256), abs=1e-3)
    rules = {finding.rule for finding in lint(file, models.write(tmp_path / "baseline")).findings}
    assert rules == {"QG210"}
    small = models.write(tmp_path / "small", made={"model.embed_tokens.weight": ("F16", (1, 8))})
    assert "QG502" in {finding.rule for finding in lint(file, small).findings}
