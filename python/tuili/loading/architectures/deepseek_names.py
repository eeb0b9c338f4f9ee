"""What the tensors of DeepSeek-V2 and V3 are called in folders."""

from __future__ import annotations

from tuili.loading.architectures import ATTENTION_BIASES, LLAMA_NAMES, expert_names, without
from tuili.loading.layout import Parts

_ATTENTION, _OURS = "model.layers.{i}.self_attn", "layers.{i}"
QUERY = Parts((f"{_OURS}.query_nope", f"{_OURS}.query_rope"), "heads")
LATENT = Parts((f"{_OURS}.latent", f"{_OURS}.key_rope"))
KEY_VALUE = Parts((f"{_OURS}.key_nope", f"{_OURS}.value"), "heads")
_SHARED = "model.layers.{i}.mlp.shared_experts"
TENSOR_NAMES = (
    without(LLAMA_NAMES, "q_proj", "k_proj", "v_proj")
    | without(ATTENTION_BIASES, "q_proj", "k_proj", "v_proj")
    | expert_names("model.layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
    | {
        f"{_ATTENTION}.q_proj.weight": QUERY,
        f"{_ATTENTION}.q_a_proj.weight": f"{_OURS}.query_in",
        f"{_ATTENTION}.q_a_proj.bias": f"{_OURS}.query_in.bias",
        f"{_ATTENTION}.q_a_layernorm.weight": f"{_OURS}.query_latent_norm",
        f"{_ATTENTION}.q_b_proj.weight": QUERY,
        f"{_ATTENTION}.kv_a_proj_with_mqa.weight": LATENT,
        f"{_ATTENTION}.kv_a_proj_with_mqa.bias": Parts((f"{_OURS}.latent.bias", f"{_OURS}.key_rope.bias")),
        f"{_ATTENTION}.kv_a_layernorm.weight": f"{_OURS}.latent_norm",
        f"{_ATTENTION}.kv_b_proj.weight": KEY_VALUE,
        "model.layers.{i}.mlp.gate.e_score_correction_bias": f"{_OURS}.selection_bias",
        f"{_SHARED}.gate_proj.weight": f"{_OURS}.shared.gate",
        f"{_SHARED}.up_proj.weight": f"{_OURS}.shared.up",
        f"{_SHARED}.down_proj.weight": f"{_OURS}.shared.down",
    }
)
IGNORED_TENSORS = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"model\.layers\.\d+\.(eh_proj|enorm|hnorm|embed_tokens|shared_head\.\w+)\.weight",  # guesses ahead
)
