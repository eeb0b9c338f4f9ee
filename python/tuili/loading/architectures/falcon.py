"""Falcon: parallel halves behind one layer norm or two, shared keys and values, rotation or ALiBi."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import activation, decoder, layer_of, rope, sizes
from tuili.loading.architectures.falcon_names import BASE_PREFIX as BASE_PREFIX
from tuili.loading.architectures.falcon_names import TENSOR_NAMES as TENSOR_NAMES
from tuili.loading.architectures.falcon_names import gguf_tensor_names as gguf_tensor_names
from tuili.loading.architectures.from_gguf import decoder_config
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_HEADS, Config
from tuili.loading.gguf_metadata import Metadata
from tuili.loading.position_bias import alibi_bfloat16

_OLD_NAMES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}


def spec(config: Config) -> ModelSpec:
    """FalconForCausalLM, and RWForCausalLM, which its makers called it at first."""
    placement = _falcon_config(config)
    size = sizes(config)
    linear = config.flag("alibi", False)
    ropes, limit = [], size.max_positions
    if not linear:
        rotation, limit = rope(config, size)
        ropes = [rotation]
    bias = config.flag("bias", False)
    layer = layer_of(
        size,
        activation=activation(config, "activation", "gelu"),
        gated=False,
        norm_placement=placement,
        rope=-1 if linear else 0,
        position_bias=0 if linear else -1,
        biases=bias,
    )
    scale = size.head_dim**-0.5
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        ropes,
        layer_norm_eps="layer_norm_epsilon",
        tied=True,
        max_positions=limit,
        position_biases=[alibi_bfloat16(size.n_heads, limit, scale)] if linear else [],
    )


def _falcon_config(config: Config) -> str:
    """Puts the sizes under their usual names; returns where the norms stand."""
    old = {name: config.values.get(theirs) for name, theirs in _OLD_NAMES.items() if name not in config}
    config.update(**old)
    if "n_head_kv" in config and "new_decoder_architecture" not in config:
        config.update(new_decoder_architecture=True)
    n_heads = config.integer("num_attention_heads", 1, MAX_HEADS)
    new = config.flag("new_decoder_architecture", False)
    parallel = config.switch("parallel_attn", True)
    n_norms = config.integer("num_ln_in_parallel_attn", 1, 2, 2 if new else 1)
    if (new and not parallel) or (n_norms == 2 and parallel and not new):
        raise ModelUnsupportedError(
            f"{config.what}: parallel_attn and num_ln_in_parallel_attn do not go with "
            "new_decoder_architecture",
            code="config_unsupported",
        )
    n_kv_heads = 1 if config.switch("multi_query", True) else n_heads
    if new:
        n_kv_heads = config.integer("num_kv_heads", 1, n_heads, n_heads)
    d_model = config.values.get("hidden_size")
    four = 4 * d_model if isinstance(d_model, int) else None
    config.update(
        num_key_value_heads=n_kv_heads,
        head_dim=None,
        intermediate_size=config.values.get("ffn_hidden_size") or four,
        max_position_embeddings=config.values.get("max_position_embeddings") or 2048,
    )
    if not parallel:
        return "pre"
    return "parallel_two" if n_norms == 2 else "parallel"


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "falcon", spelt as those of its larger models."""
    numbers = {"layer_norm_epsilon": "attention.layer_norm_epsilon"}
    config = decoder_config(metadata, checkpoint, numbers=numbers)
    config.update(
        new_decoder_architecture=True,
        num_kv_heads=config.values["num_key_value_heads"],
        num_ln_in_parallel_attn=2 if "blk.0.attn_norm_2.weight" in checkpoint.tensors else 1,
        ffn_hidden_size=config.values["intermediate_size"],
    )
    return config
