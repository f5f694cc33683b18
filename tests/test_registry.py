"""The registry: names to things, loaded on first use, errors that say what to do."""

from __future__ import annotations

import pytest

from pytest_quantgate.errors import MissingExtraError, UnknownNameError, UsageError
from pytest_quantgate.registry import Registry, load


def test_every_built_in_name_resolves():
    """Each built-in metric and reporter exists, and a metric's definition carries its own name."""
    registry = Registry()
    for name in registry.names("metrics"):
        definition = registry.get("metrics", name)
        assert definition.name == name
        assert load(definition.observer).kind
    for name in registry.names("reporters"):
        assert callable(registry.get("reporters", name))


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("metrics", "pll", "unknown metric 'pll'; did you mean 'ppl'"),
        ("metrics", "ppl_dleta", "did you mean 'ppl_delta'"),
        ("quantizers", "gptqq", "unknown quantization method 'gptqq'; did you mean 'gptq'"),
        ("backends", "vllm", "there are: gguf, server, transformers"),
    ],
)
def test_unknown_names_get_a_suggestion(kind, name, words):
    """A name that is not registered is refused with what may have been meant."""
    with pytest.raises(UnknownNameError, match=words):
        Registry().get(kind, name)


def test_a_later_registration_wins():
    """A conftest may replace a built-in, and add a name of its own."""
    registry = Registry()
    registry.add("metrics", "ppl", "math:pi")
    registry.add("metrics", "tau", "math:tau")
    assert registry.get("metrics", "ppl") < registry.get("metrics", "tau")
    with pytest.raises(UnknownNameError, match="kind of extension 'metric'; did you mean 'metrics'"):
        registry.add("metric", "x", "math:pi")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("math", "write 'module:attribute'"),
        ("math:nope", "does not exist"),
        ("no_such_module_here:x", "cannot be imported"),
    ],
)
def test_bad_references(reference, words):
    """A reference that names nothing is a usage error."""
    with pytest.raises(UsageError, match=words):
        load(reference)


@pytest.mark.parametrize(
    ("module", "reference", "extra"),
    [
        ("torch", "pytest_quantgate.backends.transformers:load", "hf"),
        ("gptqmodel", "pytest_quantgate.quantizers.gptqmodel:quantizer", "gptq"),
    ],
)
def test_a_missing_library_names_its_extra(module, reference, extra, monkeypatch):
    """Without the library behind it, a name gives one line with the pip command."""
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in [
        name
        for name in sys.modules
        if name.startswith(("pytest_quantgate.backends.", "pytest_quantgate.quant"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'pytest-quantgate\[{extra}\]'"):
        load(reference)
