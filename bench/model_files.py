"""The models in the formats compared, made once from tuili's built-in models and kept in a work folder.

SmolLM2 is published here as Q4_1. Its other formats are second quantizations of those weights: made for
speed, not for quality.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BUILT_IN = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma3-270m", "minilm": "all-minilm-l6-v2"}
ORIGINALS = {"smollm2-q4_1": "smollm2", "gemma3-q4_k_m": "gemma3"}

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class ModelFiles:
    """work  folder for what is made; `models` may give paths of built-in models, others are pulled."""

    def __init__(self, work: Path, models: dict[str, Path] | None = None) -> None:
        self._work, self._models = work, dict(models or {})

    def built_in(self, name: str) -> Path:
        if name not in self._models:
            from tuili.loading import store

            self._models[name] = Path(store.pull(BUILT_IN[name]))
        return self._models[name]

    def tokenizer_json(self, variant: str) -> Path | None:
        return self.built_in("minilm") / "tokenizer.json" if variant.startswith("minilm") else None

    def gguf(self, variant: str) -> Path:
        variant = variant.partition("+")[0]
        if variant in ORIGINALS:
            return self.built_in(ORIGINALS[variant])
        target = self._work / f"{variant}.gguf"
        kind = variant.partition("-")[2].upper()
        if not target.exists():
            source = self.built_in("smollm2")
            with whole(target) as partial:
                _requantize(source, partial, kind)
        return target

    def folder(self, variant: str) -> Path:
        """The Hugging Face folder that converters start from."""
        if variant.startswith("minilm"):
            return self.built_in("minilm")
        target = self._work / "smollm2-float32-hf"
        if not target.exists():
            source = self.built_in("smollm2")
            with whole(target) as partial:
                _write_folder(source, partial)
        return target

    def converted(self, peer: str, variant: str, convert: Callable[[Path, Path], None]) -> Path:
        """A peer's own format; convert(source, target) runs if it has not been made."""
        target = self._work / f"{variant}-{peer}"
        if not target.exists():
            source = self.folder(variant)
            with whole(target) as partial:
                convert(source, partial)
        return target


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path to write to that becomes `target` only if nothing failed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield folder / target.name
        (folder / target.name).rename(target)
    finally:
        shutil.rmtree(folder)


def _requantize(source: Path, target: Path, kind: str) -> None:
    """GGUF with each matrix in `kind`, and the embedding, which is the head, in 8 bits if that is less.

    So does llama-quantize: 576 columns do not fit the 256 of Q6_K, and the head falls back to Q8_0.
    """
    import gguf
    from gguf.constants import GGMLQuantizationType as Type

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        into = Type[kind] if values.ndim > 1 else Type.F32
        if tensor.name in ("token_embd.weight", "output.weight") and kind.startswith("Q"):
            into = Type.Q8_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, into), raw_dtype=into)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_folder(source: Path, target: Path) -> None:
    """LlamaForCausalLM in float32: config.json, model.safetensors and the tokenizer's files."""
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(source)

    def metadata(name: str) -> Any:
        return reader.fields[name].contents()

    heads = {
        "attn_q": metadata("llama.attention.head_count"),
        "attn_k": metadata("llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = tensor.name.removesuffix(".weight").rpartition(".")[2]
        if part in heads:
            values = _halves_from_pairs(values, heads[part])
        weights[_huggingface_name(tensor.name)] = values
    target.mkdir()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = _config(metadata, tied="lm_head.weight" not in weights)
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _write_tokenizer(metadata, target)


def _config(metadata: Callable[[str], Any], *, tied: bool) -> dict[str, Any]:
    theta = float(metadata("llama.rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(metadata("tokenizer.ggml.tokens")),
        "hidden_size": metadata("llama.embedding_length"),
        "intermediate_size": metadata("llama.feed_forward_length"),
        "num_hidden_layers": metadata("llama.block_count"),
        "num_attention_heads": metadata("llama.attention.head_count"),
        "num_key_value_heads": metadata("llama.attention.head_count_kv"),
        "head_dim": metadata("llama.embedding_length") // metadata("llama.attention.head_count"),
        "max_position_embeddings": metadata("llama.context_length"),
        "rms_norm_eps": float(metadata("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "bos_token_id": metadata("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata("tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
    }


def _write_tokenizer(metadata: Callable[[str], Any], target: Path) -> None:
    """Good enough for converters, which want one; prompts here are token ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata("tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.save(str(target / "tokenizer.json"))
    ends = {f"{end}_token": tokens[metadata(f"tokenizer.ggml.{end}_token_id")] for end in ("bos", "eos")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": ends["eos_token"], **ends}
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _huggingface_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.weight"


def _halves_from_pairs(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows [n_heads * head_dim, k] from the order of rotary pairs (2i, 2i + 1) to (i, i + head_dim / 2)."""
    n_rows, k = rows.shape
    pairs = rows.reshape(n_heads, n_rows // n_heads // 2, 2, k)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(n_rows, k)
