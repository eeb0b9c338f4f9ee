"""How many parts of a regular expression, or of a Lark grammar, may be left out or repeated.

After each byte the library writes down every part that may come next, with all that follows it: time and
memory grow with the square of this number, and no fuel counts them. 2,000 take a second, 8,000 gigabytes. A
grammar's terminals unfold, so that a dozen lines may hold 8,000.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from tuili.errors import GrammarError

# Quantifiers, and alternatives that are empty.
_OPTIONAL = re.compile(r"[*?+{]|\(\||\|\||\|\)|:\||^\||\|$|\(\)")
# As the library splits its notation: comments, strings, regular expressions, JSON behind %, names.
_TOKEN = re.compile(
    r'(?P<blank>\s+|//[^\n]*|#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"i?)|/(?P<regex>(?:\\.|[^/\\])+)/[imslux]*'
    r"|(?P<json>%(?:json|regex|llguidance|lark)\b\s*)|(?P<special><[^<>\s]+>)"
    r"|(?P<terminal>_?[A-Z][_A-Z0-9-]*)|(?P<rule>[!?]?_?[a-z][_a-z0-9-]*)|(?P<sign>.)",
    re.DOTALL,
)


def in_regex(text: str) -> int:
    """The number in a regular expression; groups that do not capture count, too."""
    return len(_OPTIONAL.findall(re.sub(r"\\.", "x", text, flags=re.DOTALL)))


def in_grammar(text: str) -> int:
    """The number in a grammar in Lark's notation, its terminals unfolded. Of what rules hold besides, four
    count as one: the parser is so much faster than the lexer.

    raises  GrammarError for JSON in it that cannot be read, and for a text in quotes without an end
    """
    own, parts, n_of_rules = _definitions(text)
    known: dict[str, int] = {}

    def unfolded(name: str) -> int:
        if name not in known:
            known[name] = 0  # in itself: the library refuses it
            inner = sum(n * (unfolded(part) if part in own else 1) for part, n in parts[name].items())
            known[name] = own[name] + inner
        return known[name]

    return n_of_rules // 4 + sum(unfolded(name) if name[:1].isupper() else own[name] for name in own)


def without_schemas(text: str) -> tuple[str, list[Any]]:
    """A grammar with an empty schema behind each %json, and the schemas that stood there. Raises as
    `in_grammar`.
    """
    kept: list[str] = []
    schemas: list[Any] = []
    at = 0
    for token, end in _tokens(text):
        if token[0].startswith("%json"):
            kept += [text[at : token.end()], "{}"]
            schemas.append(_json_at(text, token.end())[0])
            at = end
    return "".join(kept) + text[at:], schemas


def _refuse(problem: str) -> NoReturn:
    raise GrammarError(f"grammar: {problem}", param="grammar") from None


def _tokens(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Each token, and where the next one begins: behind its JSON if it has some."""
    at = 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        if token.lastgroup == "json":
            at = _json_at(text, at)[1]
        elif token.lastgroup == "sign" and token[0] in '"/':  # or each one's end would be looked for
            _refuse(f"what begins at character {token.start()} has no end")
        yield token, at


def _definitions(text: str) -> tuple[Counter[str], dict[str, Counter[str]], int]:
    """For each terminal its own number and the terminals that it is made of; for each rule, that of its
    regular expressions; and the rest of all rules.
    """
    own, parts, n_of_rules = Counter({"": 0}), {"": Counter[str]()}, 0
    name, first, before, is_new_line = "", "", ":", True
    text += "\nend"  # as each definition is ended by the next one
    for token, end in _tokens(text):
        kind, found = token.lastgroup, token[0]
        if kind == "blank":
            is_new_line |= "\n" in found
            continue
        if is_new_line:
            first, is_new_line = found.lstrip("!?_") if kind in ("terminal", "rule") else "", False
            if first:
                own[name] += before == "|"
                continue
        if found == ":" and first:
            name, first = first, ""
            own[name] += 0
            parts.setdefault(name, Counter())
        elif kind == "terminal":
            parts[name][found.lstrip("_")] += 1
        elif kind == "regex":
            own[name] += in_regex(token["regex"])
        elif kind == "json":
            own[name] += 0 if found.startswith("%json") else in_regex(text[token.end() : end])
        elif found[:1] in "*?+{[~!" or found[:2] == '""' or (found in "|)" and before in ":(|"):
            own[name] += name[:1].isupper()
            n_of_rules += not name[:1].isupper()
        before = found
    return own, parts, n_of_rules


def _json_at(text: str, begin: int) -> tuple[Any, int]:
    """The value that begins there, and its end."""
    try:
        return json.JSONDecoder().raw_decode(text, begin)
    except json.JSONDecodeError as error:
        _refuse(f"the JSON at character {error.pos} cannot be read")
    except (ValueError, RecursionError):
        _refuse("it holds JSON with a number or nesting beyond all bounds")
