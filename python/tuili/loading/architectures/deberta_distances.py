"""What a DeBERTa's settings say of scores from distances."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def distances_of(config: Config) -> DistanceSpec | None:
    """What the scores of distances are; None without them."""
    kinds = kinds_of(config)
    if not kinds:
        return None
    n_positions = config.integer("max_position_embeddings", 1, _MOST_POSITIONS)
    farthest = config.integer("max_relative_positions", -1, MAX_POSITIONS, -1)
    farthest = farthest if farthest >= 1 else n_positions
    n_buckets = max(0, config.integer("position_buckets", -1, MAX_POSITIONS, -1))
    if n_buckets == 1 or n_positions - 1 > n_buckets // 2 >= farthest - 1 > 0:
        raise config.wrong("position_buckets", f"less than twice max_relative_positions = {farthest}")
    reach = n_buckets or farthest
    places = buckets(np.arange(1 - n_positions, n_positions), n_buckets, farthest) + reach
    return DistanceSpec(
        places=np.clip(places, 0, 2 * reach - 1).tolist(),
        n_rows=2 * reach,
        keys="c2p" in kinds,
        queries="p2c" in kinds,
        shared=config.flag("share_att_key", False),
        norm=is_normed(config),
    )
