"""Merges of byte-pair encoding from sentencepiece's scores."""

from __future__ import annotations

from collections.abc import Sequence

from tuili.errors import TokenizerError
from tuili.loading.tokenizers.sentencepiece_file import NORMAL, UNUSED

_MAX_CUT_CHARS = 1 << 28  # of the parts of all cuts that are tried; Gemma's 255,474 tokens need 10 million


def merges_of_scores(pieces: Sequence[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """The merges that make ranked BPE do what sentencepiece does with scores.

    pieces  (text, score, type) in the order of their ids

    Sentencepiece joins the neighbours whose join has the best score, the leftmost first where scores are
    equal. So every way to cut a normal token into two normal tokens becomes a merge, ranked by the token's
    score. Equal scores within a token matter only where two of its cuts overlap in a text, left + middle and
    middle + right being the same word ("ab" "a" "ba"); the cut with the longer left part comes first, as the
    leftmost does there.

    raises  TokenizerError (tokenizer_limit) for tokens so long that their cuts would take minutes
    """
    normal = {text for text, _, kind in pieces if kind in (NORMAL, UNUSED)}
    n_chars = sum(len(token) ** 2 for token in normal)
    if n_chars > _MAX_CUT_CHARS:
        raise TokenizerError(
            f"pieces: {len(normal)} of up to {len(max(normal, key=len))} characters, whose cuts have "
            f"{n_chars} characters together; the limit is {_MAX_CUT_CHARS}",
            code="tokenizer_limit",
        )
    best_first = sorted((piece for piece in pieces if piece[0] in normal), key=lambda piece: -piece[1])
    return [
        (token[:cut], token[cut:])
        for token, _, _ in best_first
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in normal and token[cut:] in normal
    ]
