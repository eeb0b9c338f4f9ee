"""CodeGen: GPT-J with a fused projection, in the four parts that it was trained in."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import gptj, without
from tuili.loading.config import MAX_MODEL, Config
from tuili.loading.layout import Parts

_N_PARTS = 4
_QVK = ("layers.{i}.query", "layers.{i}.value", "layers.{i}.key")

BASE_PREFIX = gptj.BASE_PREFIX
TENSOR_NAMES = without(gptj.TENSOR_NAMES, "q_proj", "k_proj", "v_proj") | {
    "transformer.h.{i}.attn.qkv_proj.weight": Parts(_QVK, "heads", n_groups=_N_PARTS)
}
IGNORED_TENSORS = (r"(transformer\.)?h\.\d+\.attn\.causal_mask",)


def spec(config: Config) -> ModelSpec:
    """CodeGenForCausalLM."""
    if config.integer("n_embd", 1, MAX_MODEL) % _N_PARTS:
        raise config.wrong("n_embd", f"a multiple of {_N_PARTS}")
    return gptj.spec(config)
