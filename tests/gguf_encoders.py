"""Tiny encoders as GGUF files, and the tensors of files whose names the gguf package has."""

from __future__ import annotations

from pathlib import Path

import gguf

from gguf_families import Tensors, Values, write_widths
from tiny_files import BERT_SPECIALS, bert_vocabulary, gguf_word_pieces


def write_encoder(arch: gguf.MODEL_ARCH, config: Values, tensors: Tensors, path: Path) -> Path:
    """An encoder with the tiny BERT's words as a GGUF file; the settings under BERT's names."""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    write_widths(writer, config)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    vocabulary = bert_vocabulary()
    writer.add_token_list(gguf_word_pieces(vocabulary))
    writer.add_token_types([3 if token in BERT_SPECIALS else 1 for token in vocabulary])
    ids = {token: i for i, token in enumerate(vocabulary)}
    writer.add_pad_token_id(ids["[PAD]"])
    writer.add_unk_token_id(ids["[UNK]"])
    writer.add_sep_token_id(ids["[SEP]"])
    writer.add_mask_token_id(ids["[MASK]"])
    writer.add_uint32("tokenizer.ggml.cls_token_id", ids["[CLS]"])
    write_tensors(writer, gguf.get_tensor_name_map(arch, config["num_hidden_layers"]), tensors)
    return path


def write_tensors(writer: gguf.GGUFWriter, names: gguf.TensorNameMap, tensors: Tensors) -> None:
    """The rest of a file whose tensors have Hugging Face's names, as they are."""
    for name, x in tensors.items():
        theirs = names.get_name(name, (".weight", ".bias"))
        assert theirs is not None, f"the gguf package has no name for {name}"
        writer.add_tensor(theirs, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
