"""Calibration files as Qwen's scripts read them: one JSON list of conversations, in either vocabulary."""

from __future__ import annotations

import json

import pytest
from test_calibration import Letters

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.quantizers import calibration

SAID = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
FROM = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
QWEN = [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "yo"}]
TEXT = "user:hi;assistant:yo;"


def read(tmp_path, content, name="c.json", samples=1):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    found = calibration.read(path, Letters(), samples=samples, max_length=100)
    assert calibration.count(path) >= samples
    return ["".join(map(chr, ids)) for ids in found]


@pytest.mark.parametrize(("name", "indent"), [("c.json", None), ("c.json", 2), ("c.jsonl", 2)])
@pytest.mark.parametrize(
    "sample",
    [
        {"messages": SAID},
        {"type": "chatml", "messages": SAID, "source": "unknown"},
        {"id": "identity_0", "conversations": QWEN},
        {"conversations": FROM},
        {"conversations": SAID},
        SAID,
    ],
)
def test_a_list_of_conversations(tmp_path, sample, name, indent):
    """Printed on one line or on many, under either suffix, all of them are the same conversation."""
    content = json.dumps([sample, {"text": "ab"}, sample], indent=indent)
    assert read(tmp_path, content, name, samples=3) == [TEXT, "ab", TEXT]


def test_lines_of_bare_conversations(tmp_path):
    """A line may be the list of messages; one list alone in a file is one conversation."""
    line = json.dumps(SAID)
    for name in ("c.json", "c.jsonl"):
        assert read(tmp_path, f"{line}\n{line}\n", name, samples=2) == [TEXT, TEXT]
        assert read(tmp_path, line, name) == [TEXT]
    assert read(tmp_path, json.dumps(SAID, indent=1)) == [TEXT]


def test_the_model_sees_the_same_whatever_the_words(tmp_path):
    """ShareGPT's words and ours give the same ids."""
    assert read(tmp_path, [{"conversations": FROM}]) == read(tmp_path, [{"messages": SAID}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no sample of any length"),
        ('[{"text": ""}]', "holds no sample of any length"),
        ([{"text": "ab"}], "has 1 samples of any length, samples = 2 asked"),
        ([{"text": "ab"}, {"txt": "ab"}], 'c.json, sample 2: no calibration sample: write {"messages"'),
        ([{"text": "ab"}, 3], "c.json, sample 2: no calibration sample: write"),
        ([{"conversations": "hi"}], 'sample 1: no calibration sample: "conversations" is no list of'),
        (
            [{"conversations": [{"from": "narrator", "value": "x"}]}],
            "\"from\" is 'narrator'; write one of assistant, bot",
        ),
        ([{"conversations": [{"from": 3, "value": "x"}]}], '"from" is int, not a string'),
        ([{"conversations": [{"from": "user"}]}], '"value" is NoneType, not a string'),
        ([{"conversations": [{"from": "user", "content": "x"}]}], '"value" is NoneType, not a string'),
        ('[{"text": "ab"},\n {"text": "cd"},\n {"te', "c.json:3: no calibration sample: Unterminated string"),
        (
            '[{"text": "ab"},\n {"text": "cd"}\n {"text": "ef"}]',
            "c.json:3: no calibration sample: Expecting ','",
        ),
        ('[{"text": "\\ud800"}]', "sample 1: no calibration sample: 'utf-8' codec"),
        ("[" * 100_000, ":1: no calibration sample: "),
    ],
)
def test_what_a_list_may_not_hold(tmp_path, content, message):
    """Each is named by its place in the list, or by the line where the JSON breaks."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content, samples=2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_template_s_refusal_names_the_sample(tmp_path):
    """A conversation that the template does not take is found by its place."""
    content = [{"text": "ab"}, {"messages": [{"role": "tool", "content": "a"}]}]
    with pytest.raises(ConfigError, match=r"c\.json, sample 2: the model's chat template refuses"):
        read(tmp_path, content, samples=2)
