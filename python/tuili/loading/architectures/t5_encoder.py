"""T5's encoder alone (sentence-T5, GTR, and the text encoders of image models), for vectors of texts and
labels of tokens."""

from __future__ import annotations

from functools import partial

from tuili._core import ModelSpec
from tuili.loading.architectures.encoders import head_names, prefixed, task_head
from tuili.loading.architectures.encoders_from_gguf import embedding_from_gguf as embedding_from_gguf
from tuili.loading.architectures.seq2seq import one_of
from tuili.loading.architectures.t5_half import half, longest, norm
from tuili.loading.architectures.t5_names import gguf_half_names, half_from_gguf, half_names
from tuili.loading.config import MAX_MODEL, MAX_VOCAB, Config

_PREFIX = "transformer."  # of the class with labels
_COPIES = tuple(
    f"{before}{name}.weight" for before in ("", _PREFIX) for name in ("shared", "encoder.embed_tokens")
)
IGNORED_TENSORS = (
    r"(transformer\.)?(shared|encoder\.embed_tokens)\.weight",
    r"decoder\..*",
    r"lm_head\.weight",
)
GGUF_TENSOR_NAMES = {"token_embd.weight": "token_embedding", **gguf_half_names("enc", "")}
GGUF_IGNORED_TENSORS = (r"output\.weight",)
config_from_gguf = partial(half_from_gguf, end="EncoderModel")


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours."""
    names = {one_of(config, _COPIES): "token_embedding"} | half_names(config, "encoder", "")
    return prefixed(names, _PREFIX) | head_names(config, {"tokens": {"classifier": "out"}})


def spec(config: Config) -> ModelSpec:
    """T5EncoderModel, T5ForTokenClassification, MT5…, UMT5…; LongT5EncoderModel."""
    layers, biases = half(config, "encoder")
    return ModelSpec(
        kind="encoder",
        n_vocab=config.integer("vocab_size", 1, MAX_VOCAB),
        d_model=config.integer("d_model", 1, MAX_MODEL),
        max_positions=longest(config),
        layers=layers,
        position_biases=biases,
        has_head=False,
        task_head=task_head(config, {"tokens": {}}),
        **norm(config),
    )
