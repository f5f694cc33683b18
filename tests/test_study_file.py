"""The configuration file: what it may say, and every way to get it wrong."""

from __future__ import annotations

import pytest

from pytest_quantgate.errors import ConfigError, UnknownNameError, UsageError
from pytest_quantgate.study import read


def study_of(folder, text: str, name: str = "quantgate.toml"):
    file = folder / name
    file.write_text(text)
    return read(file, folder)


def test_both_forms_say_the_same(tmp_path):
    """`quantgate.toml` may leave the prefix out that `pyproject.toml` needs."""
    bare = study_of(tmp_path, 'baseline = "b"\n[variants.v]\nmodel = "m"\n[gates]\nr = "ppl < 1"\n')
    long = study_of(
        tmp_path,
        '[tool.quantgate]\nbaseline = "b"\n[tool.quantgate.variants.v]\nmodel = "m"\n'
        '[tool.quantgate.gates]\nr = "ppl < 1"\n',
        "pyproject.toml",
    )
    assert bare.baseline == long.baseline
    assert bare.variants == long.variants
    assert bare.gates == long.gates == (("r", "ppl < 1"),)


def test_no_file_is_an_empty_study(tmp_path):
    """Without a file there is nothing to test, and that is no error yet."""
    assert read(None, tmp_path).names == ()


def test_defaults_reach_every_model(tmp_path):
    """`dtype` and `device` of the study hold for baseline and variants that do not say otherwise."""
    study = study_of(
        tmp_path,
        'baseline = "b"\ndtype = "float16"\ndevice = "cpu"\n[variants.v]\nmodel = "m"\n'
        '[variants.w]\nmodel = "m"\ndtype = "float32"\n',
    )
    assert study.baseline is not None
    assert [table.dtype for table in (study.baseline, *study.variants)] == ["float16", "float16", "float32"]
    assert {table.device for table in study.variants} == {"cpu"}


def test_order_is_kept(tmp_path):
    """Variants are reported in the order of the file."""
    study = study_of(tmp_path, "".join(f'[variants.{name}]\nmodel = "m"\n' for name in ("z", "a", "m")))
    assert study.names == ("z", "a", "m")
    assert study.variant("a").model == "m"
    with pytest.raises(UnknownNameError, match="there are: a, m, z"):
        study.variant("nothing-like-it")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("baseline = ", "quantgate.toml"),
        ("baseline = 3", "write a path or hub id"),
        ("baseline = {}", "write a path or hub id"),
        ('baseline = { model = "b", bits = 4 }', "unknown key 'bits'"),
        ('basline = "b"', "did you mean 'baseline'"),
        ("variants = 3", "is not a table"),
        ("[variants]\nv = 3", "is not a table"),
        ("[variants.v]\n", "give either model"),
        ('[variants.v]\nmodel = ""', "non-empty string"),
        ('[variants.v]\nmodel = "m"\noptions = 3', "options"),
        ('[variants.v]\nmodel = "m"\noptions = { a = [1] }', "options"),
        ('[variants.v]\nquantize = "gptq"', "quantize"),
        ('[variants."a::b"]\nmodel = "m"', "cannot be a variant's name"),
        ("[gates]\nr = 3", "non-empty string"),
        ("gates = 3", "is not a table"),
        ('measure = "ppl"', "list of strings"),
        ("measure = [3]", "non-empty string"),
        ("dtype = 16", "non-empty string"),
        (
            '[variants.v]\nmodel = "m"\nbackend = "server"\noptions = { server = "http://h" }',
            "not by backend",
        ),
        ('[variants.v]\nserver = "http://me:pw@h:1"', "holds a key or a password"),
        ('[variants.v]\nserver = "http://h:1/v1?key=pw"', "holds a key or a password"),
        ('[variants.v]\nlaunch = "vllm serve x --port {port} --api-key sk-1"', "holds a key or a password"),
        ('[variants.v]\nlaunch = "x"\noptions = { server = "http://pw@h" }', "holds a key or a password"),
    ],
)
def test_mistakes(tmp_path, text, words):
    """Each mistake is one line that names the file and what to write."""
    with pytest.raises(UsageError, match=words) as caught:
        study_of(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "quantgate.toml" in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    """Bytes that are not UTF-8 are refused in one line."""
    file = tmp_path / "quantgate.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(file, tmp_path)
