"""Standard input as text: without the mark that some editors put before it (U+FEFF), and its lines without
what ends them, be it LF or CR LF.

Bytes that are no text in the input's encoding become U+FFFD, and standard error says so.
"""

from __future__ import annotations

import sys

BYTE_ORDER_MARK = "\ufeff"


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
    return cleaned(input(prompt)).removesuffix("\r")


def cleaned(text: str) -> str:
    """What was read by errors="surrogateescape", as text."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        if sys.stderr is not None:
            problem = f"standard input is not all {encoding.upper()}: what is not was replaced by U+FFFD"
            print(f"tuili: {problem}", file=sys.stderr)
        return text.encode(encoding, "surrogateescape").decode(encoding, "replace")
