"""T5 as GGUF files, as llama.cpp's converter writes them: both halves, or the encoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from gguf_encoders import write_tensors
from tuili.loading.tokenizers import sentencepiece_file

Tensors = dict[str, np.ndarray]
EOS, UNKNOWN, PAD = 1, 2, 0
FARTHEST = 128  # what llama.cpp takes for relative_attention_max_distance, since files do not say


def write(
    arch: gguf.MODEL_ARCH,
    config: dict[str, Any],
    tensors: Tensors,
    pieces: bytes,
    path: Path,
    **settings: Any,
) -> Path:
    """pieces: a sentencepiece model; settings: see write_tokenizer"""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    n_layers = config["num_layers"]
    n_decoder = config.get("num_decoder_layers", n_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(config["d_model"])
    writer.add_feed_forward_length(config["d_ff"])
    writer.add_block_count(n_layers)
    writer.add_decoder_block_count(n_decoder)
    writer.add_head_count(config["num_heads"])
    writer.add_key_length(config["d_kv"])
    writer.add_value_length(config["d_kv"])
    writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-6))
    writer.add_layer_norm_rms_eps(config.get("layer_norm_epsilon", 1e-6))
    writer.add_relative_attn_buckets_count(config["relative_attention_num_buckets"])
    writer.add_decoder_start_token_id(config["decoder_start_token_id"])
    write_tokenizer(writer, config["vocab_size"], pieces, **settings)
    write_tensors(writer, gguf.get_tensor_name_map(arch, max(n_layers, n_decoder)), tensors)
    return path


def write_tokenizer(
    writer: gguf.GGUFWriter, n_vocab: int, pieces: bytes, *, signed: bool = False, leave_out: str = ""
) -> None:
    """signed: the normalizer as INT8, as old files have it; leave_out: a key"""
    found = sentencepiece_file.parse(pieces, "spiece.model")
    listed = [*found.pieces]
    listed += [(f"[PAD{i}]", -1000.0, sentencepiece_file.UNUSED) for i in range(len(listed), n_vocab)]
    texts, scores, types = zip(*listed, strict=True)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_add_space_prefix(found.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(found.remove_extra_whitespaces)
    if found.charsmap and not signed:
        writer.add_precompiled_charsmap(found.charsmap)
    if found.charsmap and signed:
        key, numbers = (
            gguf.Keys.Tokenizer.PRECOMPILED_CHARSMAP,
            np.frombuffer(found.charsmap, np.int8).tolist(),
        )
        kind = gguf.GGUFValueType
        writer.add_key_value(key, numbers, kind.ARRAY, sub_type=kind.INT8)
    for key, value in (("eos", EOS), ("unknown", UNKNOWN), ("padding", PAD)):
        if key != leave_out:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
