"""Tokens of setkey(8) text, each with its place, and the error that names it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<quoted>"[^"\n]*")
      | (?P<end>;)
      | (?P<word>[^\s;"\#]+)
      | (?P<wrong>.)""",
    re.VERBOSE,
)


class SetkeyError(ValueError):
    """Text that is no setkey statement; it names source, line and column, and what was expected."""


class Token(NamedTuple):
    """One word, quoted string (without its quotes) or `;`."""

    text: str
    line: int
    column: int
    quoted: bool = False


def tokens(text: str, source: str) -> Iterator[Token]:
    """The tokens of `text`; comments run from `#` to the end of the line. SetkeyError for an open quote."""
    line, start = 1, 0
    for match in _TOKEN.finditer(text):
        kind, found = match.lastgroup, match.group()
        column = match.start() - start + 1
        if kind == "wrong":
            raise SetkeyError(f"{source}:{line}:{column}: a quote that does not end on its line")
        if kind == "quoted":
            yield Token(found[1:-1], line, column, quoted=True)
        elif kind != "space":
            yield Token(found, line, column)
        newlines = found.count("\n")
        if newlines:
            line += newlines
            start = match.start() + found.rindex("\n") + 1


class Reader:
    """Walks over the tokens of one text."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = list(tokens(text, source))
        self._at = 0

    @property
    def line(self) -> int:
        """Line of the next token, or of the last one at the end."""
        if not self._tokens:
            return 1
        return self._tokens[min(self._at, len(self._tokens) - 1)].line

    def more(self) -> bool:
        """Whether any token is left."""
        return self._at < len(self._tokens)

    def peek(self) -> str:
        """The next token's text, empty at the end and at a `;`."""
        if not self.more() or self._ends():
            return ""
        return self._tokens[self._at].text

    def is_quoted(self) -> bool:
        """Whether the next token is a quoted string."""
        return self.more() and self._tokens[self._at].quoted

    def take(self, expected: str) -> str:
        """The next token; SetkeyError says `expected` where the statement ends before it."""
        if not self.more() or self._ends():
            raise self.error(f"expected {expected}")
        self._at += 1
        return self._tokens[self._at - 1].text

    def end(self) -> None:
        """Take the `;` of the statement."""
        if not self.more() or not self._ends():
            raise self.error("expected `;`")
        self._at += 1

    def _ends(self) -> bool:
        token = self._tokens[self._at]
        return token.text == ";" and not token.quoted

    def error(self, reason: str, back: int = 0) -> SetkeyError:
        """The error to raise about the next token, or about the one `back` tokens before it."""
        if not self.more() and not back:
            return SetkeyError(f"{self._source}:{self.line}: {reason}, found the end of the text")
        token = self._tokens[self._at - back]
        return SetkeyError(f"{self._source}:{token.line}:{token.column}: {reason}, found `{token.text}`")
