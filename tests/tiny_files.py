"""Writes tiny models as files: Hugging Face folders and GGUF, with small tokenizers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tiny_models import N_VOCAB, TinyModel, Weight

SIZES: dict[str, Any] = {"num_threads": 1, "kv_cache_bytes": 1 << 20, "max_model_len": 512}  # of their LLM
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# ---- names: ours -> theirs

_DECODER_NAMES = {
    "token_embedding": ("model.embed_tokens.weight", "token_embd.weight"),
    "final_norm": ("model.norm.weight", "output_norm.weight"),
    "head": ("lm_head.weight", "output.weight"),
    "attention_norm": ("input_layernorm.weight", "attn_norm.weight"),
    "query": ("self_attn.q_proj.weight", "attn_q.weight"),
    "key": ("self_attn.k_proj.weight", "attn_k.weight"),
    "value": ("self_attn.v_proj.weight", "attn_v.weight"),
    "output": ("self_attn.o_proj.weight", "attn_output.weight"),
    "query_norm": ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    "key_norm": ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    "mlp_norm": ("post_attention_layernorm.weight", "ffn_norm.weight"),
    "gate": ("mlp.gate_proj.weight", "ffn_gate.weight"),
    "up": ("mlp.up_proj.weight", "ffn_up.weight"),
    "down": ("mlp.down_proj.weight", "ffn_down.weight"),
}
_GEMMA_NAMES = _DECODER_NAMES | {
    "post_attention_norm": ("post_attention_layernorm.weight", "post_attention_norm.weight"),
    "mlp_norm": ("pre_feedforward_layernorm.weight", "ffn_norm.weight"),
    "post_mlp_norm": ("post_feedforward_layernorm.weight", "post_ffw_norm.weight"),
}
_BERT_NAMES = {
    "token_embedding": ("embeddings.word_embeddings", "token_embd"),
    "position_embedding": ("embeddings.position_embeddings", "position_embd"),
    "token_type_embedding": ("embeddings.token_type_embeddings", "token_types"),
    "embedding_norm": ("embeddings.LayerNorm", "token_embd_norm"),
    "query": ("attention.self.query", "attn_q"),
    "key": ("attention.self.key", "attn_k"),
    "value": ("attention.self.value", "attn_v"),
    "output": ("attention.output.dense", "attn_output"),
    "attention_norm": ("attention.output.LayerNorm", "attn_output_norm"),
    "up": ("intermediate.dense", "ffn_up"),
    "down": ("output.dense", "ffn_down"),
    "mlp_norm": ("output.LayerNorm", "layer_output_norm"),
}


def _bert_name(name: str, kind: int) -> str:
    """The name in a Hugging Face checkpoint (kind 0) or a GGUF file (1)."""
    parts = name.removesuffix(".bias").split(".")
    theirs = _BERT_NAMES[parts[-1]][kind] + (".bias" if name.endswith(".bias") else ".weight")
    return f"{('encoder.layer', 'blk')[kind]}.{parts[1]}.{theirs}" if parts[0] == "layers" else theirs


def hf_name(model: TinyModel, name: str) -> str:
    """The tensor's name in a Hugging Face checkpoint."""
    parts = name.split(".")
    if model.config["model_type"] == "bert":
        return _bert_name(name, 0)
    names = _GEMMA_NAMES if model.config["model_type"].startswith("gemma") else _DECODER_NAMES
    return f"model.layers.{parts[1]}.{names[parts[2]][0]}" if parts[0] == "layers" else names[name][0]


def gguf_name(model: TinyModel, name: str) -> str:
    """The tensor's name in a GGUF file."""
    parts = name.split(".")
    if model.config["model_type"] == "bert":
        return _bert_name(name, 1)
    names = _GEMMA_NAMES if model.config["model_type"].startswith("gemma") else _DECODER_NAMES
    return f"blk.{parts[1]}.{names[parts[2]][1]}" if parts[0] == "layers" else names[name][1]


# ---- tokenizers: exactly N_VOCAB entries each

LLAMA_SPECIALS = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"]
GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

_PAIRS = "thheineranreonatenndtiesorteofedisitalarsttontngsehaasou"
_PIECES = [_PAIRS[i : i + 2] for i in range(0, len(_PAIRS), 2)]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(others)}


def llama_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a byte-level BPE."""
    merges = [(pair[0], pair[1]) for pair in _PIECES] + [
        ("Ġ", "t"),
        ("Ġ", "a"),
        ("Ġt", "he"),
        ("in", "g"),
        ("Ġ", "of"),
    ]
    merges = merges[: N_VOCAB - 256 - len(LLAMA_SPECIALS)]
    stand_ins = byte_alphabet()
    alphabet = [stand_ins[b] for b in range(256)]
    tokens = LLAMA_SPECIALS + alphabet + ["".join(pair) for pair in merges]
    return tokens + [f"<|unused{i}|>" for i in range(N_VOCAB - len(tokens))], merges


def gemma_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a SentencePiece-like BPE with byte fallback."""
    letters = ["▁", *"etaoinshrdlucm"]
    merges = [(pair[0], pair[1]) for pair in _PIECES if set(pair) <= set(letters)]
    merges = [("▁", "t"), ("▁", "a"), *merges][: N_VOCAB - 256 - len(GEMMA_SPECIALS) - len(letters)]
    tokens = (
        GEMMA_SPECIALS + [f"<0x{b:02X}>" for b in range(256)] + ["".join(pair) for pair in merges] + letters
    )
    return tokens + [f"<unused{i}>" for i in range(N_VOCAB - len(tokens))], merges


def bert_vocabulary() -> list[str]:
    """WordPiece entries: letters, digits, their continuations, a few words and Chinese characters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "on",
        "cat",
        "dog",
        "house",
        "river",
        "good",
        "new",
        *"你好世界天",
    ]
    tokens = [
        *BERT_SPECIALS,
        *letters,
        *(f"##{c}" for c in letters),
        *words,
        *".,!?-'\":;()",
        *(f"##{p}" for p in _PIECES),
    ]
    return tokens + [f"[unused{i}]" for i in range(N_VOCAB - len(tokens))]


def build_tokenizer(model: TinyModel) -> Any:
    """The model's tokenizers.Tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    family = model.config["model_type"]
    if family == "bert":
        vocab = {token: i for i, token in enumerate(bert_vocabulary())}
        tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        ids = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
        pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=pair, special_tokens=ids
        )
        specials = BERT_SPECIALS
    elif family.startswith("gemma"):
        tokens, merges = gemma_vocabulary()
        vocab = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocab["<bos>"])]
        )
        specials = GEMMA_SPECIALS
    else:
        tokens, merges = llama_vocabulary()
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        specials = LLAMA_SPECIALS
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


# ---- Hugging Face folders

_SAFETENSORS_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


def _write_safetensors(path: Path, tensors: dict[str, Weight]) -> None:
    header, at = {}, 0
    for name, weight in tensors.items():
        size = weight.rows.nbytes
        dtype = _SAFETENSORS_DTYPES[weight.format]
        header[name] = {"dtype": dtype, "shape": list(weight.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in tensors.values():
            file.write(weight.rows.tobytes())


def hf_tensors(model: TinyModel) -> dict[str, Weight]:
    """Tensors as a Hugging Face checkpoint holds them: float only, Gemma's norms with 1 taken off."""
    out = {}
    for name, weight in model.weights.items():
        if model.config["model_type"].startswith("gemma") and name.endswith("norm"):
            less = (weight.values() - 1).astype(np.float32)
            weight = Weight("f32", weight.shape, less[None].view(np.uint8).reshape(1, -1))
        out[hf_name(model, name)] = weight
    if model.config["model_type"] == "bert":  # real files carry the pooler, which sentence vectors do not use
        d_model = model.config["hidden_size"]
        zeros = np.zeros((d_model, d_model), np.float32)
        out["pooler.dense.weight"] = Weight("f32", zeros.shape, zeros.view(np.uint8))
        out["pooler.dense.bias"] = Weight("f32", (d_model,), zeros[:1].view(np.uint8))
    return out


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def write_hf_folder(model: TinyModel, folder: Path, n_shards: int = 1) -> Path:
    """config.json, the tokenizer's files, and the weights in one file or in `n_shards` with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    dtypes = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    matrices = {weight.format for weight in model.weights.values() if len(weight.shape) == 2}
    _write_json(folder / "config.json", model.config | {"torch_dtype": dtypes[matrices.pop()]})
    build_tokenizer(model).save(str(folder / "tokenizer.json"))
    tensors = hf_tensors(model)
    if n_shards == 1:
        _write_safetensors(folder / "model.safetensors", tensors)
    else:
        names, weight_map = list(tensors), {}
        for i in range(n_shards):
            shard = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
            _write_safetensors(folder / shard, {name: tensors[name] for name in names[i::n_shards]})
            weight_map |= dict.fromkeys(names[i::n_shards], shard)
        total = sum(weight.rows.nbytes for weight in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)
    if model.config["model_type"] == "bert":
        _write_sentence_transformers(model, folder)
    else:
        bos, eos = (LLAMA_SPECIALS[:2]) if model.config["model_type"] == "llama" else ("<bos>", "<eos>")
        settings = {"bos_token": bos, "eos_token": eos, "chat_template": CHAT_TEMPLATE}
        _write_json(folder / "tokenizer_config.json", settings)
    return folder


def _write_sentence_transformers(model: TinyModel, folder: Path) -> None:
    d_model = model.config["hidden_size"]
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 64})
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    pooling = {
        "word_embedding_dimension": d_model,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})


# ---- GGUF

GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
GGML_TYPES |= {"q4_k": 12, "q5_k": 13, "q6_k": 14, "bf16": 30}
_ALIGNMENT = 32


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _metadata(value: object) -> tuple[int, bytes]:
    """(type code, bytes) of one metadata value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, np.uint16):
        return 2, struct.pack("<H", value)
    if isinstance(value, np.int32):
        return 5, struct.pack("<i", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _string(value)
    assert isinstance(value, list) and value
    if type(value[0]) is int:  # token types: real files hold int32
        return 9, struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
    items = [_metadata(item) for item in value]
    return 9, struct.pack("<IQ", items[0][0], len(items)) + b"".join(data for _, data in items)


def write_gguf_file(path: Path, metadata: dict[str, object], tensors: dict[str, Weight]) -> Path:
    """A GGUF version 3 file, little-endian."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        code, data = _metadata(value)
        head += _string(key) + struct.pack("<I", code) + data
    body = b""
    for name, weight in tensors.items():
        dims = weight.shape[::-1]  # GGUF lists the fastest dimension first
        head += _string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", GGML_TYPES[weight.format], len(body))
        body += weight.rows.tobytes()
        body += bytes(-len(body) % _ALIGNMENT)
    path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + body)
    return path


def gguf_tensors(model: TinyModel) -> dict[str, Weight]:
    """Tensors as GGUF holds them: llama's query and key rows reordered so that RoPE pairs are neighbours."""
    out = {}
    for name, weight in model.weights.items():
        if model.config["model_type"] == "llama" and name.endswith((".query", ".key")):
            half = model.config["head_dim"] // 2
            rows = weight.rows.reshape(-1, 2, half, weight.rows.shape[1]).swapaxes(1, 2)
            weight = Weight(
                weight.format, weight.shape, np.ascontiguousarray(rows).reshape(weight.rows.shape)
            )
        out[gguf_name(model, name)] = weight
    return out


def gguf_metadata(model: TinyModel) -> dict[str, object]:
    """Everything but the tensors: sizes, vocabulary, chat template."""
    config = model.config
    if config["model_type"] == "bert":
        return _bert_metadata(model)
    gemma = config["model_type"].startswith("gemma")
    arch = "gemma3" if gemma else "llama"
    out: dict[str, object] = {
        "general.architecture": arch,
        "general.name": model.name,
        f"{arch}.block_count": config["num_hidden_layers"],
        f"{arch}.context_length": config["max_position_embeddings"],
        f"{arch}.embedding_length": config["hidden_size"],
        f"{arch}.feed_forward_length": config["intermediate_size"],
        f"{arch}.attention.head_count": config["num_attention_heads"],
        f"{arch}.attention.head_count_kv": config["num_key_value_heads"],
        f"{arch}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{arch}.rope.freq_base": float(config["rope_theta"]),
        f"{arch}.attention.key_length": config["head_dim"],
        f"{arch}.attention.value_length": config["head_dim"],
    }
    if gemma:
        out[f"{arch}.attention.sliding_window"] = config["sliding_window"]
    else:
        out |= {f"{arch}.rope.dimension_count": config["head_dim"], f"{arch}.vocab_size": N_VOCAB}
    return out | (_gemma_tokenizer_metadata() if gemma else _llama_tokenizer_metadata())


_NORMAL, _UNKNOWN, _CONTROL, _UNUSED, _BYTE = 1, 2, 3, 5, 6


def _llama_tokenizer_metadata() -> dict[str, object]:
    tokens, merges = llama_vocabulary()
    types = [_CONTROL if token.startswith("<|") and len(token) > 2 else _NORMAL for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _bert_metadata(model: TinyModel) -> dict[str, object]:
    config, vocabulary = model.config, bert_vocabulary()
    ids = {token: i for i, token in enumerate(vocabulary)}
    return {
        "general.architecture": "bert",
        "general.name": model.name,
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": float(config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": 1,
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",  # what real files of BERT say; it means nothing
        "tokenizer.ggml.tokens": gguf_word_pieces(vocabulary),
        "tokenizer.ggml.token_type": [
            _CONTROL if token in BERT_SPECIALS else _NORMAL for token in vocabulary
        ],
        "tokenizer.ggml.cls_token_id": ids["[CLS]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
        "tokenizer.ggml.padding_token_id": ids["[PAD]"],
        "tokenizer.ggml.mask_token_id": ids["[MASK]"],
    }


def gguf_word_pieces(vocabulary: list[str], *, brackets: bool = False) -> list[str]:
    """BERT's tokens as GGUF files hold them. brackets: all tokens in brackets stay, as in files of 2024."""

    def spelling(token: str) -> str:
        if token in BERT_SPECIALS or (brackets and token[0] + token[-1] == "[]"):
            return token
        return token[2:] if token.startswith("##") else "▁" + token

    return [spelling(token) for token in vocabulary]


def _gemma_tokenizer_metadata() -> dict[str, object]:
    tokens, _ = gemma_vocabulary()
    types = []
    for token in tokens:
        if token in GEMMA_SPECIALS:
            types.append(_UNKNOWN if token == "<unk>" else _CONTROL)
        elif token.startswith("<0x"):
            types.append(_BYTE)
        else:
            types.append(_UNUSED if token.startswith("<unused") else _NORMAL)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write_gguf(model: TinyModel, path: Path) -> Path:
    """The model as a GGUF file at `path`."""
    return write_gguf_file(path, gguf_metadata(model), gguf_tensors(model))
