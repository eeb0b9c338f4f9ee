"""T5, mT5, UMT5, Flan-T5 and LongT5: two halves (t5_half.py) and a head that models with a tied one scale."""

from __future__ import annotations

from functools import partial

from tuili._core import ModelSpec
from tuili.loading.architectures.seq2seq import encoder_decoder, one_of
from tuili.loading.architectures.t5_half import half, is_a, longest, norm
from tuili.loading.architectures.t5_names import gguf_half_names, half_from_gguf, half_names
from tuili.loading.config import MAX_MODEL, Config

_COPIES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEADS = ("lm_head.weight", "output.weight")  # of a folder, of a GGUF file
IGNORED_TENSORS = (r"(shared|(en|de)coder\.embed_tokens)\.weight", r"decoder\..*EncDecAttention\.relative.*")
UNTIES = False  # a head that files hold is used; tie_word_embeddings says how it is scaled
GGUF_IGNORED_TENSORS = (r"dec\.blk\.\d+\.cross_attn_rel_b\.weight",)  # of no use


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours."""
    names = {one_of(config, _COPIES): "token_embedding", _HEADS[0]: "head"}
    return names | half_names(config, "encoder", "encoder.") | half_names(config, "decoder", "")


GGUF_TENSOR_NAMES = {
    "token_embd.weight": "token_embedding",
    _HEADS[1]: "head",
    **gguf_half_names("enc", "encoder."),
    **gguf_half_names("dec", ""),
}
config_from_gguf = partial(half_from_gguf, end="ForConditionalGeneration")


def spec(config: Config) -> ModelSpec:
    """T5ForConditionalGeneration, MT5…, UMT5…, LongT5…"""
    d_model = config.integer("d_model", 1, MAX_MODEL)
    # Models that untie their head do not scale what it reads; transformers 5 has a key of its own for that.
    tied = config.flag("tie_word_embeddings", True)
    scales = not is_a(config, "MT5") and config.switch("scale_decoder_outputs", tied)
    halves = [half(config, name) for name in ("encoder", "decoder")]
    return encoder_decoder(
        config,
        *(layers for layers, _ in halves),
        d_model=d_model,
        encoder={"position_biases": halves[0][1]},
        decoder={
            "position_biases": halves[1][1],
            "tied_head": not any(name in config.tensors for name in _HEADS),
            "logit_scale": d_model**-0.5 if scales else 1.0,
        },
        max_positions=longest(config),
        **norm(config),
    )
