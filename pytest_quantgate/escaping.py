"""Text from outside (names, paths, reasons) made harmless for a terminal, a CI log and a Markdown page.

Every reporter passes what it did not write itself through `plain` or `markdown`. What comes out is one line:
it cannot move a cursor, reorder the line, start a new one, give a workflow command to a CI runner, or open a
tag or a table cell.
"""

from __future__ import annotations

import re

__all__ = ["ascii_only", "markdown", "plain"]

_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:vso)?\[)")
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# a colon before a word makes links and :emoji:, an underscore inside a word makes nothing
_MARKUP = re.compile(
    r"[^\w\s.,;:=+/()%\]-]|:(?=\S)|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|^[-+=]|(?<=^\d)[.)](?=\s)",
    re.IGNORECASE,
)
_FALLBACK = {"\N{HORIZONTAL ELLIPSIS}": "~", "\N{EN DASH}": "-", "\N{PLUS-MINUS SIGN}": "+-"}


def plain(text: str) -> str:
    r"""Return `text` as one printable line: what `str.isprintable` excludes becomes `\x1b`, `\u202e` etc.

    Runners read commands from logs (`::error ::` at the start of a line, `##[error]` anywhere); the first
    character of such a prefix is written as an escape as well.
    """
    visible = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return _COMMAND.sub(lambda found: f"{found[1] or ''}\\x{ord(found[0].strip()):02x}", visible)


def markdown(text: str) -> str:
    """Return `text` for a Markdown page or table cell: what could be markup becomes a character reference."""
    return _MARKUP.sub(lambda found: _NAMED.get(found[0], f"&#{ord(found[0])};"), plain(text).strip())


def ascii_only(text: str) -> str:
    r"""Return `text` for a stream that cannot encode it: near equivalents, else `\u2603`."""
    for char, instead in _FALLBACK.items():
        text = text.replace(char, instead)
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
