"""ModernBERT: norms before each half, rotary positions, gated MLPs, windows in two of three layers."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import fused, sizes, with_biases
from tuili.loading.architectures.encoders import head_names, prefixed, task_head
from tuili.loading.architectures.modernbert_layers import inner_head, layers_of, ropes_of
from tuili.loading.config import MAX_POSITIONS, Config

_BODY: dict[str, Any] = {
    "embeddings.tok_embeddings.weight": "token_embedding",
    **fused("layers.{i}.attn.Wqkv"),
    **fused("layers.{i}.mlp.Wi", parts=("gate", "up")),
    **with_biases(
        [
            ("embeddings.norm", "embedding_norm"),
            ("layers.{i}.attn.Wo", "layers.{i}.output"),
            ("layers.{i}.attn_norm", "layers.{i}.attention_norm"),
            ("layers.{i}.mlp.Wo", "layers.{i}.down"),
            ("layers.{i}.mlp_norm", "layers.{i}.mlp_norm"),
            ("final_norm", "final_norm"),
        ]
    ),
}
_HEAD = {"head.dense": "dense", "head.norm": "norm"}
_HEADS = {kind: _HEAD | {"classifier": "out"} for kind in ("sequence", "tokens", "spans")}
_HEADS["words"] = _HEAD | {"decoder": "out"}
IGNORED_TENSORS = (r"head\..*", r"decoder\..*")


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, with those of the head that the configuration has."""
    return prefixed(_BODY, "model.") | head_names(config, _HEADS)


def constants(config: Config) -> dict[str, float]:
    """Norms without a bias."""
    return {} if config.flag("norm_bias", False) else {r"(.*_|.*\.)norm\.bias": 0.0}


def spec(config: Config) -> ModelSpec:
    """ModernBertModel and its heads; local_attention counts keys on both sides."""
    size = sizes(config)
    reach = config.integer("local_attention", 0, MAX_POSITIONS, 128) // 2 + 1
    head = inner_head(config)
    answer = head | {"tied": False}
    pooling = {"cls": "first", "mean": "mean"}[config.choice("classifier_pooling", ("cls", "mean"), "cls")]
    heads = dict.fromkeys(("tokens", "spans"), answer) | {"sequence": answer | {"rows": pooling}}
    heads["words"] = head | {"out_bias": config.flag("decoder_bias", True)}
    return ModelSpec(
        kind="encoder",
        n_vocab=size.n_vocab,
        d_model=size.d_model,
        max_positions=size.max_positions,
        layers=layers_of(config, size, reach, causal=False),
        ropes=ropes_of(config, size),
        embedding_norm=True,
        norm="layer",
        norm_eps=config.number("norm_eps", 1e-16, 1.0, 1e-5),
        has_head=False,
        task_head=task_head(config, heads),
    )
