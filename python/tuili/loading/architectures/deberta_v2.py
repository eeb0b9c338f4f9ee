"""DeBERTa-v2 and -v3: BERT whose scores also tell the distance of query and key, by a table that each layer
maps to keys and queries of its own; a convolution behind the first layer of some."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuili._core import ConvolutionSpec, DistanceSpec, ModelSpec
from tuili.loading.architectures import expect_only, sizes
from tuili.loading.architectures.encoders import (
    activation,
    head_names,
    post_norm_encoder,
    post_norm_layer,
    prefixed,
    with_biases,
)
from tuili.loading.config import MAX_MODEL, MAX_POSITIONS, Config
from tuili.loading.distances import buckets
from tuili.loading.layout import Parts

_MOST_POSITIONS = 1 << 16  # whose distances are listed, one by one

_BODY: dict[str, Any] = {
    "embeddings.word_embeddings.weight": "token_embedding",
    "embeddings.token_type_embeddings.weight": "token_type_embedding",
    "embeddings.embed_proj.weight": "embedding_in",
    "encoder.conv.conv.weight": Parts(("convolution",), flat=True),
    "encoder.conv.conv.bias": "convolution.bias",
} | with_biases(
    [
        ("embeddings.LayerNorm", "embedding_norm"),
        ("encoder.conv.LayerNorm", "convolution_norm"),
        *(
            (f"encoder.layer.{{i}}.{theirs}", f"layers.{{i}}.{ours}")
            for theirs, ours in (
                ("attention.self.query_proj", "query"),
                ("attention.self.key_proj", "key"),
                ("attention.self.value_proj", "value"),
                ("attention.output.dense", "output"),
                ("attention.output.LayerNorm", "attention_norm"),
                ("intermediate.dense", "up"),
                ("output.dense", "down"),
                ("output.LayerNorm", "mlp_norm"),
            )
        ),
    ]
)
_POSITIONS = {"embeddings.position_embeddings.weight": "position_embedding"}
_DISTANCES = {"encoder.rel_embeddings.weight": "distance_table"}
_DISTANCES_NORM = with_biases([("encoder.LayerNorm", "distance_norm")])
_OWN_MAPS = {
    "c2p": with_biases([("encoder.layer.{i}.attention.self.pos_key_proj", "layers.{i}.distance_key")]),
    "p2c": with_biases([("encoder.layer.{i}.attention.self.pos_query_proj", "layers.{i}.distance_query")]),
}
_HEADS = {
    "sequence": {"pooler.dense": "dense", "classifier": "out"},
    "tokens": {"classifier": "out"},
    "spans": {"qa_outputs": "out"},
}
_LEGACY_WORDS = {
    "cls.predictions.transform.dense": "dense",
    "cls.predictions.transform.LayerNorm": "norm",
    "cls.predictions.decoder": "out",
}
_WORDS = {"lm_predictions.lm_head.dense": "dense", "lm_predictions.lm_head.LayerNorm": "norm"}
SECOND_NAMES = {
    "cls.predictions.bias": "task_head.out.bias",
    "lm_predictions.lm_head.bias": "task_head.out.bias",
}
# What models of some settings do not use, and heads of the training that no task asks.
IGNORED_TENSORS = (
    r"(deberta\.)?embeddings\.(position_ids|position_embeddings\.weight)",
    r"(deberta\.)?encoder\.(rel_embeddings|LayerNorm)\..*",
    r".*\.(pos_key_proj|pos_query_proj)\..*",
    r"(cls|pooler|lm_predictions|mask_predictions)\..*",
)


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, of what a model with these settings has."""
    names: dict[str, Any] = dict(_BODY)
    if config.flag("position_biased_input", True):
        names |= _POSITIONS
    if kinds := _kinds(config):
        names |= _DISTANCES | (_DISTANCES_NORM if _is_normed(config) else {})
        if not config.flag("share_att_key", False):
            for kind in kinds:
                names |= _OWN_MAPS[kind]
    words = _LEGACY_WORDS if config.flag("legacy", True) else _WORDS
    return prefixed(names, "deberta.") | head_names(config, _HEADS | {"words": words})


def spec(config: Config) -> ModelSpec:
    """DebertaV2Model and its heads."""
    size = sizes(config)
    width = config.integer("embedding_size", 1, MAX_MODEL, size.d_model)
    expect_only(config, "conv_groups", 1)
    expect_only(config, "pooler_hidden_size", size.d_model)
    expect_only(config, "attention_head_size", size.head_dim)
    n_taps = config.integer("conv_kernel_size", 0, 255, 0)
    if n_taps and n_taps % 2 == 0:
        raise config.wrong("conv_kernel_size", "an odd number")
    legacy = config.flag("legacy", True)
    if config.head == "words" and not legacy:
        config.values = {**config.values, "tie_word_embeddings": True}  # it has no matrix of its own
        if width != size.d_model:
            raise config.wrong("embedding_size", f"hidden_size = {size.d_model}, for the head for words")
    act = activation(config)
    n_scores = 1 + len(_named_kinds(config))  # also where there is no table
    layer = post_norm_layer(size, act, attention_scale=(size.head_dim * n_scores) ** -0.5)
    more: dict[str, Any] = {"distances": distances} if (distances := _distances(config)) else {}
    if n_taps:
        more["convolution"] = ConvolutionSpec(n_taps=n_taps, activation=_or_tanh(config, "conv_act", "tanh"))
    return post_norm_encoder(
        config,
        size,
        [layer] * size.n_layers,
        act,
        sequence=_or_tanh(config, "pooler_hidden_act", "gelu"),
        words_width=width if legacy else size.d_model,
        usual_eps=1e-7,
        d_embedding=width if width != size.d_model else 0,
        project_last=width != size.d_model,
        norm_projected=width != size.d_model,
        n_positions_learned=size.max_positions if config.flag("position_biased_input", True) else 0,
        n_token_types=config.integer("type_vocab_size", 0, 1024, 0),
        **more,
    )


def _or_tanh(config: Config, key: str, usual: str) -> Any:
    """The activation that `key` names, which may be tanh, too."""
    return "tanh" if config.text(key, usual) == "tanh" else activation(config, key, usual)


def _named_kinds(config: Config) -> list[str]:
    """Of "c2p" (queries meet the table's keys) and "p2c" (keys meet its queries), those named."""
    given: Any = config.values.get("pos_att_type") or []
    if isinstance(given, str):
        given = [kind.strip() for kind in given.lower().split("|")]
    if not isinstance(given, list) or not all(isinstance(kind, str) for kind in given):
        raise config.wrong("pos_att_type", "a list of c2p and p2c")
    return [kind for kind in ("c2p", "p2c") if kind in given]


def _kinds(config: Config) -> list[str]:
    return _named_kinds(config) if config.flag("relative_attention", False) else []


def _is_normed(config: Config) -> bool:
    named = config.text("norm_rel_ebd", "none") or "none"
    return "layer_norm" in [part.strip() for part in named.lower().split("|")]


def _distances(config: Config) -> DistanceSpec | None:
    kinds = _kinds(config)
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
        norm=_is_normed(config),
    )
