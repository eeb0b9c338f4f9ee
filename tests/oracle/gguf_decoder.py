"""A trusted GGUF file as a float32 transformers model: LlamaForCausalLM or Gemma3ForCausalLM.

The configuration is written out from the file's metadata instead of using transformers' own GGUF
import, so that each convention of the format is visible in one place:
- llama.cpp stores the q and k rows of Llama models in the order of interleaved rotary pairs;
- Gemma's norm weights are stored as 1 + w, transformers keeps w;
- Gemma 3's local rotary base and the pattern of global layers are not in the file.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

from .gguf_metadata import Metadata

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORM_BEFORE_MLP = {"llama": "post_attention_layernorm", "gemma3": "pre_feedforward_layernorm"}
_GEMMA3_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load(path: Path) -> torch.nn.Module:
    """The model of a GGUF file with every tensor dequantized to float32, in evaluation mode.

    raises  ValueError if the architecture is neither llama nor gemma3, or a tensor is left over or missing
    """
    reader = gguf.GGUFReader(path)
    metadata = Metadata(reader)
    config, model_class = _config(metadata, tied=all(t.name != "output.weight" for t in reader.tensors))
    model = model_class._from_config(config, attn_implementation="eager", dtype=torch.float32)
    missing, unexpected = model.load_state_dict(_weights(reader, metadata), strict=False)
    if unexpected or missing not in ([], ["lm_head.weight"]):
        raise ValueError(f"{path}: tensors missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model.eval()


def _config(metadata: Metadata, *, tied: bool) -> tuple[transformers.PreTrainedConfig, type]:
    shared = {
        "vocab_size": len(metadata.general("tokenizer.ggml.tokens")),
        "hidden_size": metadata["embedding_length"],
        "intermediate_size": metadata["feed_forward_length"],
        "num_hidden_layers": metadata["block_count"],
        "num_attention_heads": metadata["attention.head_count"],
        "num_key_value_heads": metadata["attention.head_count_kv"],
        "max_position_embeddings": metadata["context_length"],
        "rms_norm_eps": metadata["attention.layer_norm_rms_epsilon"],
        "bos_token_id": metadata.general("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.general("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.general("tokenizer.ggml.padding_token_id"),
        "tie_word_embeddings": tied,
        "use_cache": True,
    }
    theta = metadata["rope.freq_base"]
    if metadata.architecture == "llama":
        rope = {"rope_type": "default", "rope_theta": theta}
        return transformers.LlamaConfig(**shared, rope_parameters=rope), transformers.LlamaForCausalLM
    if metadata.architecture == "gemma3":
        n_layers = shared["num_hidden_layers"]
        # Of the published configuration, absent from the file: query_pre_attn_scalar = head_dim for all
        # sizes but 27B, a local rotary base of 10,000, and every sixth layer global.
        config = transformers.Gemma3TextConfig(
            **shared,
            head_dim=metadata["attention.key_length"],
            query_pre_attn_scalar=metadata["attention.key_length"],
            sliding_window=metadata["attention.sliding_window"],
            layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(n_layers)],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": theta},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        )
        return config, transformers.Gemma3ForCausalLM
    raise ValueError(f"no reference for architecture {metadata.architecture!r}")


def _weights(reader: gguf.GGUFReader, metadata: Metadata) -> dict[str, torch.Tensor]:
    weights = {}
    for tensor in reader.tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if metadata.architecture == "gemma3" and tensor.name.endswith("norm.weight"):
            values -= 1.0
        if metadata.architecture == "llama" and tensor.name.endswith("attn_q.weight"):
            values = _halves_from_pairs(values, metadata["attention.head_count"])
        if metadata.architecture == "llama" and tensor.name.endswith("attn_k.weight"):
            values = _halves_from_pairs(values, metadata["attention.head_count_kv"])
        weights[_name(tensor.name, metadata.architecture)] = torch.from_numpy(values)
    return weights


def _name(name: str, architecture: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.weight"
    names = _LAYER_NAMES | {"ffn_norm": _NORM_BEFORE_MLP[architecture]}
    if architecture == "gemma3":
        names |= _GEMMA3_NAMES
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{names[part]}.weight"


def _halves_from_pairs(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows [n_heads * head_dim, k] from the order of rotary pairs (2i, 2i + 1) to (i, i + head_dim / 2)."""
    n_rows, k = rows.shape
    pairs = rows.reshape(n_heads, n_rows // n_heads // 2, 2, k)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(n_rows, k)
