"""DeBERTa-v2 and -v3: BERT whose scores also tell the distance of query and key, by a table that each layer
maps to keys and queries of its own; a convolution behind the first layer of some."""

from __future__ import annotations

from typing import Any

from tuili._core import ConvolutionSpec, ModelSpec
from tuili.loading.architectures import expect_only, sizes
from tuili.loading.architectures.deberta_distances import distances_of, named_kinds
from tuili.loading.architectures.deberta_rows import derive as derive
from tuili.loading.architectures.deberta_v2_names import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.deberta_v2_names import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.deberta_v2_names import tensor_names as tensor_names
from tuili.loading.architectures.encoders import activation, bert_layer, post_norm_encoder
from tuili.loading.config import MAX_MODEL, Config


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
        config.update(tie_word_embeddings=True)  # it has no matrix of its own
        if width != size.d_model:
            raise config.wrong("embedding_size", f"hidden_size = {size.d_model}, for the head for words")
    act = activation(config)
    n_scores = 1 + len(named_kinds(config))  # also where there is no table
    layer = bert_layer(size, act, attention_scale=(size.head_dim * n_scores) ** -0.5)
    more: dict[str, Any] = {"distances": distances} if (distances := distances_of(config)) else {}
    if n_taps:
        more["convolution"] = ConvolutionSpec(
            n_taps=n_taps, activation=activation(config, "conv_act", "tanh")
        )
    return post_norm_encoder(
        config,
        size,
        [layer] * size.n_layers,
        act,
        sequence=activation(config, "pooler_hidden_act", "gelu"),
        words_width=width if legacy else size.d_model,
        usual_eps=1e-7,
        d_embedding=width if width != size.d_model else 0,
        project_last=width != size.d_model,
        norm_projected=width != size.d_model,
        n_positions_learned=size.max_positions if config.flag("position_biased_input", True) else 0,
        n_token_types=config.integer("type_vocab_size", 0, 1024, 0),
        **more,
    )
