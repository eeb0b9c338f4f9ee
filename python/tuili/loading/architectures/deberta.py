"""DeBERTa: its second version without buckets, convolutions or shared maps, and with a fused projection."""

from __future__ import annotations

from typing import Any

from tuili._core import ModelSpec
from tuili.loading.architectures import deberta_v2
from tuili.loading.architectures.deberta_distances import named_kinds
from tuili.loading.architectures.deberta_v2_names import IGNORED_TENSORS as _IGNORED
from tuili.loading.architectures.deberta_v2_names import SECOND_NAMES as SECOND_NAMES
from tuili.loading.architectures.deberta_v2_names import tensor_names as _second_names
from tuili.loading.architectures.encoders import prefixed, refuse_flags
from tuili.loading.config import Config
from tuili.loading.layout import Parts

_AT, _OURS = "encoder.layer.{i}.attention.self", "layers.{i}"
_OWN = {
    f"{_AT}.in_proj.weight": Parts((f"{_OURS}.query", f"{_OURS}.key", f"{_OURS}.value"), "heads"),
    f"{_AT}.q_bias": f"{_OURS}.query.bias",
    f"{_AT}.v_bias": f"{_OURS}.value.bias",
    f"{_AT}.pos_proj.weight": f"{_OURS}.distance_key",
    f"{_AT}.pos_q_proj.weight": f"{_OURS}.distance_query",
    f"{_AT}.pos_q_proj.bias": f"{_OURS}.distance_query.bias",
}
# What the first version does not read.
_UNREAD = ("position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "attention_head_size")
IGNORED_TENSORS = (*_IGNORED, r".*\.(pos_proj|pos_q_proj)\..*")


def _read(config: Config) -> Config:
    config.update(**dict.fromkeys(_UNREAD))
    return config


def tensor_names(config: Config) -> dict[str, Any]:
    """Their names -> ours, of what a model with these settings has."""
    names = _second_names(_read(config))
    return {theirs: ours for theirs, ours in names.items() if ".attention.self." not in theirs} | prefixed(
        _OWN, "deberta."
    )


def spec(config: Config) -> ModelSpec:
    """DebertaModel and its heads."""
    refuse_flags(config, "talking_head")
    kinds: Any = config.values.get("pos_att_type")
    parts = kinds.split("|") if isinstance(kinds, str) else kinds or []
    if len(named_kinds(config)) != len(parts):  # the class divides scores by how many there are, of any name
        raise config.wrong("pos_att_type", "c2p and p2c, each once at most")
    return deberta_v2.spec(_read(config))


def constants(config: Config) -> dict[str, float]:
    """Keys have no biases."""
    return {r"layers\.\d+\.(distance_)?key\.bias": 0.0}
