"""GGUF files of Gemma 2 and 3: names of tensors, and what they say."""

from __future__ import annotations

from tuili.loading.architectures import sizes
from tuili.loading.architectures.from_gguf import (
    DECODER_GGUF_NAMES,
    GGUF_POST_NORMS,
    GGUF_QK_NORMS,
    GGUF_WINDOW,
    decoder_config,
)
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

GEMMA2_NAMES = DECODER_GGUF_NAMES | GGUF_POST_NORMS
GEMMA3_NAMES = GEMMA2_NAMES | GGUF_QK_NORMS


def gemma2_config(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gemma2"."""
    caps = {key: key for key in ("attn_logit_softcapping", "final_logit_softcapping")}
    config = decoder_config(metadata, checkpoint, numbers=caps, integers=GGUF_WINDOW)
    config.update(query_pre_attn_scalar=_scalar(config, scaled=46))
    optional = (*caps, "sliding_window")  # which files of June 2024 leave out
    config.values = {key: x for key, x in config.values.items() if key in config or key not in optional}
    return config


def gemma3_config(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "gemma3"."""
    config = decoder_config(metadata, checkpoint, integers=GGUF_WINDOW)
    config.update(
        query_pre_attn_scalar=_scalar(config, scaled=62),
        final_logit_softcapping=metadata.get_f32("gemma3.final_logit_softcapping", None),
        rope_local_base_freq=metadata.get_f32("gemma3.rope.freq_base_swa", None),
        sliding_window_pattern=metadata.get_u32("gemma3.attention.sliding_window_pattern", None),
    )
    return config


def _scalar(config: Config, scaled: int) -> float:
    """What the attention scale is 1 / sqrt of: the size of a head, but in the largest model, 27B.

    scaled  its layers
    """
    size = sizes(config)
    return size.d_model / size.n_heads if size.n_layers == scaled else size.head_dim
