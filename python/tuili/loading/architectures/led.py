"""LED: BART whose encoder sees as far as a window, and reads texts of another length than it writes."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import with_biases
from tuili.loading.architectures.seq2seq import COPIES, LEARNED_POSITIONS, fairseq, fairseq_names
from tuili.loading.config import MAX_LAYERS, MAX_POSITIONS, Config
from tuili.loading.layout import Names

BASE_PREFIX = "led."
_ATTENTION = "model.encoder.layers.{i}.self_attn"
_PARTS = {f"longformer_self_attn.{part}": part for part in ("query", "key", "value")} | {"output": "output"}
_OWN = with_biases(
    (f"{_ATTENTION}.{theirs}", f"encoder.layers.{{i}}.{ours}") for theirs, ours in _PARTS.items()
)
# What tokens that all others see would have besides: nobody is asked which these are.
IGNORED_TENSORS = (
    COPIES.replace("model", "led"),
    r"led\.encoder\.layers\.\d+\.self_attn\.longformer_self_attn\.(query|key|value)_global\.(weight|bias)",
)


def tensor_names(config: Config) -> Names:
    """Their names -> ours."""
    names = {**fairseq_names(config), **LEARNED_POSITIONS, **_OWN}
    plain = "model.encoder.layers.{i}.self_attn."
    linear = tuple(f"{plain}{part}_proj" for part in ("q", "k", "v", "out"))
    return {
        theirs.replace("model.", "led.", 1): ours
        for theirs, ours in names.items()
        if not theirs.startswith(linear)
    }


def attention_windows(config: Config, n_layers: int) -> list[int]:
    """How far each layer's tokens see on either side, themselves included: Longformer's windows."""
    given = config.values.get("attention_window", 512)
    each = given if isinstance(given, list) else [given] * n_layers
    even = all(type(n) is int and 0 < n <= MAX_POSITIONS and n % 2 == 0 for n in each)
    if len(each) != n_layers or not even:
        raise config.wrong("attention_window", f"an even number, or {n_layers} of them")
    return [n // 2 + 1 for n in each]


def spec(config: Config) -> ModelSpec:
    """LEDForConditionalGeneration, of which no token sees all others, as transformers' pipelines ask it."""
    config.tensors = [name.replace("led.", "model.", 1) for name in config.tensors]  # as `fairseq` calls them
    windows = attention_windows(config, config.integer("encoder_layers", 1, MAX_LAYERS))
    n_read = config.integer("max_encoder_position_embeddings", 1, MAX_POSITIONS, 16384)
    n_written = config.integer("max_decoder_position_embeddings", 1, MAX_POSITIONS, 1024)
    config.ignore("scale_embedding", False)
    config.update(max_position_embeddings=n_written, scale_embedding=False)
    return fairseq(
        config,
        placement="post",
        windows=windows,
        encoder={"max_positions": n_read, "n_positions_learned": n_read},
        embedding_norm=True,
    )


def constants(config: Config) -> dict[str, float]:
    """The bias of the logits, which files may leave out."""
    return {r"head\.bias": 0.0}
