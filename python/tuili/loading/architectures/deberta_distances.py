"""What a DeBERTa's settings say of scores from distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili._core import DistanceSpec
from tuili.loading.config import MAX_POSITIONS, Config
from tuili.loading.distances import buckets

_MOST_POSITIONS = 1 << 16  # whose distances are listed, one by one


def named_kinds(config: Config) -> list[str]:
    """Of "c2p" (queries meet the table's keys) and "p2c" (keys meet its queries), those named."""
    given: Any = config.values.get("pos_att_type") or []
    if isinstance(given, str):
        given = [kind.strip() for kind in given.lower().split("|")]
    if not isinstance(given, list) or not all(isinstance(kind, str) for kind in given):
        raise config.wrong("pos_att_type", "a list of c2p and p2c")
    return [kind for kind in ("c2p", "p2c") if kind in given]


def kinds_of(config: Config) -> list[str]:
    """Of those, the ones that there is a table for."""
    return named_kinds(config) if config.flag("relative_attention", False) else []


def is_normed(config: Config) -> bool:
    """Whether the table goes through a norm."""
    named = config.text("norm_rel_ebd", "none") or "none"
    return "layer_norm" in [part.strip() for part in named.lower().split("|")]


def places_of(config: Config) -> tuple[NDArray[np.int64], int]:
    """The row of the table for each distance, query minus key, from the most negative on; how many rows."""
    n_positions = config.integer("max_position_embeddings", 1, _MOST_POSITIONS)
    farthest = config.integer("max_relative_positions", -1, MAX_POSITIONS, -1)
    farthest = farthest if farthest >= 1 else n_positions
    n_buckets = max(0, config.integer("position_buckets", -1, MAX_POSITIONS, -1))
    if n_buckets == 1 or n_positions - 1 > n_buckets // 2 == farthest - 1 > 0:
        raise config.wrong(
            "position_buckets", f"more than 1, and half of it not max_relative_positions - 1 = {farthest - 1}"
        )
    reach = n_buckets or farthest
    places = buckets(np.arange(1 - n_positions, n_positions), n_buckets, farthest) + reach
    return np.clip(places, 0, 2 * reach - 1), 2 * reach


def distances_of(config: Config) -> DistanceSpec | None:
    """What the scores of distances are; None without them."""
    kinds = kinds_of(config)
    if not kinds:
        return None
    places, n_rows = places_of(config)
    if (np.diff(places) < 0).any():  # of the rows as deberta_rows.py shows them
        places = np.cumsum(np.diff(places, prepend=places[0]) != 0)
        n_rows = int(places[-1]) + 1
    return DistanceSpec(
        places=places.tolist(),
        n_rows=n_rows,
        keys="c2p" in kinds,
        queries="p2c" in kinds,
        shared=config.flag("share_att_key", False),
        norm=is_normed(config),
    )
