"""What encoder-decoders share: two halves of one configuration, and the layers and names of fairseq's models
(BART and those that began as it)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuili._core import LayerSpec, ModelSpec
from tuili.loading.architectures import activation
from tuili.loading.config import MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_MODEL, MAX_POSITIONS, MAX_VOCAB, Config
from tuili.loading.layout import Names, Parts

_LINEAR = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_LAYER = {
    **{f"self_attn.{theirs}": ours for theirs, ours in _LINEAR.items()},
    **{f"encoder_attn.{theirs}": f"cross_{ours}" for theirs, ours in _LINEAR.items()},
    "self_attn_layer_norm": "attention_norm",
    "encoder_attn_layer_norm": "cross_norm",
    "fc1": "up",
    "fc2": "down",
    "final_layer_norm": "mlp_norm",
}
_AROUND = {"layernorm_embedding": "embedding_norm", "layer_norm": "final_norm"}
_MODULES = _AROUND | {f"layers.{{i}}.{theirs}": f"layers.{{i}}.{ours}" for theirs, ours in _LAYER.items()}
_SIDES = {"model.encoder.": "encoder.", "model.decoder.": ""}
_OWN = {f"{side}embed_tokens.weight": f"{half}token_embedding" for side, half in _SIDES.items()}
_NAMES: Names = {
    "lm_head.weight": "head",
    "final_logits_bias": Parts(("head.bias",), row=True),
    **{
        f"{side}{theirs}.{kind}": f"{half}{ours}{ending}"
        for side, half in _SIDES.items()
        for theirs, ours in _MODULES.items()
        for kind, ending in (("weight", ""), ("bias", ".bias"))
    },
}
# Besides those of `fairseq_names`.
LEARNED_POSITIONS = {
    f"{side}embed_positions.weight": f"{half}position_embedding" for side, half in _SIDES.items()
}
_COPIES = ("model.shared.weight", *_OWN)
COPIES = r"model\.(shared|(en|de)coder\.embed_tokens)\.weight"  # of an embedding
SOURCES = r"model\.decoder\.layers\.\d+\.encoder_attn.*"  # of a decoder alone, which has none
_MOST_SINUSOIDS = 1 << 26
TABLES = r"(encoder\.)?position_embedding"


def is_alone(config: Config) -> bool:
    """Whether the class is the decoder alone, which writes without a source."""
    return str(config.values["architectures"][0]).endswith("ForCausalLM")


def fairseq_names(config: Config) -> Names:
    """Their names -> ours, but for the tables of positions."""
    if is_alone(config):
        own = {theirs: ours for theirs, ours in _NAMES.items() if not theirs.startswith("model.encoder.")}
        own = {theirs: ours for theirs, ours in own.items() if "encoder_attn" not in theirs}
        return {"model.decoder.embed_tokens.weight": "token_embedding", **own}
    embeddings = _OWN if has_own_embeddings(config) else {one_of(config, _COPIES): "token_embedding"}
    return {**embeddings, **_NAMES}


def one_of(config: Config, copies: Sequence[str]) -> str:
    """The first copy of a tensor that the files hold: who writes them may leave out any but one."""
    return next((name for name in copies if name in config.tensors), copies[0])


def has_own_embeddings(config: Config) -> bool:
    """Whether each half has an embedding: by Marian's setting, or since nothing is tied, as transformers 5
    understands tie_word_embeddings, and the files hold them."""
    if not config.flag("share_encoder_decoder_embeddings", True):
        return True
    return not config.flag("tie_word_embeddings", True) and _OWN.keys() <= set(config.tensors)


def encoder_decoder(
    config: Config,
    encoder_layers: Sequence[LayerSpec],
    decoder_layers: Sequence[LayerSpec],
    *,
    d_model: int,
    encoder: Mapping[str, Any] = {},
    decoder: Mapping[str, Any] = {},
    **both: Any,
) -> ModelSpec:
    """Both halves. encoder, decoder: ModelSpec's fields of one of them, `both` of both."""
    n_vocab = config.integer("vocab_size", 1, MAX_VOCAB)
    usual: dict[str, Any] = {"d_model": d_model, "n_vocab": n_vocab} | both
    inner = ModelSpec(
        **(
            usual
            | {"kind": "encoder", "layers": encoder_layers, "has_head": False, "shares_embedding": True}
            | dict(encoder)
        )
    )
    return ModelSpec(
        **(usual | {"kind": "encoder-decoder", "layers": decoder_layers, "encoder": inner} | dict(decoder))
    )


def fairseq(
    config: Config,
    *,
    placement: str,
    offset: int = 0,
    scaled: bool = False,
    usual_activation: str = "gelu",
    logits_bias: bool = True,
    windows: Sequence[int] = (),
    encoder: Mapping[str, Any] = {},
    decoder: Mapping[str, Any] = {},
    **both: Any,
) -> ModelSpec:
    """An encoder-decoder with fairseq's settings and a position table in each half; or its decoder alone.

    placement         of norms
    offset            row of position 0
    scaled            whether embeddings are scaled if the file does not say
    logits_bias       whether the head has a bias
    windows           of the encoder's layers, none if empty
    encoder, decoder  ModelSpec's fields of one of them, `both` of both
    """
    n_positions, d_model = table_shape(config)
    act = activation(config, "activation_function", usual_activation)
    layers = {half: _layers(config, half, d_model, placement, act, windows) for half in _halves(config)}
    common: dict[str, Any] = {
        "max_positions": n_positions,
        "n_positions_learned": n_positions + offset,
        "position_offset": offset,
        "embedding_scale": math.sqrt(d_model) if config.flag("scale_embedding", scaled) else 1.0,
        "norm": "layer",
        "norm_eps": 1e-5,
        "final_norm": placement == "pre",
    }
    encoder = {"shares_embedding": not has_own_embeddings(config), **encoder}
    head = {"tied_head": config.flag("tie_word_embeddings", True), "head_bias": logits_bias}
    if is_alone(config):
        fields = common | head | {"head_bias": False} | both | dict(decoder)
        n_vocab = config.integer("vocab_size", 1, MAX_VOCAB)
        return ModelSpec(kind="decoder", n_vocab=n_vocab, d_model=d_model, layers=layers["decoder"], **fields)
    return encoder_decoder(
        config,
        *layers.values(),
        d_model=d_model,
        encoder=encoder,
        decoder=head | dict(decoder),
        **(common | both),
    )


def _halves(config: Config) -> tuple[str, ...]:
    return ("decoder",) if is_alone(config) else ("encoder", "decoder")


def _layers(
    config: Config, half: str, d_model: int, placement: Any, act: Any, windows: Sequence[int]
) -> list[LayerSpec]:
    n_heads = config.integer(f"{half}_attention_heads", 1, MAX_HEADS)
    if d_model % n_heads:
        raise config.wrong(f"{half}_attention_heads", f"a divisor of d_model = {d_model}")
    head_dim = d_model // n_heads
    settings: dict[str, Any] = {
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": head_dim,
        "d_ff": config.integer(f"{half}_ffn_dim", 1, MAX_INNER),
        "norm_placement": placement,
        "activation": act,
        "gated": False,
        "causal": half == "decoder",
        "cross_attention": half == "decoder" and not is_alone(config),
        "attention_scale": head_dim**-0.5,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    }
    if windows and half == "encoder":
        return [LayerSpec(**settings, sliding_window=window) for window in windows]
    return [LayerSpec(**settings)] * int(config.integer(f"{half}_layers", 1, MAX_LAYERS))


def table_shape(config: Config) -> tuple[int, int]:
    """Positions and columns of a position table."""
    n_positions = config.integer("max_position_embeddings", 1, MAX_POSITIONS)
    return n_positions, config.integer("d_model", 1, MAX_MODEL)


def sinusoid_shape(config: Config) -> tuple[int, int]:
    """The same of a table that is computed, so that nothing in the files bounds it."""
    n_positions, d_model = table_shape(config)
    if n_positions * d_model > _MOST_SINUSOIDS:
        raise config.wrong("max_position_embeddings", f"at most {_MOST_SINUSOIDS} numbers in its table")
    return n_positions, d_model


def halves(sines: NDArray[np.float64], cosines: NDArray[np.float64]) -> NDArray[np.float32]:
    """A table of positions: the sines of a row, then its cosines, as float32."""
    return np.concatenate([sines, cosines], axis=1).astype(np.float32)
