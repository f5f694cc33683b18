"""Mistakes are usage errors: exit code 4, one message that points at the place, no traceback."""

from __future__ import annotations

import fakes
import pytest

HEAD = "from pytest_quantgate import *\n"


def refuse(study, *expected: str, arguments: tuple[str, ...] = ()) -> None:
    """Run, and require a usage error whose text has all the words, in order, in one run of lines."""
    result = study.run(*arguments)
    text = "\n".join(result.errlines + result.outlines)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    position = 0
    for words in expected:
        position = text.find(words, position)
        assert position >= 0, f"{words!r} is not in:\n{text}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "@quantgate(metric('ppl_dleta') < 1.0)",
            ["test_it.py:2", "unknown metric 'ppl_dleta'", "did you mean"],
        ),
        ("@quantgate('ppl_dleta < 1.0')", ["test_it.py:2", "unknown metric 'ppl_dleta'", "did you mean"]),
        (
            "@quantgate(kld.meen < 1.0)",
            ["test_it.py:2", "unknown quantity of kld 'meen'", "did you mean 'mean'"],
        ),
        ("@quantgate(kld < 1.0)", ["test_it.py:2", "kld is not one number", "kld.mean"]),
        ("@quantgate(0 < ppl < 1.0)", ["test_it.py:2", "&"]),
        ("@quantgate(ppl < 1.0 and kld.mean < 2)", ["test_it.py:2", "&"]),
        ("@quantgate(not ppl < 1.0)", ["test_it.py:2", "~"]),
        ("@quantgate(ppl < 1.0 & kld.mean < 2)", ["test_it.py:2", "parentheses"]),
        ("@quantgate(vram < 2)", ["test_it.py:2", "vram", "2GiB"]),
        ("@quantgate(ttft < 2 * GiB)", ["test_it.py:2", "ttft", "measured in s", "70ms"]),
        ("@quantgate(ppl_delta < 1 * GiB)", ["test_it.py:2", "pure number"]),
        ("@quantgate(ppl_delta)", ["test_it.py:2", "no limit", "quantgate(ppl.delta < 1.0)"]),
        ("@quantgate('ppl_delta <')", ["test_it.py:2", "ppl_delta <", "^"]),
        ("@quantgate('ppl_delta = 1')", ["test_it.py:2", "ppl_delta = 1", "^"]),
        ("@quantgate(7)", ["test_it.py:2", "7 is no gate"]),
        ("@quantgate(ppl < 1, variants=['gptq-*'])", ["test_it.py:2", "unknown variant 'gptq-*'", "good"]),
        (
            "@__import__('pytest').mark.quantgate('ppl < 1', variant='good')",
            ["test_it.py:2", "no argument 'variant'"],
        ),
        ("@quantgate(ppl(protocol='gtpq') < 1)", ["test_it.py:2", "gtpq"]),
        ("@quantgate(ppl(stride=0) < 1)", ["test_it.py:2", "stride"]),
        ("@quantgate(disk(window=3) < 1 * GiB)", ["test_it.py:2", "argument of disk"]),
    ],
)
def test_a_gate_that_is_none(study, body, expected):
    """Every mistake in a gate names the test's file and line and says what to write."""
    (study.path / "test_it.py").write_text(f"{HEAD}{body}\ndef test_release(): pass\n")
    refuse(study, *expected)
    assert study.log() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppl_dleta < 1", ["quantgate.toml", "release", "unknown metric"]),
        ("ppl_delta <", ["quantgate.toml", "release", "^"]),
        ("vram < 2", ["quantgate.toml", "release", "2GiB"]),
    ],
)
def test_a_configured_gate_that_is_none(study, text, expected):
    """Mistakes in the configuration's gates name the file and the gate."""
    study.gates(release=text)
    refuse(study, *expected)


@pytest.mark.parametrize(
    ("table", "body", "expected"),
    [
        ("", "baseline = 7", ["baseline", "path or hub id"]),
        ("", 'baseline = "base"\nvarients = 3', ["varients", "did you mean 'variants'"]),
        ("", 'baseline = "nowhere/at/all"', ["nowhere/at/all", "does not exist"]),
        ("tokens", 'corpsu = "x"', ["quantgate.tokens", "corpsu", "did you mean 'corpus'"]),
        ("tokens", 'corpus = "missing.txt"', ["missing.txt"]),
        ("tokenz", 'corpus = "x"', ["tokenz", "did you mean 'tokens'"]),
        (
            "variants.odd",
            'model = "good"\nquantize = { method = "gptq" }',
            ["odd", "either model", "or quantize"],
        ),
        ("variants.odd", "bits = 4", ["odd", "bits"]),
        (
            "variants.odd",
            'quantize = { method = "gtpq" }',
            ["quantization method", "gtpq", "did you mean 'gptq'"],
        ),
        ("variants.odd", 'quantize = { method = "gptq", bitz = 4 }', ["odd", "bitz", "did you mean 'bits'"]),
        (
            "variants.odd",
            'quantize = { method = "gptq", group_size = 64, calibration = "corpus.txt" }',
            ["group_size", "layers.0.linear", "32"],
        ),
        ('variants."a b"', 'model = "good"', ["a b", "cannot be a variant's name"]),
        ("variants.baseline", 'model = "good"', ["baseline", "cannot be a variant's name"]),
        (
            "variants.odd",
            'model = "good"\nbackend = "fakr"',
            ["odd", "backend", "fakr", "did you mean 'fake'"],
        ),
    ],
)
def test_a_configuration_that_cannot_be_used(study, table, body, expected):
    """Mistakes in the configuration name the table, the key and what may have been meant."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    study.tables[table] = body
    refuse(study, *expected)


def test_two_variants_of_one_name(study):
    """TOML's own refusal of a table that is there twice is passed on with what it means here."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    study.tables["variants.'good'"] = 'model = "good"'
    refuse(study, "quantgate.toml", "same name")


def test_no_variant_at_all(study):
    """A gated test without any configured variant is an error, not a green run."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    study.tables = {"": study.tables[""]}
    refuse(study, "no variant is configured", "[tool.quantgate.variants")


def test_no_configuration_at_all(pytester):
    """The same without any configuration file."""
    pytester.makepyfile(
        "from pytest_quantgate import *\n@quantgate(ppl_delta < 1)\ndef test_release(): pass\n"
    )
    result = pytester.runpytest_subprocess("--quantgate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no variant is configured*"])


def test_no_baseline(study):
    """A comparison needs a baseline; an absolute gate does not."""
    study.tables[""] = 'dtype = "float32"\ndevice = "cpu"'
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    refuse(study, "test_it.py:2", "ppl.delta", "baseline")
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl < 1e9)\ndef test_release(): pass\n")
    study.run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), ["bad", "model.safetensors"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["bad", "config.json", "JSON"]),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            ["bad", "pickle"],
        ),
    ],
)
def test_a_damaged_variant_fails_its_tests(study, damage, expected):
    """A variant whose checkpoint is damaged fails with the reason; the others are judged."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    damage(study.path / "bad")
    result = study.run()
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "Traceback" not in text
    assert all(words in text for words in expected)


def test_a_damaged_baseline_is_a_usage_error(study):
    """Without a sound baseline nothing can be judged."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    (study.path / "base" / "model.safetensors").write_bytes(b"\0\0")
    refuse(study, "baseline", "model.safetensors")


def test_an_unusable_store(study):
    """A store that is a file is refused; the message names the option."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    (study.path / "file").write_text("")
    refuse(study, "file", "--quantgate-store", arguments=("--quantgate-store", "file"))


@pytest.mark.parametrize("text", ["", "x"])
def test_a_corpus_that_is_too_short(study, text):
    """An empty corpus, or one shorter than a window, is named with its length."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    (study.path / "corpus.txt").write_text(text)
    result = study.run()
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.TESTS_FAILED)
    output = result.stdout.str() + result.stderr.str()
    assert "corpus.txt" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["store", "strict", "refresh"])
def test_bad_values_of_options(study, name, monkeypatch):
    """A value that an option does not take is refused with the place it came from."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    study.tables[""] += {
        "store": "\nstore = 7",
        "strict": '\nstrict = "perhaps"',
        "refresh": '\nrefresh = "some"',
    }[name]
    refuse(study, f"[tool.quantgate] {name}", "write")


def test_missing_config_file(study):
    """--quantgate-config with a wrong path is said at once."""
    (study.path / "test_it.py").write_text(f"{HEAD}@quantgate(ppl_delta < 1)\ndef test_release(): pass\n")
    refuse(study, "nope.toml", "no such file", arguments=("--quantgate-config", "nope.toml"))


def test_unittest_methods_are_refused(study):
    """A TestCase method cannot run once per variant: said, not ignored."""
    (study.path / "test_it.py").write_text(
        f"import unittest\n{HEAD}class TestIt(unittest.TestCase):\n"
        "    @quantgate(ppl_delta < 1)\n    def test_release(self): pass\n"
    )
    refuse(study, "test_it.py", "unittest")


def test_a_missing_extra_is_one_line(study, monkeypatch):
    """An engine that is not installed is named with the pip command; the gate is skipped, or fails when strict."""
    (study.path / "test_it.py").write_text(
        f"{HEAD}@quantgate(ppl_delta < 1, variants=['real'])\ndef test_release(): pass\n"
    )
    fakes.write_checkpoint(study.path / "real", seed=9)
    study.tables["variants.real"] = 'model = "real"'
    conftest = study.path / "conftest.py"
    conftest.write_text("import sys\nsys.modules['torch'] = None\n" + conftest.read_text())
    result = study.run("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*pip install 'pytest-quantgate?hf?'*"])
    study.run("--quantgate-strict").assert_outcomes(failed=1)
