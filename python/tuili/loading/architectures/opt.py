"""OPT: learned positions from row 2 on, norms before or after, embeddings of another width (350m)."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import activation, decoder, in_layers, layer_of, sizes, unfused, with_biases
from tuili.loading.config import MAX_MODEL, Config

_NAMES = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "output",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "mlp_norm",
    "fc1": "up",
    "fc2": "down",
}
TENSOR_NAMES = {
    "model.decoder.embed_tokens.weight": "token_embedding",
    "model.decoder.embed_positions.weight": "position_embedding",
    "model.decoder.project_in.weight": "embedding_in",
    "model.decoder.project_out.weight": "embedding_out",
    "lm_head.weight": "head",
    **with_biases(in_layers("model.decoder.layers", _NAMES)),
    **with_biases([("model.decoder.final_layer_norm", "final_norm")]),
}
_OFFSET = 2


def spec(config: Config) -> ModelSpec:
    """OPTForCausalLM."""
    size = sizes(unfused(config, {"intermediate_size": "ffn_dim"}))
    bias = config.flag("enable_bias", True)
    before = config.flag("do_layer_norm_before", True)
    width = config.integer("word_embed_proj_dim", 1, MAX_MODEL, size.d_model)
    layer = layer_of(
        size,
        activation=activation(config, "activation_function", "relu"),
        gated=False,
        norm_placement="pre" if before else "post",
        rope=-1,
        biases=bias,
    )
    return decoder(
        config,
        size,
        [layer] * size.n_layers,
        tied=True,
        norm="layer",
        norm_eps=1e-5,
        n_positions_learned=size.max_positions + _OFFSET,
        position_offset=_OFFSET,
        final_norm=before and not config.flag("_remove_final_layer_norm", False),
        d_embedding=0 if width == size.d_model else width,
    )


def constants(config: Config) -> dict[str, float]:
    """Norms without weights, if the file says so."""
    if config.flag("layer_norm_elementwise_affine", True):
        return {}
    return {r".*_norm": 1.0, r".*_norm\.bias": 0.0}
