"""Token ids as a caller gives them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuili.checks import described, invalid
from tuili.errors import InvalidParameterError, TokenIdError


def checked_ids(token_ids: Any, n_vocab: int, name: str = "prompt") -> np.ndarray:
    """Token ids as int32 [n_tokens >= 1], copied.

    token_ids  a list, tuple or range of integers, or a one-dimensional integer array of any stride and byte
               order
    raises     InvalidParameterError for anything else and for none, TokenIdError for an id outside [0,
               n_vocab)
    """
    if (ids := plain_ids(token_ids, n_vocab)) is not None:
        return np.array(ids, np.int32)
    if not isinstance(token_ids, np.ndarray):
        if not isinstance(token_ids, list | tuple | range):
            invalid(name, f"must be a list of token ids, not {described(token_ids)}")
        ends = {*token_ids[:1], *token_ids[-1:]} if isinstance(token_ids, range) else ()
        if not all(0 <= end < n_vocab for end in ends):  # what lies between may be endless
            raise TokenIdError(f"{name}: a token id is not in [0, {n_vocab})", param=name)
        for position, item in enumerate(token_ids):
            if isinstance(item, bool | np.bool_ | np.timedelta64) or not isinstance(item, int | np.integer):
                raise InvalidParameterError(
                    f"{name}: entry {position} is {described(item)}, not a token id", param=name
                )
        try:
            token_ids = np.array(token_ids, dtype=np.int64)
        except OverflowError:
            raise TokenIdError(f"{name}: a token id is not in [0, {n_vocab})", param=name) from None
    elif isinstance(token_ids, np.ma.MaskedArray):
        invalid(name, "must be a plain array, not a masked one: masked ids have no meaning")
    token_ids = np.array(token_ids)  # before it is checked: others may write to theirs, or compare their way
    if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
        invalid(name, f"must be a 1-D array of integers, not {token_ids.dtype} {list(token_ids.shape)}")
    if token_ids.size == 0:
        invalid(name, "is empty; it needs at least one token", code="empty_prompt")
    bad = (token_ids < 0) | (token_ids >= n_vocab)
    if bad.any():
        position = int(bad.argmax())
        raise TokenIdError(
            f"{name}: token id {int(token_ids[position])} at position {position} is not in [0, {n_vocab})",
            param=name,
        )
    return np.asarray(token_ids, dtype=np.int32)


def plain_ids(token_ids: object, n_vocab: int) -> list[int] | None:
    """A copy of a list of ints in [0, n_vocab), without a look at each from Python; None for all else."""
    if type(token_ids) is not list:
        return None
    ids: list[int] = token_ids.copy()  # another thread may change the caller's
    return ids if set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < n_vocab else None
