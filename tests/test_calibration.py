"""Calibration files: each accepted shape, each refused one with its line, and what is cut."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("jinja2")

from jinja2 import TemplateError

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.quantizers import calibration


class Letters:
    """A tokenizer whose ids are code points; its chat template writes role:content; per message."""

    chat_template = "{{ messages }}"

    def __call__(self, text):
        return {"input_ids": [ord(letter) for letter in text]}

    def apply_chat_template(self, conversation, *, tokenize, return_dict):
        assert tokenize
        assert not return_dict
        if conversation[0]["role"] == "tool":
            raise TemplateError("roles must alternate")
        return self("".join(f"{turn['role']}:{turn['content']};" for turn in conversation))["input_ids"]


class NoTemplate(Letters):
    chat_template = None


class AddsFirst(Letters):
    """A tokenizer that puts a token before every text, an empty one included."""

    def __call__(self, text):
        return {"input_ids": [1, *(ord(letter) for letter in text)]}


def read(tmp_path, text, *, name="c.jsonl", tokenizer=None, samples=1, max_length=100):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = calibration.read(path, tokenizer or Letters(), samples=samples, max_length=max_length)
    return ["".join(map(chr, ids)) for ids in found]


CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]})


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("c.jsonl", CHAT, ["user:hi;assistant:yo;"]),
        ("c.jsonl", '{"text": "ab"}\n\n{"text": " cd "}\n', ["ab", "cd"]),
        ("c.jsonl", '{"text": ""}\n{"messages": []}\n{"text": "ab"}', ["ab"]),
        ("c.JSON", '{"text": "a\u2028b"}\r\n' + CHAT, ["a\u2028b", "user:hi;assistant:yo;"]),
        ("c.jsonl", b'\xef\xbb\xbf{"text": "ab"}', ["ab"]),
        ("c.txt", "ab\ncd\n", ["ab", "cd"]),
        ("c.txt", "\n\nab\ncd\n\n\n", ["ab", "cd"]),
        ("c.txt", "ab\ncd\n\nef\n", ["ab\ncd", "ef"]),
        ("c.txt", "\nab\n \n\n ef\ngh", ["ab", "ef\ngh"]),
        ("c.md", '{"text": "ab"}', ['{"text": "ab"}']),
    ],
)
def test_what_a_file_may_hold(tmp_path, name, text, found):
    """JSON lines by suffix, else paragraphs where blank lines stand between lines, else lines."""
    assert read(tmp_path, text, name=name, samples=len(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "ok"}\n{"txt": "x"}', 'c.jsonl:2: no calibration sample: write {"messages"'),
        ('"just a string"', ":1: no calibration sample: write"),
        ("[1]", ":1: no calibration sample: write"),
        ('\n\n{"text": 3}', ':3: no calibration sample: "text" is int, not a string'),
        ("{text: 3}", ":1: no calibration sample: Expecting property name"),
        ("[" * 100_000, ":1: no calibration sample: "),
        ('{"text": "\\ud800"}', ":1: no calibration sample: 'utf-8' codec"),
        ('{"messages": "hi"}', ':1: no calibration sample: "messages" is no list'),
        ('{"messages": ["hi"]}', ':1: no calibration sample: "messages" is no list'),
        ('{"messages": [{"role": "user"}]}', ':1: no calibration sample: "content" is NoneType'),
        ('{"messages": [{"role": 1, "content": "a"}]}', ':1: no calibration sample: "role" is int'),
        (
            '{"messages": [{"role": "tool", "content": "a"}]}',
            "template refuses this conversation: roles must",
        ),
        ("", "holds no sample of any length"),
        ('{"text": "  "}', "holds no sample of any length"),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
    ],
)
def test_what_it_may_not_hold(tmp_path, text, message):
    """Each refused line is named by file and number, in one line of text."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, samples=2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_conversation_needs_a_chat_template(tmp_path):
    """Without a template, messages are refused, and plain text still works."""
    with pytest.raises(ConfigError, match=r"c.jsonl:1: the model has no chat template; write"):
        read(tmp_path, CHAT, tokenizer=NoTemplate())
    assert read(tmp_path, '{"text": "ab"}', tokenizer=NoTemplate()) == ["ab"]


def test_fewer_samples_than_asked_is_an_error_that_counts(tmp_path):
    """The message says how many there are and how many were asked."""
    with pytest.raises(ConfigError, match=r"has 3 samples of any length, samples = 4 asked; .* samples = 3"):
        read(tmp_path, "a\nb\nc\n", name="c.txt", samples=4)


def test_the_first_samples_are_taken_in_order(tmp_path):
    """No shuffling, and nothing behind the last sample is looked at."""
    assert read(tmp_path, '{"text": "a"}\n{"text": "b"}\n{broken', samples=2) == ["a", "b"]


def test_samples_are_cut_on_the_right(tmp_path):
    """A sample of exactly the limit is whole; a longer one loses its end."""
    assert read(tmp_path, "abc\nabcd", name="c.txt", samples=2, max_length=3) == ["abc", "abc"]


def test_an_empty_text_is_no_sample_even_if_the_tokenizer_makes_a_token_of_it(tmp_path):
    """A tokenizer's own first token does not make a sample."""
    found = read(tmp_path, '{"text": ""}\n{"text": "b"}', tokenizer=AddsFirst())
    assert found == ["\x01b"]


def test_short_samples_are_passed_over_and_not_counted(tmp_path):
    """A quantizer that drops short samples gets as many of the others as were asked."""
    path = tmp_path / "c.txt"
    path.write_text("ab\nabc\na\nabcd")
    found = calibration.read(path, Letters(), samples=2, max_length=9, shortest=3)
    assert [len(ids) for ids in found] == [3, 4]
    with pytest.raises(ConfigError, match="has 2 samples of at least 3 tokens, samples = 3 asked"):
        calibration.read(path, Letters(), samples=3, max_length=9, shortest=3)


def test_an_unreadable_file_is_a_usage_error(tmp_path):
    """A folder in place of the file gives one line."""
    with pytest.raises(ConfigError, match="cannot be read"):
        calibration.read(tmp_path, Letters(), samples=1, max_length=1)
