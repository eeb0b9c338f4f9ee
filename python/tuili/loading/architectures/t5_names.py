"""What the tensors of T5's halves are called in folders and in GGUF files, and what the latter say."""

from __future__ import annotations

from tuili.loading.architectures.from_gguf import gguf_config
from tuili.loading.architectures.t5_half import feed_forward, is_a, n_layers
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import Config
from tuili.loading.gguf_metadata import Metadata

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_MODULES = {
    "SelfAttention": ("attention_norm", _ATTENTION),
    "EncDecAttention": ("cross_norm", {theirs: f"cross_{ours}" for theirs, ours in _ATTENTION.items()}),
    "DenseReluDense": ("mlp_norm", {"wi": "up", "wi_0": "gate", "wi_1": "up", "wo": "down"}),
}
_GGUF_MODULES = {"SelfAttention": "attn", "EncDecAttention": "cross_attn", "DenseReluDense": "ffn"}
_GGUF_KEYS = {
    "d_model": "embedding_length",
    "d_kv": "attention.key_length",
    "d_ff": "feed_forward_length",
    "num_heads": "attention.head_count",
    "num_layers": "block_count",
    "num_decoder_layers": "decoder_block_count",
    "relative_attention_num_buckets": "attention.relative_buckets_count",
    "decoder_start_token_id": "decoder_start_token_id",
}
_GGUF_EPS = {"layer_norm_epsilon": "attention.layer_norm_rms_epsilon"}


def half_names(config: Config, name: str, ours: str) -> dict[str, str]:
    """Names of a half's tensors -> `ours` and our names: the number of a part of a layer says what it is."""
    names = {f"{name}.final_layer_norm.weight": f"{ours}final_norm"}
    modules = [module for module in _MODULES if name == "decoder" or module != "EncDecAttention"]
    gated, _ = feed_forward(config)
    other = ("wi",) if gated else ("wi_0", "wi_1")
    local = "Local" if is_a(config, "LongT5") and name == "encoder" else ""
    for i in range(n_layers(config, name)):
        layer = f"{ours}layers.{i}."
        for part, module in enumerate(modules):
            theirs, (norm_name, linear) = f"{name}.block.{i}.layer.{part}", _MODULES[module]
            module = local + module if part == 0 else module
            names[f"{theirs}.layer_norm.weight"] = layer + norm_name
            own_names = {their: own for their, own in linear.items() if their not in other}
            names |= {f"{theirs}.{module}.{their}.weight": layer + own for their, own in own_names.items()}
        bias = f"{name}.block.{i}.layer.0.{local}SelfAttention.relative_attention_bias.weight"
        names[bias] = f"{ours}position_biases.{i}"
    return names


def gguf_half_names(short: str, ours: str) -> dict[str, str]:
    """The same of a GGUF file, which calls the halves "enc" and "dec"."""
    names = {
        f"{short}.output_norm.weight": f"{ours}final_norm",
        f"{short}.blk.{{i}}.attn_rel_b.weight": f"{ours}position_biases.{{i}}",
    }
    for module, (norm_name, linear) in _MODULES.items():
        theirs, layer = f"{short}.blk.{{i}}.{_GGUF_MODULES[module]}_", f"{ours}layers.{{i}}."
        names[f"{theirs}norm.weight"] = layer + norm_name
        letters = {own: own for own in linear.values()} if module == "DenseReluDense" else linear
        names |= {f"{theirs}{their}.weight": layer + own for their, own in letters.items()}
    return names


def half_from_gguf(metadata: Metadata, checkpoint: Checkpoint, end: str) -> Config:
    """The settings of a GGUF file; it does not say how far distances reach: 128, as llama.cpp has it.

    end  of the class's name
    """
    config = gguf_config(metadata, _GGUF_EPS, _GGUF_KEYS)
    found = checkpoint.tensors
    config.update(
        architectures=[("UMT5" if "enc.blk.1.attn_rel_b.weight" in found else "T5") + end],
        feed_forward_proj="gated-gelu" if "enc.blk.0.ffn_gate.weight" in found else "relu",
        tie_word_embeddings="output.weight" not in found,
        eos_token_id=metadata.get_u32("tokenizer.ggml.eos_token_id", None),
    )
    return config
