"""Other interpreters: found, asked what they have, made of requirements once, and told apart in the identity."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import types
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models

import pytest_quantgate
from pytest_quantgate.backends import older_tokenizers, transformers
from pytest_quantgate.errors import ConfigError, ObservationError, StoreError
from pytest_quantgate.executors import remote
from pytest_quantgate.interfaces import Window
from pytest_quantgate.registry import Registry
from pytest_quantgate.spec import ModelSpec
from pytest_quantgate.stacks import Stacks, check_requirement, requirement_names
from pytest_quantgate.store import Store
from pytest_quantgate.study import Stack

PACKAGE = Path(pytest_quantgate.__file__).parent


class Told:
    """A narrator that remembers."""

    def __init__(self):
        self.lines = []

    def working(self, what):
        self.lines.append(what)
        return nullcontext(lambda done, total: None)

    def say(self, text):
        self.lines.append(text)


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """Write a wheel of one empty module."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {each}\n" for each in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        )
        archive.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{about}/RECORD", "")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that is all that pip sees; uv is put aside, which has settings of its own."""
    folder = tmp_path / "wheels"
    wheel(folder, "numpy", "0.1")
    wheel(folder, "old_quantizer", "0.7.1", "numpy")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return folder


def stacks(tmp_path: Path, told: Told | None = None, *, offline: bool = False) -> Stacks:
    return Stacks(
        Store(tmp_path / "store"),
        tmp_path,
        told or Told(),
        unmade="run once without --quantgate-offline" * offline,
    )


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path.name


def test_no_stack_is_this_process(tmp_path):
    assert stacks(tmp_path).interpreter("v", Stack()) == ""


def test_an_interpreter_is_asked_what_it_has(tmp_path):
    asked = stacks(tmp_path)
    python = asked.interpreter("v", Stack(sys.executable))
    assert python == sys.executable
    found = dict(asked.versions("v", python, ("NumPy", "pytest_xdist", "no-such-thing")))
    assert found["NumPy"] == np.__version__
    assert sorted(found) == ["NumPy", "pytest_xdist"]


def test_requirements_name_distributions():
    listed = ("auto-gptq==0.7.1", "transformers[torch]>=4.44", " numpy<2", "--no-index", "./folder")
    assert requirement_names(listed) == ("auto-gptq", "transformers", "numpy")


def test_an_environment_is_made_once_and_locked(tmp_path, wheels):
    told, wanted = Told(), Stack("", ("old_quantizer==0.7.1",))
    python = stacks(tmp_path, told).interpreter("v", wanted)
    assert Path(python).is_file()
    assert told.lines == ["v environment"]
    again = stacks(tmp_path, told, offline=True)
    assert again.interpreter("v", wanted) == python
    assert told.lines == ["v environment"]
    assert dict(again.versions("v", python, ("old-quantizer", "numpy"))) == {
        "numpy": "0.1",
        "old-quantizer": "0.7.1",
    }
    locked = Path(python).parents[1].with_suffix(".txt").read_text().replace("-", "_").splitlines()
    assert sorted(locked) == ["numpy==0.1", "old_quantizer==0.7.1"]


def test_an_environment_that_is_made_again_gets_the_same_versions(tmp_path, wheels):
    wanted = Stack("", ("old_quantizer",))
    folder = Path(stacks(tmp_path).interpreter("v", wanted)).parents[1]
    wheel(wheels, "old_quantizer", "0.9", "numpy")
    shutil.rmtree(folder.resolve())
    made = stacks(tmp_path)
    python = made.interpreter("v", wanted)
    assert dict(made.versions("v", python, ("old_quantizer",))) == {"old_quantizer": "0.7.1"}


@pytest.mark.slow
def test_one_that_was_left_half_made_is_made_anew(tmp_path, wheels):
    wanted = Stack("", ("old_quantizer",))
    folder = Path(stacks(tmp_path).interpreter("v", wanted)).parents[1]
    (folder / "quantgate-complete").unlink()
    left = folder.resolve()
    shutil.rmtree(next(folder.glob("lib/*/site-packages/old_quantizer-*")))
    made = stacks(tmp_path)
    assert made.versions("v", made.interpreter("v", wanted), ("old_quantizer",)) == (
        ("old_quantizer", "0.7.1"),
    )
    assert folder.resolve() != left  # into which what the killed process started may still write
    assert not left.exists()


@pytest.mark.slow
def test_options_of_pip_are_kept_when_it_is_made_again(tmp_path, wheels, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    wanted = Stack("", (f"--find-links {wheels}", "old_quantizer"))
    folder = Path(stacks(tmp_path).interpreter("v", wanted)).parents[1]
    shutil.rmtree(folder.resolve())
    assert Path(stacks(tmp_path).interpreter("v", wanted)).is_file()


@pytest.mark.slow
def test_one_whose_interpreter_is_gone_is_made_anew(tmp_path, wheels):
    """As after the store was copied from a machine that has its Python elsewhere."""
    python = Path(stacks(tmp_path).interpreter("v", Stack("", ("numpy",))))
    python.unlink()
    python.symlink_to(tmp_path / "no such python")
    assert Path(stacks(tmp_path).interpreter("v", Stack("", ("numpy",)))).is_file()


@pytest.mark.slow
def test_what_an_environment_is_made_from_needs_nothing_installed(tmp_path, wheels):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    asked = stacks(tmp_path)
    with pytest.raises(ConfigError, match="bare/bin/python has no numpy"):
        asked.interpreter("v", Stack("bare/bin/python"))
    # ensurepip makes one from the Python that the bare one is of
    assert Path(asked.interpreter("v", Stack("bare/bin/python", ("numpy",)))).is_file()


def test_what_this_process_imports_is_not_taken_for_installed(tmp_path, wheels, monkeypatch):
    (tmp_path / "other" / "numpy-9.0.dist-info").mkdir(parents=True)
    (tmp_path / "other" / "numpy-9.0.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 9.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    asked = stacks(tmp_path)
    python = asked.interpreter("v", Stack("", ("numpy",)))
    assert asked.versions("v", python, ("numpy",)) == (("numpy", "0.1"),)


def test_the_first_of_two_distributions_counts_and_a_commit_is_part_of_its_version(tmp_path):
    """An environment that sees the system's packages holds both; what is imported is its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    own = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (own / "system.pth").write_text(str(tmp_path / "system"))
    for folder, version in ((own, "2.0"), (tmp_path / "system", "1.0")):
        (folder / f"numpy-{version}.dist-info").mkdir(parents=True)
        (folder / f"numpy-{version}.dist-info" / "METADATA").write_text(f"Name: numpy\nVersion: {version}\n")
    url = {"url": "https://example.org", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    asked = stacks(tmp_path)
    python = asked.interpreter("v", Stack("venv/bin/python"))
    assert asked.versions("v", python, ("numpy",)) == (("numpy", "2.0"),)
    (own / "numpy-2.0.dist-info" / "direct_url.json").write_text(json.dumps(url))
    again = stacks(tmp_path)
    assert again.versions("v", python, ("numpy",)) == (("numpy", "2.0 (0123456789ab)"),)


@pytest.mark.parametrize(
    "text",
    [
        *("-r wanted.txt", "--requirement=wanted.txt", "-e .", "--constraint c.txt", "--pre '"),
        *(
            "git+https://example.org/x.git",
            "./x-1-py3-none-any.whl",
            "x-1-py3-none-any.whl",
            "https://x/y.whl",
        ),
    ],
)
def test_a_requirement_that_leaves_something_open_is_refused(text):
    with pytest.raises(ConfigError, match=re.escape(repr(text))):
        check_requirement(text)


@pytest.mark.parametrize(
    "text",
    [
        *("torch", " numpy<2", "transformers[torch]>=4.44", "a ; python_version < '3.11'", "--pre"),
        *("--extra-index-url https://download.pytorch.org/whl/cpu", "x @ git+https://example.org/x.git@v1"),
        "x@file:///a/x-1-py3-none-any.whl",
    ],
)
def test_a_requirement_that_says_all_is_taken(text):
    check_requirement(text)
    assert text.startswith("--") or len(requirement_names([text])) == 1


@pytest.mark.slow
def test_other_requirements_are_another_environment(tmp_path, wheels):
    made = stacks(tmp_path)
    assert made.interpreter("v", Stack("", ("numpy",))) != made.interpreter(
        "v", Stack("", ("old_quantizer",))
    )


def test_what_cannot_be_installed_is_one_line_and_leaves_no_mark(tmp_path, wheels):
    with pytest.raises(
        ConfigError, match=r"v: .*pip install.* failed; its last lines: .*no_such_thing"
    ) as failed:
        stacks(tmp_path).interpreter("v", Stack("", ("no_such_thing==1",)))
    assert "\n" not in str(failed.value)
    assert not list((tmp_path / "store" / "stacks").glob("*/quantgate-complete"))


def test_offline_nothing_is_made(tmp_path, wheels):
    with pytest.raises(
        StoreError, match=r"v: the environment of its requirements is not in .*run once without"
    ):
        stacks(tmp_path, offline=True).interpreter("v", Stack("", ("numpy",)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo hello", "does not answer like a Python interpreter"),
        (
            "echo 'no such option: -I' >&2; exit 2",
            "does not answer like a Python interpreter .*no such option",
        ),
        (
            'echo \'{"python": [3, 8, 1], "installed": {"numpy": "1"}}\'',
            "is Python 3.8.1; the oldest .* is 3.10",
        ),
        ('echo \'{"python": [3, 11, 1], "installed": {}}\'', "has no numpy, which measuring needs"),
        ("echo '[]'", "does not answer like"),
    ],
)
def test_an_interpreter_that_cannot_measure_is_one_line(tmp_path, body, message):
    name = script(tmp_path / "python", body)
    with pytest.raises(ConfigError, match=f"v: .*{message}"):
        stacks(tmp_path).interpreter("v", Stack(name))


@pytest.mark.parametrize("name", ["nowhere", "folder", "text", "~nobody-here/python", "a\0b"])
def test_what_cannot_be_run_is_no_interpreter(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("")
    shown = re.escape(name.replace("\0", "\\x00"))
    with pytest.raises(ConfigError, match=f"the interpreter .*{shown} does not exist or cannot be run"):
        stacks(tmp_path).interpreter("v", Stack(name))


def test_a_stack_without_torch_is_a_usage_error(study):
    script(study.path / "old", 'echo \'{"python": [3, 11, 1], "installed": {"numpy": "1.26"}}\'')
    study.tables["variants.good"] = 'model = "good"\npython = "old"'
    study.pytester.makepyfile(
        "from pytest_quantgate import quantgate\n@quantgate('ppl < 9')\ndef test_it(): pass"
    )
    result = study.run("-k", "good")
    result.stderr.fnmatch_lines(["*variant 'good': *old has no torch; install torch and transformers there*"])
    assert result.ret == 4


@pytest.mark.parametrize(
    ("flag", "step"),
    [
        ("--quantgate-plan", "run the gates once, a plan makes nothing"),
        ("--quantgate-offline", "run once without"),
    ],
)
def test_an_environment_that_may_not_be_made_stops_its_own_variant_alone(study, flag, step):
    study.pytester.makepyfile(
        "from pytest_quantgate import quantgate\n@quantgate('ppl < 99')\ndef test_it(): pass"
    )
    study.run("-k", "bad").assert_outcomes(passed=1)
    study.tables["variants.good"] += '\nrequirements = ["numpy"]'
    result = study.run(flag)
    result.stdout.fnmatch_lines([f"*good*the environment of its requirements is not in *{step}*"])
    assert "INTERNALERROR" not in result.stdout.str()
    assert not (study.path / ".quantgate" / "stacks").exists()
    if flag == "--quantgate-offline":
        result.assert_outcomes(failed=1, passed=1)


def test_a_stack_of_what_quantizes_as_it_loads_stands_beside_it(study):
    study.tables["variants.good"] = 'quantize = { method = "bitsandbytes", bits = 8, python = "old" }'
    study.pytester.makepyfile(
        "from pytest_quantgate import quantgate\n@quantgate('ppl < 9')\ndef test_it(): pass"
    )
    result = study.run("-k", "good")
    result.stderr.fnmatch_lines(["*good* quantize: bitsandbytes quantizes where the model is loaded; write*"])
    assert result.ret == 4


def test_the_library_of_an_old_format_is_part_of_the_identity(tmp_path):
    named = {method: Registry().distributions(method) for method in ("gptq", "awq")}
    assert "auto-gptq" in named["gptq"]
    assert "autoawq" in named["awq"]


def test_a_format_that_no_table_knows_brings_the_library_of_its_name(study):
    """Two versions of it must not share their observations."""
    config = json.loads((study.path / "good" / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "hqq"
    (study.path / "good" / "config.json").write_text(json.dumps(config))
    study.pytester.makepyfile(
        "from pytest_quantgate import quantgate\n@quantgate('disk < 1 GiB')\ndef test_it(): pass"
    )
    plans = []
    for version in ("0.1", "0.2"):
        body = f'echo \'{{"python": [3, 11, 1], "installed": {{"numpy": "1.26", "hqq": "{version}"}}}}\''
        script(study.path / "old", body)
        study.tables["variants.good"] = 'model = "good"\nbackend = "fake"\npython = "old"'
        told = study.run("-k", "good", "--quantgate-plan").stdout.str()
        plans.append([line for line in told.splitlines() if re.match(r"[0-9a-f]{12} +good ", line)])
    assert plans[0]
    assert plans[0] != plans[1]


def test_text_keeps_its_spaces_under_an_older_library(tmp_path):
    tokenizer = types.SimpleNamespace(clean_up_tokenization_spaces=True)
    older_tokenizers.keep_spaces(tokenizer, tmp_path)
    assert tokenizer.clean_up_tokenization_spaces is False
    (tmp_path / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    older_tokenizers.keep_spaces(tokenizer, tmp_path)
    assert tokenizer.clean_up_tokenization_spaces is True


def test_the_stack_is_part_of_the_identity_and_the_path_is_not(study):
    one = ModelSpec("v", "v", "w", engine=(("torch", "2.1"),), python="/a/python")
    assert (
        one.identity() == ModelSpec("v", "v", "w", engine=(("torch", "2.1"),), python="/b/python").identity()
    )
    assert (
        one.identity() != ModelSpec("v", "v", "w", engine=(("torch", "2.2"),), python="/a/python").identity()
    )
    assert ModelSpec.from_json(one.to_json()) == one


def test_another_interpreter_gives_the_scores_of_this_one(tmp_path):
    """It gets this package alone from here: everything else is what its own environment has."""
    folder = tiny_models.save(tmp_path / "model", "llama")
    here = ModelSpec("v", "v", "w", path=str(folder))
    there = replace(here, python=sys.executable)
    load = "pytest_quantgate.backends.transformers:load"
    model = remote.load(load, there, 120, allow_code=False, allow_pickle=False)
    try:
        window = Window(np.arange(1, 20))
        usual = next(transformers.load(here).score([window], top_k=3))
        scores = next(model.score([window], top_k=3))
        assert np.array_equal(scores.logprob, usual.logprob)
        assert np.array_equal(scores.ids, usual.ids)
    finally:
        model.close()


def test_nothing_of_this_process_leaks_into_another(tmp_path, monkeypatch):
    """What this process could import, another interpreter cannot, unless it has it itself."""
    (tmp_path / "probing.py").write_text("def load(spec, **allowed):\n    raise ZeroDivisionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec("v", "v", "w")
    with pytest.raises(ObservationError, match="ZeroDivisionError"):
        remote.load("probing:load", spec, 60, allow_code=False, allow_pickle=False)
    with pytest.raises(ObservationError, match="No module named 'probing'"):
        remote.load(
            "probing:load", replace(spec, python=sys.executable), 60, allow_code=False, allow_pickle=False
        )


def test_what_measures_imports_under_the_oldest_python():
    """Found on a developer's machine; a machine without it checks the syntax alone."""
    oldest = shutil.which("python3.10")
    files = [str(path) for name in ("executors", "backends") for path in (PACKAGE / name).glob("*.py")]
    for path in (*files, *map(str, PACKAGE.glob("*.py"))):
        ast.parse(Path(path).read_text(), feature_version=(3, 10))
    if oldest and subprocess.run([oldest, "-c", ""], check=False).returncode == 0:
        code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import pytest_quantgate.interfaces, pytest_quantgate.errors"
        subprocess.run([oldest, "-c", code], check=True)
