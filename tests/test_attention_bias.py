"""Position biases and sinks of attention: against the reference, and equal bits however it is run."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from test_ops import assert_same_bits, assert_within, attention_bound, normal
from tuili import _core, errors
from tuili._core import ops

N_KEYS = [5, 90, 600]


def _table(n_heads: int, n_keys: int, relative: bool) -> dict[str, object]:
    """Values of both signs for every distance or key, with a value that would show at once beyond the end."""
    n_before = n_keys - 1 if relative else 0
    bias = normal(n_keys, n_heads, n_before + n_keys + 63)
    bias[:, n_before + n_keys :] = 1e30
    return {"bias": bias, "bias_origin": n_before, "bias_relative": relative}


@pytest.mark.parametrize("n_keys", N_KEYS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("sunk", [True, False])
def test_biased_attention_stays_within_its_error_bound(isa, n_keys, causal, relative, sunk):
    n_queries, n_heads, head_dim = min(n_keys, 14), 4, 24
    q, k, v = (
        normal(i, n, h, head_dim) for i, n, h in ((1, n_queries, n_heads), (2, n_keys, 2), (3, n_keys, 2))
    )
    scale, table = head_dim**-0.5, _table(n_heads, n_keys, relative)
    sinks = normal(4, n_heads) * 3 if sunk else None
    bias = _core.PositionBias(values=table["bias"], origin=table["bias_origin"], relative=relative)
    added = reference.position_bias(bias, n_queries, n_keys)
    want = reference.attention(q, k, v, scale=scale, causal=causal, bias=added, sinks=sinks)
    settings = {"scale": scale, "causal": causal, "position": n_keys - n_queries, "sinks": sinks, **table}
    got = ops.attention(q, k, v, isa=isa, **settings)
    assert_within(got, want, 4 * attention_bound(q, k, v, scale))
    assert_same_bits(got, ops.attention(q, k, v, isa="generic", **settings))
    assert_same_bits(got, ops.attention(q, k, v, isa=isa, num_threads=2, block_size=16, **settings))
    for i in range(n_queries if causal else 0):  # each row alone, as in decoding
        seen = n_keys - n_queries + i + 1
        settings["position"] = seen - 1
        alone = ops.attention(q[i : i + 1], k[:seen], v[:seen], isa=isa, num_threads=2, **settings)
        assert_same_bits(alone, got[i : i + 1])


def test_a_sink_without_rivals_takes_all_and_one_without_weight_nothing(isa):
    q, k, v = normal(1, 3, 2, 16), normal(2, 3, 2, 16), normal(3, 3, 2, 16)
    plain = ops.attention(q, k, v, isa=isa)
    assert_same_bits(ops.attention(q, k, v, sinks=np.full(2, -1e30, np.float32), isa=isa), plain)
    assert not ops.attention(q, k, v, sinks=np.full(2, 1e30, np.float32), isa=isa).any()


def test_a_bias_that_ends_before_the_keys_is_refused():
    q, k = normal(1, 3, 2, 16), normal(2, 3, 2, 16)
    for settings in ({"bias_origin": 1}, {"bias_relative": True}):
        with pytest.raises(errors.InvalidParameterError, match="bias is"):
            ops.attention(q, k, k, bias=normal(3, 2, 3 + 63), **settings)


def test_a_model_whose_bias_ends_before_its_positions_is_refused():
    layer = _core.LayerSpec(n_heads=2, n_kv_heads=2, head_dim=8, d_ff=8, attention_scale=1.0, position_bias=0)

    def spec(size: int, origin: int, *, relative: bool) -> None:
        bias = _core.PositionBias(values=normal(1, 2, size), origin=origin, relative=relative)
        _core.ModelSpec(
            kind="decoder", n_vocab=4, d_model=8, max_positions=10, layers=[layer], position_biases=[bias]
        )

    for size, origin, relative in ((81, 9, True), (81, 8, True), (72, 0, False)):
        with pytest.raises(errors.ModelFormatError, match="positions need"):
            spec(size, origin, relative=relative)
    spec(82, 9, relative=True)
    spec(73, 0, relative=False)
