"""EXAONE 3, InternLM 3 and IQuest Coder: Llama by other names."""

from __future__ import annotations

import re

from tuili._core import ModelSpec
from tuili.loading.architectures import expect_only, llama
from tuili.loading.config import Config

_RENAMED = {
    "model.embed_tokens.": "transformer.wte.",
    "model.layers.": "transformer.h.",
    "model.norm.": "transformer.ln_f.",
    ".self_attn.o_proj.": ".attn.attention.out_proj.",
    ".self_attn.": ".attn.attention.",
    ".input_layernorm.": ".ln_1.",
    ".post_attention_layernorm.": ".ln_2.",
    ".mlp.gate_proj.": ".mlp.c_fc_0.",
    ".mlp.up_proj.": ".mlp.c_fc_1.",
    ".mlp.down_proj.": ".mlp.c_proj.",
}
_PATTERN = re.compile("|".join(re.escape(ours) for ours in _RENAMED))
# EXAONE's makers have names of their own, which transformers writes, too.
TENSOR_NAMES = llama.TENSOR_NAMES | {
    _PATTERN.sub(lambda match: _RENAMED[match[0]], theirs): ours
    for theirs, ours in llama.TENSOR_NAMES.items()
}
IGNORED_TENSORS = (r"transformer\.rotary\.inv_freq", r"transformer\.h\.\d+\.attn\.attention\.rotary\..*")


def spec(config: Config) -> ModelSpec:
    """ExaoneForCausalLM, InternLM3ForCausalLM, IQuestCoderForCausalLM."""
    config.fill({"rms_norm_eps": 1e-5})
    if config.values["architectures"] == ["IQuestCoderForCausalLM"]:  # of an earlier one, refused there, too
        expect_only(config, "clip_qkv")
        expect_only(config, "use_sliding_window", False)
    exaone = config.values["architectures"] == ["ExaoneForCausalLM"]
    return llama.spec(config, theta=500_000.0 if exaone else 10_000.0)
