"""Standard input as text: without the mark that some editors put before it (U+FEFF), and its lines without
what ends them, be it LF or CR LF.

Bytes that are no text in the input's encoding become U+FFFD, and standard error says so; those of the command
line, too.
"""

from __future__ import annotations

import re
import sys

BYTE_ORDER_MARK = "\ufeff"
_NO_TEXT = re.compile("[\udc80-\udcff]")  # a byte, as errors="surrogateescape" reads it


def read() -> str:
    """All of it; nothing, if the process was started without."""
    return "" if sys.stdin is None else cleaned(sys.stdin.read())


def lines() -> list[str]:
    """Each line of it."""
    text = read()
    parts = text.removesuffix("\n").split("\n") if text else []
    return [part.removesuffix("\r") for part in parts]


def ask(prompt: str) -> str:
    """The next line, after `prompt` on a terminal. raises: EOFError if there is none"""
    if sys.stdin is None:
        raise EOFError
    return cleaned(input(prompt if sys.stdin.isatty() else "")).removesuffix("\r")


def cleaned(text: str) -> str:
    """What was read of standard input, as text."""
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
    return replaced(text.removeprefix(BYTE_ORDER_MARK), "standard input", encoding)


def replaced(text: str, what: str, encoding: str) -> str:
    """`text`, which was read by errors="surrogateescape", with U+FFFD for each byte that is no text."""
    clean = _NO_TEXT.sub("\ufffd", text)
    if clean != text and sys.stderr is not None:
        print(
            f"tuili: {what} is not all {encoding.upper()}: what is not was replaced by U+FFFD",
            file=sys.stderr,
        )
    return clean
