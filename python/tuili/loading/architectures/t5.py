"""T5, mT5, UMT5 and Flan-T5: RMS norms before, no biases, unscaled attention with a bias for distances."""

from __future__ import annotations

from typing import Any

from tuili._core import LayerSpec, ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import ACTIVATIONS
from tuili.loading.architectures.seq2seq import encoder_decoder, one_of
from tuili.loading.config import MAX_HEAD_DIM, MAX_HEADS, MAX_INNER, MAX_LAYERS, MAX_MODEL, Config
from tuili.loading.position_bias import relative

_COPIES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
IGNORED_TENSORS = (r"(shared|(en|de)coder\.embed_tokens)\.weight", r"decoder\..*EncDecAttention\.relative.*")
UNTIES = False  # a head that files hold is used; tie_word_embeddings says how it is scaled
_LONGEST = 4096  # distances are in buckets, so any length is the model's; tables are made for as many
_MOST_BIASES = 4096  # each takes memory before a tensor is looked at
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_MODULES = {
    "SelfAttention": ("attention_norm", _ATTENTION),
    "EncDecAttention": ("cross_norm", {theirs: f"cross_{ours}" for theirs, ours in _ATTENTION.items()}),
    "DenseReluDense": ("mlp_norm", {"wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"}),
}


def tensor_names(config: Config) -> dict[str, str]:
    """Their names -> ours: the number of a part of a layer says what it is."""
    names = {one_of(config, _COPIES): "token_embedding", "lm_head.weight": "head"}
    for half, ours in (("encoder", "encoder."), ("decoder", "")):
        names[f"{half}.final_layer_norm.weight"] = f"{ours}final_norm"
        modules = [name for name in _MODULES if half == "decoder" or name != "EncDecAttention"]
        for i in range(_n_layers(config, half)):
            layer = f"{ours}layers.{i}."
            for part, module in enumerate(modules):
                theirs, (norm, linear) = f"{half}.block.{i}.layer.{part}", _MODULES[module]
                names[f"{theirs}.layer_norm.weight"] = layer + norm
                names |= {f"{theirs}.{module}.{name}.weight": layer + own for name, own in linear.items()}
            bias = f"{half}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight"
            names[bias] = f"{ours}position_biases.{i}"
    return names


def spec(config: Config) -> ModelSpec:
    """T5ForConditionalGeneration, MT5…, UMT5…: the last has a bias of its own in every layer."""
    d_model = config.integer("d_model", 1, MAX_MODEL)
    # Models that untie their head do not scale what it reads; transformers 5 has a key of its own for that.
    tied = config.flag("tie_word_embeddings", True)
    scales = not _is(config, "MT5") and config.flag("scale_decoder_outputs", tied)
    halves = [_half(config, half) for half in ("encoder", "decoder")]
    return encoder_decoder(
        config,
        *(layers for layers, _ in halves),
        d_model=d_model,
        encoder={"position_biases": halves[0][1]},
        decoder={
            "position_biases": halves[1][1],
            "tied_head": "lm_head.weight" not in config.tensors,
            "logit_scale": d_model**-0.5 if scales else 1.0,
        },
        max_positions=_LONGEST,
        norm="rms",
        norm_eps=config.number("layer_norm_epsilon", 1e-12, 1.0, 1e-6),
    )


def _is(config: Config, stem: str) -> bool:
    return bool(config.values["architectures"] == [f"{stem}ForConditionalGeneration"])


def _n_layers(config: Config, half: str) -> int:
    n = config.integer("num_layers", 1, MAX_LAYERS)
    return int(n if half == "encoder" else config.integer("num_decoder_layers", 1, MAX_LAYERS, n))


def _half(config: Config, half: str) -> tuple[list[LayerSpec], list[Any]]:
    """The layers of encoder or decoder, and their biases."""
    n_heads, n = config.integer("num_heads", 1, MAX_HEADS), _n_layers(config, half)
    n_buckets = config.integer("relative_attention_num_buckets", 4, 1 << 16, 32)
    farthest = config.integer("relative_attention_max_distance", n_buckets, 1 << 24, 128)
    own = _is(config, "UMT5")
    if n_heads * (n if own else 1) > _MOST_BIASES:
        raise config.wrong("num_heads", f"at most {_MOST_BIASES} biases of heads")
    bias = relative(n_heads, _LONGEST, n_buckets, farthest, both_sides=half == "encoder")
    gated, act = _activation(config)
    layers = [
        LayerSpec(
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=config.integer("d_kv", 1, MAX_HEAD_DIM),
            d_ff=config.integer("d_ff", 1, MAX_INNER),
            activation=act,
            gated=gated,
            position_bias=i if own else 0,
            causal=half == "decoder",
            cross_attention=half == "decoder",
            attention_scale=1.0,
        )
        for i in range(n)
    ]
    return layers, [bias] * (n if own else 1)


def _activation(config: Config) -> tuple[bool, Any]:
    """Whether the MLP is gated, and its activation: "relu", "gated-gelu", which approximates, and so on."""
    given = config.text("feed_forward_proj", "relu" if _is(config, "T5") else "gated-gelu")
    gated, name = given.startswith("gated-"), given.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise ModelUnsupportedError(
            f"{config.what}: feed_forward_proj is not an activation, or gated- and one",
            code="config_unsupported",
        )
    return gated, ACTIVATIONS["gelu_new" if given == "gated-gelu" else name]
