"""What BERT's descendants share: activations, layers with norms behind each half, heads and their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuili._core import LayerSpec, ModelSpec, TaskHead
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures import Sizes, with_biases
from tuili.loading.architectures import activation as named_activation
from tuili.loading.config import Config
from tuili.loading.heads import WRITERS, n_outputs

BERT_WORDS = {
    "cls.predictions.transform.dense": "dense",
    "cls.predictions.transform.LayerNorm": "norm",
    "cls.predictions.decoder": "out",
}


def activation(config: Config, key: str = "hidden_act", default: str = "gelu") -> Any:
    """The activation that `key` names; ModelUnsupportedError for one that is not implemented."""
    return named_activation(config, key, default)


def refuse_flags(config: Config, *keys: str) -> None:
    """ModelUnsupportedError naming the first of `keys` that is true."""
    for key in keys:
        if config.flag(key, False):
            raise ModelUnsupportedError(f"{config.what}: {key} is true", code="config_unsupported")


def writes(config: Config) -> bool:
    """Whether the class is a decoder's, whose tokens see those before them alone.

    raises  ModelUnsupportedError if is_decoder says something else, or it also reads an encoder's states
    """
    refuse_flags(config, "add_cross_attention")
    if not _is_writer(config):
        refuse_flags(config, "is_decoder")
        return False
    if not config.flag("is_decoder", False):
        raise ModelUnsupportedError(
            f"{config.what}: is_decoder is not true, and a {config.values['architectures'][0]} whose tokens "
            "see both sides writes nothing",
            code="config_unsupported",
        )
    return True


def _is_writer(config: Config) -> bool:
    return str((config.values.get("architectures") or [""])[0]).endswith(WRITERS)


def bert_layer(size: Sizes, act: Any, **settings: Any) -> LayerSpec:
    """BERT's layer, but for `settings`: a norm after each half, biases everywhere, nothing hidden."""
    usual: dict[str, Any] = {
        "n_heads": size.n_heads,
        "n_kv_heads": size.n_heads,
        "head_dim": size.head_dim,
        "d_ff": size.d_ff,
        "norm_placement": "post",
        "activation": act,
        "gated": False,
        "causal": False,
        "attention_scale": size.head_dim**-0.5,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    }
    return LayerSpec(**(usual | settings))


def post_norm_encoder(
    config: Config,
    size: Sizes,
    layers: Sequence[LayerSpec],
    act: Any,
    *,
    sequence: str = "tanh",
    words_width: int | None = None,
    usual_eps: float = 1e-12,
    spans: bool = True,
    **settings: Any,
) -> ModelSpec:
    """BERT and its kin: normed embeddings, layers that end in a norm, and their heads. `sequence` is the
    activation of the head for sequences, `act` of the one for words, `words_width` the latter's width where
    it is not the model's, `spans` whether there is a head for spans. A decoder, by the name of its class, has
    the one for words."""
    words = words_head(config, words_width or size.d_model, act)
    shapes: dict[str, Mapping[str, Any]] = {
        "sequence": {"rows": "first", "d_inner": size.d_model, "activation": sequence},
        "tokens": {},
        "words": words,
    }
    if spans:
        shapes["spans"] = {}
    usual: dict[str, Any] = {
        "kind": "encoder",
        "n_vocab": size.n_vocab,
        "d_model": size.d_model,
        "max_positions": size.max_positions,
        "layers": layers,
        "embedding_norm": True,
        "norm": "layer",
        "norm_eps": config.number("layer_norm_eps", 1e-16, 1.0, usual_eps),
        "final_norm": False,
        "has_head": False,
    }
    if _is_writer(config):
        usual |= {"kind": "decoder", "has_head": True, "head_bias": True, "tied_head": words.pop("tied")}
        usual["task_head"] = TaskHead(n_out=0, **words)
    else:
        usual["task_head"] = task_head(config, shapes)
    return ModelSpec(**(usual | settings))


def task_head(config: Config, shapes: Mapping[str, Mapping[str, Any]]) -> TaskHead:
    """The head of a configuration. shapes: TaskHead's fields but n_out, per kind of head."""
    if config.head is None:
        return TaskHead(n_out=0)
    kind = _alike(config.head, shapes)
    if kind not in shapes:
        raise ModelUnsupportedError(
            f"{config.what}: architectures: this family has no such head", code="architecture"
        )
    return TaskHead(n_out=n_outputs(config), **shapes[kind])


def _alike(head: str, known: Mapping[str, Any]) -> str:
    """The kind in `known` that a head is: those of pairs are heads of sequences, unless they stand there."""
    return "sequence" if head in ("choices", "next") and head not in known else head


def words_head(config: Config, d_inner: int, act: Any) -> dict[str, Any]:
    """The fields of BERT's head for masked words."""
    tied = config.flag("tie_word_embeddings", True)
    return {"d_inner": d_inner, "activation": act, "norm": True, "tied": tied}


def prefixed(names: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """`names` with and without the prefix that checkpoints of a head's class put before the encoder's."""
    return {before + theirs: ours for before in ("", prefix) for theirs, ours in names.items()}


def head_names(config: Config, names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Their name -> ours of the head's tensors. names: per kind, their modules -> "dense", "norm", "out",
    which is a decoder's head."""
    if config.head is None and _is_writer(config):
        words = names.get("words", {}).items()
        return with_biases(
            (theirs, "head" if ours == "out" else f"task_head.{ours}") for theirs, ours in words
        )
    parts = names.get(_alike(config.head or "", names), {})
    return with_biases((theirs, f"task_head.{ours}") for theirs, ours in parts.items())
