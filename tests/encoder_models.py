"""Encoders with random weights under transformers' own names: a config.json, tensors made by numpy alone.

`shapes` says what a checkpoint of each architecture holds, written from transformers' classes and not from
tuili's tables, so that the two can disagree. tests/oracle/encoder_goldens.py loads the same tensors into
transformers and keeps what it computes in tests/goldens/encoders.json.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiny_files import _write_safetensors, bert_vocabulary, build_tokenizer
from tiny_models import TinyModel, Weight

N_VOCAB = 300
LABELS = {"0": "neutral", "1": "entailment", "2": "contradiction"}
TAGS = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Case:
    """One configuration. ids: what is computed; types: their token types, or None."""

    name: str
    config: dict[str, Any]
    ids: list[int]
    types: list[int] | None = None


def linear(name: str, n: int, k: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (n, k)
    if bias:
        yield f"{name}.bias", (n,)


def norm(name: str, d: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (d,)
    if bias:
        yield f"{name}.bias", (d,)


def table(name: str, n: int, d: int) -> Shapes:
    yield f"{name}.weight", (n, d)


# ---- what checkpoints hold


def bert_body(c: dict[str, Any], width: int | None = None) -> Shapes:
    d, f = c["hidden_size"], c["intermediate_size"]
    width = width or d
    yield from table("embeddings.word_embeddings", c["vocab_size"], width)
    yield from table("embeddings.position_embeddings", c["max_position_embeddings"], width)
    yield from table("embeddings.token_type_embeddings", c["type_vocab_size"], width)
    yield from norm("embeddings.LayerNorm", width)
    if width != d:
        yield from linear("embeddings_project", d, width)
    for i in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from linear(f"{at}.attention.self.{part}", d, d)
        yield from linear(f"{at}.attention.output.dense", d, d)
        yield from norm(f"{at}.attention.output.LayerNorm", d)
        yield from linear(f"{at}.intermediate.dense", f, d)
        yield from linear(f"{at}.output.dense", d, f)
        yield from norm(f"{at}.output.LayerNorm", d)


def words(dense: str, norm_name: str, out: str, c: dict[str, Any], width: int, bias: str) -> Shapes:
    """A head for masked words; the decoder's matrix is stored where it is not the embedding's."""
    yield from linear(dense, width, c["hidden_size"])
    yield from norm(norm_name, width)
    yield bias, (c["vocab_size"],)
    if not c.get("tie_word_embeddings", True):
        yield f"{out}.weight", (c["vocab_size"], width)
        if bias != f"{out}.bias":  # the one that is used
            yield f"{out}.bias", (c["vocab_size"],)


def bert(c: dict[str, Any]) -> Shapes:
    d, (name,) = c["hidden_size"], c["architectures"]
    before = "" if name == "BertModel" else "bert."
    for theirs, shape in bert_body(c):
        yield before + theirs, shape
    if name in ("BertModel", "BertForSequenceClassification", "BertForPreTraining"):
        yield from linear(f"{before}pooler.dense", d, d)
    if name == "BertForPreTraining":
        yield from linear("cls.seq_relationship", 2, d)
    if name in ("BertForPreTraining", "BertForMaskedLM"):
        at = "cls.predictions"
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", c, d, f"{at}.bias"
        )
    yield from labels(c)


def roberta(c: dict[str, Any]) -> Shapes:
    d, (name,) = c["hidden_size"], c["architectures"]
    before = "" if name.endswith("Model") else "roberta."
    for theirs, shape in bert_body(c):
        yield before + theirs, shape
    if name.endswith("Model"):
        yield from linear("pooler.dense", d, d)
    if name.endswith("ForSequenceClassification"):
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if name.endswith("ForMaskedLM"):
        yield from words("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", c, d, "lm_head.bias")
    yield from labels(c)


def electra(c: dict[str, Any]) -> Shapes:
    d, width, (name,) = c["hidden_size"], c["embedding_size"], c["architectures"]
    before = "" if name == "ElectraModel" else "electra."
    for theirs, shape in bert_body(c, width):
        yield before + theirs, shape
    if name == "ElectraForSequenceClassification":
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if name == "ElectraForMaskedLM":
        at = "generator_predictions"
        bias = "generator_lm_head.bias"
        yield from words(f"{at}.dense", f"{at}.LayerNorm", "generator_lm_head", c, width, bias)
    yield from labels(c)


def albert(c: dict[str, Any]) -> Shapes:
    d, f, width, (name,) = c["hidden_size"], c["intermediate_size"], c["embedding_size"], c["architectures"]
    before = "" if name == "AlbertModel" else "albert."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], width)
    yield from table(f"{before}embeddings.position_embeddings", c["max_position_embeddings"], width)
    yield from table(f"{before}embeddings.token_type_embeddings", c["type_vocab_size"], width)
    yield from norm(f"{before}embeddings.LayerNorm", width)
    yield from linear(f"{before}encoder.embedding_hidden_mapping_in", d, width)
    for group in range(c["num_hidden_groups"]):
        for inner in range(c["inner_group_num"]):
            at = f"{before}encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            for part in ("query", "key", "value", "dense"):
                yield from linear(f"{at}.attention.{part}", d, d)
            yield from norm(f"{at}.attention.LayerNorm", d)
            yield from linear(f"{at}.ffn", f, d)
            yield from linear(f"{at}.ffn_output", d, f)
            yield from norm(f"{at}.full_layer_layer_norm", d)
    if name in ("AlbertModel", "AlbertForSequenceClassification"):
        yield from linear(f"{before}pooler", d, d)
    if name == "AlbertForMaskedLM":
        at = "predictions"
        yield from words(f"{at}.dense", f"{at}.LayerNorm", f"{at}.decoder", c, width, f"{at}.bias")
    yield from labels(c)


def distilbert(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["dim"], c["hidden_dim"], c["architectures"]
    before = "" if name == "DistilBertModel" else "distilbert."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], d)
    yield from table(f"{before}embeddings.position_embeddings", c["max_position_embeddings"], d)
    yield from norm(f"{before}embeddings.LayerNorm", d)
    for i in range(c["n_layers"]):
        at = f"{before}transformer.layer.{i}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from linear(f"{at}.attention.{part}", d, d)
        yield from norm(f"{at}.sa_layer_norm", d)
        yield from linear(f"{at}.ffn.lin1", f, d)
        yield from linear(f"{at}.ffn.lin2", d, f)
        yield from norm(f"{at}.output_layer_norm", d)
    if name == "DistilBertForSequenceClassification":
        yield from linear("pre_classifier", d, d)
    if name == "DistilBertForMaskedLM":
        both = c | {"hidden_size": d}
        yield from words(
            "vocab_transform", "vocab_layer_norm", "vocab_projector", both, d, "vocab_projector.bias"
        )
    yield from labels(c)


def labels(c: dict[str, Any]) -> Shapes:
    """The last linear map of heads for sequences, tokens and spans, as most architectures name it."""
    d, (name,) = c.get("hidden_size") or c.get("dim") or c["n_embd"], c["architectures"]
    if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        yield from linear("classifier", len(c["id2label"]), d)
    if name.endswith("ForQuestionAnswering"):
        yield from linear("qa_outputs", 2, d)


def llama(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["hidden_size"], c["intermediate_size"], c["architectures"]
    before = "" if name.endswith("Model") else "transformer." if name.endswith("Answering") else "model."
    kv = d // c["num_attention_heads"] * c["num_key_value_heads"]
    yield from table(f"{before}embed_tokens", c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        at = f"{before}layers.{i}"
        for part, n in (("q_proj", d), ("k_proj", kv), ("v_proj", kv), ("o_proj", d)):
            yield from linear(f"{at}.self_attn.{part}", n, d, c.get("attention_bias", False))
        for part, n, k in (("gate_proj", f, d), ("up_proj", f, d), ("down_proj", d, f)):
            yield from linear(f"{at}.mlp.{part}", n, k, c.get("mlp_bias", False))
        yield from norm(f"{at}.input_layernorm", d, False)
        yield from norm(f"{at}.post_attention_layernorm", d, False)
        if c["model_type"] == "gemma3_text":
            for part in "qk":
                yield from norm(f"{at}.self_attn.{part}_norm", c["head_dim"], False)
            for part in ("pre", "post"):
                yield from norm(f"{at}.{part}_feedforward_layernorm", d, False)
    yield from norm(f"{before}norm", d, False)
    if name.startswith("EuroBert"):
        yield from eurobert_head(c, name, d)
    if name == "LlamaForSequenceClassification":
        yield "score.weight", (len(c["id2label"]), d)
    if name == "LlamaForTokenClassification":
        yield from linear("score", len(c["id2label"]), d)
    if name == "LlamaForQuestionAnswering":
        yield from linear("qa_outputs", 2, d)


def eurobert_head(c: dict[str, Any], name: str, d: int) -> Shapes:
    if name == "EuroBertForSequenceClassification":
        yield from linear("dense", d, d)
    if name == "EuroBertForMaskedLM":
        if not c.get("tie_word_embeddings", False):
            yield "lm_head.weight", (c["vocab_size"], d)
        if c.get("mlp_bias", False):
            yield "lm_head.bias", (c["vocab_size"],)
    elif name != "EuroBertModel":
        yield from linear("classifier", len(c["id2label"]), d)


def modernbert(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["hidden_size"], c["intermediate_size"], c["architectures"]
    before, b = "" if name == "ModernBertModel" else "model.", c.get("norm_bias", False)
    yield from table(f"{before}embeddings.tok_embeddings", c["vocab_size"], d)
    yield from norm(f"{before}embeddings.norm", d, b)
    for i in range(c["num_hidden_layers"]):
        at = f"{before}layers.{i}"
        if i:
            yield from norm(f"{at}.attn_norm", d, b)
        yield from linear(f"{at}.attn.Wqkv", 3 * d, d, c.get("attention_bias", False))
        yield from linear(f"{at}.attn.Wo", d, d, c.get("attention_bias", False))
        yield from norm(f"{at}.mlp_norm", d, b)
        yield from linear(f"{at}.mlp.Wi", 2 * f, d, c.get("mlp_bias", False))
        yield from linear(f"{at}.mlp.Wo", d, f, c.get("mlp_bias", False))
    yield from norm(f"{before}final_norm", d, b)
    if name == "ModernBertModel":
        return
    yield from linear("head.dense", d, d, c.get("classifier_bias", False))
    yield from norm("head.norm", d, b)
    if name == "ModernBertForMaskedLM":
        if not c.get("tie_word_embeddings", True):
            yield "decoder.weight", (c["vocab_size"], d)
        if c.get("decoder_bias", True):
            yield "decoder.bias", (c["vocab_size"],)
    else:
        yield from linear("classifier", len(c.get("id2label", "12")), d)


def nomic_bert(c: dict[str, Any]) -> Shapes:
    """With the makers' own names for the encoder where the configuration has their keys."""
    d, f, (name,) = (
        c.get("n_embd") or c["hidden_size"],
        c.get("n_inner") or c["intermediate_size"],
        c["architectures"],
    )
    own, before = "n_embd" in c, "" if name == "NomicBertModel" else "nomic_bert."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], d)
    yield from table(f"{before}embeddings.token_type_embeddings", c["type_vocab_size"], d)
    yield from norm(f"{before}emb_ln" if own else f"{before}embeddings.LayerNorm", d)
    for i in range(c.get("n_layer") or c["num_hidden_layers"]):
        at = f"{before}encoder.layers.{i}" if own else f"{before}layers.{i}"
        if own:
            yield from linear(f"{at}.attn.Wqkv", 3 * d, d, False)
        else:
            for part in ("q_proj", "k_proj", "v_proj"):
                yield from linear(f"{at}.self_attn.{part}", d, d, False)
        yield from linear(f"{at}.attn.out_proj" if own else f"{at}.self_attn.o_proj", d, d, False)
        yield from linear(f"{at}.mlp.fc12" if own else f"{at}.mlp.gate_proj", f, d, False)
        yield from linear(f"{at}.mlp.fc11" if own else f"{at}.mlp.up_proj", f, d, False)
        yield from linear(f"{at}.mlp.fc2" if own else f"{at}.mlp.down_proj", d, f, False)
        yield from norm(f"{at}.norm1" if own else f"{at}.post_attention_layernorm", d)
        yield from norm(f"{at}.norm2" if own else f"{at}.post_mlp_layernorm", d)
    if name == "NomicBertForSequenceClassification":
        yield from linear(f"{before}pooler.dense", d, d)
    if name == "NomicBertForMaskedLM":
        at = "cls.predictions"
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.layer_norm", f"{at}.decoder", c, d, f"{at}.bias"
        )
    yield from labels(c)


def mpnet(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["hidden_size"], c["intermediate_size"], c["architectures"]
    before = "" if name == "MPNetModel" else "mpnet."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], d)
    yield from table(f"{before}embeddings.position_embeddings", c["max_position_embeddings"], d)
    yield from norm(f"{before}embeddings.LayerNorm", d)
    n_buckets = c.get("relative_attention_num_buckets", 32)
    yield f"{before}encoder.relative_attention_bias.weight", (n_buckets, c["num_attention_heads"])
    for i in range(c["num_hidden_layers"]):
        at = f"{before}encoder.layer.{i}"
        for part in "qkvo":
            yield from linear(f"{at}.attention.attn.{part}", d, d)
        yield from norm(f"{at}.attention.LayerNorm", d)
        yield from linear(f"{at}.intermediate.dense", f, d)
        yield from linear(f"{at}.output.dense", d, f)
        yield from norm(f"{at}.output.LayerNorm", d)
    if name == "MPNetModel":
        yield from linear("pooler.dense", d, d)
    if name == "MPNetForSequenceClassification":
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if name == "MPNetForMaskedLM":
        yield from words("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", c, d, "lm_head.bias")
    yield from labels(c)


def deberta(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["hidden_size"], c["intermediate_size"], c["architectures"]
    width = c.get("embedding_size", d)
    before = "" if name == "DebertaV2Model" else "deberta."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], width)
    if c["position_biased_input"]:
        yield from table(f"{before}embeddings.position_embeddings", c["max_position_embeddings"], width)
    if c["type_vocab_size"]:
        yield from table(f"{before}embeddings.token_type_embeddings", c["type_vocab_size"], width)
    if width != d:
        yield from linear(f"{before}embeddings.embed_proj", d, width, False)
    yield from norm(f"{before}embeddings.LayerNorm", d)
    for i in range(c["num_hidden_layers"]):
        at = f"{before}encoder.layer.{i}"
        kinds = c["pos_att_type"] if c["relative_attention"] and not c.get("share_att_key") else ""
        own = [f"pos_{part}_proj" for part, kind in (("key", "c2p"), ("query", "p2c")) if kind in kinds]
        for part in ("query_proj", "key_proj", "value_proj", *own):
            yield from linear(f"{at}.attention.self.{part}", d, d)
        yield from linear(f"{at}.attention.output.dense", d, d)
        yield from norm(f"{at}.attention.output.LayerNorm", d)
        yield from linear(f"{at}.intermediate.dense", f, d)
        yield from linear(f"{at}.output.dense", d, f)
        yield from norm(f"{at}.output.LayerNorm", d)
    if c["relative_attention"]:
        reach = max(c.get("position_buckets", -1), 0) or max(c.get("max_relative_positions", -1), 0)
        yield from table(f"{before}encoder.rel_embeddings", 2 * (reach or c["max_position_embeddings"]), d)
    if c.get("norm_rel_ebd") == "layer_norm":
        yield from norm(f"{before}encoder.LayerNorm", d)
    if c.get("conv_kernel_size"):
        yield f"{before}encoder.conv.conv.weight", (d, d, c["conv_kernel_size"])
        yield f"{before}encoder.conv.conv.bias", (d,)
        yield from norm(f"{before}encoder.conv.LayerNorm", d)
    yield from deberta_head(c, name, width)


def deberta_head(c: dict[str, Any], name: str, width: int) -> Shapes:
    d = c["hidden_size"]
    if name == "DebertaV2ForSequenceClassification":
        yield from linear("pooler.dense", d, d)
    if name == "DebertaV2ForMaskedLM" and c.get("legacy", True):
        at = "cls.predictions"
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", c, width, f"{at}.bias"
        )
    elif name == "DebertaV2ForMaskedLM":
        at = "lm_predictions.lm_head"
        yield from words(f"{at}.dense", f"{at}.LayerNorm", "", c, d, f"{at}.bias")
    yield from labels(c)


SHAPES: dict[str, Callable[[dict[str, Any]], Shapes]] = {
    "bert": bert,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "electra": electra,
    "albert": albert,
    "llama": llama,
    "eurobert": llama,
    "gemma3_text": llama,
    "modernbert": modernbert,
    "nomic_bert": nomic_bert,
    "mpnet": mpnet,
    "deberta-v2": deberta,
}


# ---- configurations

BASE = {
    "vocab_size": N_VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 72,
    "hidden_act": "gelu",
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
OTHER = BASE | {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 33,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-5,
}
DISTIL = {
    "vocab_size": N_VOCAB,
    "dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 72,
    "activation": "gelu",
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}


def ids_for(name: str, n: int = 23) -> list[int]:
    """Token ids that no architecture takes for padding."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return [int(i) for i in rng.integers(5, N_VOCAB, n)]


def case(model_type: str, architecture: str, settings: dict[str, Any], note: str = "") -> Case:
    name = f"{architecture}{'-' + note if note else ''}"
    config = settings | {"model_type": model_type, "architectures": [architecture]}
    if architecture.endswith("ForSequenceClassification"):
        config["id2label"] = LABELS
    if architecture.endswith("ForTokenClassification"):
        config["id2label"] = TAGS
    ids = ids_for(name)
    types = [0] * 9 + [1] * (len(ids) - 9) if config.get("type_vocab_size", 0) > 1 else None
    return Case(name, config, ids, types)


def _cases() -> Iterator[Case]:
    heads = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    roberta_base = BASE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    albert_base = BASE | {
        "embedding_size": 24, "num_hidden_groups": 1, "inner_group_num": 1, "hidden_act": "gelu_new",
    }  # fmt: skip
    families = (
        ("bert", "Bert", BASE),
        ("roberta", "Roberta", roberta_base),
        ("distilbert", "DistilBert", DISTIL),
        ("electra", "Electra", BASE | {"embedding_size": 24}),
        ("albert", "Albert", albert_base),
    )
    for model_type, stem, settings in families:
        for head in ("Model", *heads):
            yield case(model_type, stem + head, settings)
    untied = {"tie_word_embeddings": False}
    yield case("bert", "BertForPreTraining", BASE)
    yield case("bert", "BertForMaskedLM", OTHER | untied | {"hidden_act": "gelu_new"}, "other")
    yield case("bert", "BertForSequenceClassification", OTHER | {"hidden_act": "silu"}, "other")
    yield case("xlm-roberta", "XLMRobertaForMaskedLM", OTHER | untied | {"pad_token_id": 1}, "other")
    yield case("xlm-roberta", "XLMRobertaModel", OTHER | {"pad_token_id": 3, "hidden_act": "relu"}, "other")
    yield case("camembert", "CamembertForTokenClassification", roberta_base)
    other = {"dim": 40, "n_heads": 5, "hidden_dim": 33, "activation": "relu", "sinusoidal_pos_embds": True}
    yield case("distilbert", "DistilBertForMaskedLM", DISTIL | untied | other, "other")
    yield case("electra", "ElectraForMaskedLM", OTHER | untied | {"embedding_size": 40}, "other")
    albert_other = OTHER | untied | {
        "embedding_size": 40, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2,
        "hidden_act": "relu",
    }  # fmt: skip
    yield case("albert", "AlbertForMaskedLM", albert_other, "other")
    llama_base = BASE | {"num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5}
    del llama_base["type_vocab_size"]
    for head in ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        yield case("llama", f"Llama{head}", llama_base)
    yield case(
        "llama",
        "LlamaForSequenceClassification",
        llama_base | {"attention_bias": True, "rope_theta": 500.0},
        "other",
    )
    yield case("llama", "LlamaModel", llama_base | {"is_causal": False}, "both sides")
    gemma = {"use_bidirectional_attention": True, "sliding_window": 10, "sliding_window_pattern": 2}
    yield case("gemma3_text", "Gemma3TextModel", llama_base | gemma | {"head_dim": 12}, "both sides")
    euro = {"tie_word_embeddings": False, "classifier_pooling": "mean", "rope_theta": 250_000}
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"):
        yield case("eurobert", f"EuroBert{head}", llama_base | euro)
    euro = {
        "tie_word_embeddings": True,
        "classifier_pooling": "bos",
        "mlp_bias": True,
        "attention_bias": True,
    }
    for head in ("ForMaskedLM", "ForSequenceClassification"):
        yield case("eurobert", f"EuroBert{head}", llama_base | euro | {"hidden_act": "gelu"}, "other")
    yield case("albert", "AlbertModel", albert_base | {"num_hidden_layers": 40}, "deep")
    yield from _later_cases(heads)
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    yield case("bert", "BertForMaskedLM", BASE | wide, "wide")


def _later_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    modern = {key: value for key, value in BASE.items() if key not in ("hidden_act", "type_vocab_size")}
    modern |= {"local_attention": 8, "num_hidden_layers": 4}
    nomic = BASE | {"hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}
    mpnet = {key: value for key, value in BASE.items() if key != "type_vocab_size"} | {"pad_token_id": 1}
    for model_type, stem, settings in (
        ("modernbert", "ModernBert", modern),
        ("nomic_bert", "NomicBert", nomic),
        ("mpnet", "MPNet", mpnet),
    ):
        for head in ("Model", *heads):
            if (stem, head) != ("NomicBert", "ForQuestionAnswering"):
                yield case(model_type, stem + head, settings)
    other = modern | {
        "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True,
        "decoder_bias": False, "tie_word_embeddings": False, "classifier_activation": "relu",
        "global_attn_every_n_layers": 2, "local_attention": 13, "global_rope_theta": 5000.0,
        "local_rope_theta": 300.0, "hidden_activation": "silu", "norm_eps": 1e-3,
    }  # fmt: skip
    yield case("modernbert", "ModernBertForMaskedLM", other, "other")
    yield case(
        "modernbert", "ModernBertForSequenceClassification", other | {"classifier_pooling": "mean"}, "other"
    )
    types = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
    ropes = {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0},
    }
    yield case(
        "modernbert", "ModernBertModel", modern | {"layer_types": types, "rope_parameters": ropes}, "other"
    )
    yield case(
        "nomic_bert",
        "NomicBertForMaskedLM",
        nomic | OTHER | {"hidden_act": "gelu", "tie_word_embeddings": False},
        "other",
    )
    own = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 72, "n_positions": 40, "rotary_emb_base": 500}
    own |= {
        "layer_norm_epsilon": 1e-5,
        "vocab_size": N_VOCAB,
        "type_vocab_size": 2,
        "activation_function": "swiglu",
    }
    yield case("nomic_bert", "NomicBertModel", own, "own")
    yield from _deberta_cases(heads)
    far = mpnet | {"max_position_embeddings": 220, "relative_attention_num_buckets": 40, "hidden_act": "relu"}
    yield dataclasses.replace(case("mpnet", "MPNetModel", far, "far"), ids=ids_for("far", 210))


def _deberta_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    """As version 3 has it, the larger ones of version 2, and what nobody has published."""
    base = BASE | {
        "type_vocab_size": 0, "layer_norm_eps": 1e-7, "relative_attention": True, "position_buckets": 8,
        "max_relative_positions": -1, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": "p2c|c2p", "position_biased_input": False, "pooler_hidden_act": "gelu",
    }  # fmt: skip
    for head in ("Model", *heads):
        yield case("deberta-v2", f"DebertaV2{head}", base)
    large = base | {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 12, "legacy": False}
    yield case("deberta-v2", "DebertaV2ForMaskedLM", large, "large")
    own = OTHER | {
        "relative_attention": True, "max_relative_positions": 12, "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": True, "embedding_size": 24, "conv_kernel_size": 5, "hidden_act": "relu",
    }  # fmt: skip
    yield case("deberta-v2", "DebertaV2ForMaskedLM", own, "own maps")
    yield case("deberta-v2", "DebertaV2Model", own | {"pos_att_type": ["c2p"], "legacy": False}, "c2p")
    yield case("deberta-v2", "DebertaV2ForSequenceClassification",
               base | {"pos_att_type": ["p2c"], "share_att_key": False, "norm_rel_ebd": "none",
                       "pooler_hidden_act": "relu"}, "p2c")  # fmt: skip
    plain = base | {"relative_attention": False, "norm_rel_ebd": "none", "position_biased_input": True}
    yield case("deberta-v2", "DebertaV2Model", plain, "no distances")
    far = base | {"max_position_embeddings": 220, "position_buckets": 24, "num_hidden_layers": 2}
    yield dataclasses.replace(case("deberta-v2", "DebertaV2Model", far, "far"), ids=ids_for("far", 210))


CASES = {case.name: case for case in _cases()}


# ---- tensors and folders


def tensors(case: Case) -> dict[str, np.ndarray]:
    """float32, drawn from the case's name: norms near 1, biases near 0, matrices that keep sizes."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()) + 1)
    out = {}
    for name, shape in SHAPES[case.config["model_type"]](case.config):
        if len(shape) > 1:
            is_table = "embeddings" in name and "project" not in name
            scale = 1.0 if is_table else 1.5 / np.sqrt(np.prod(shape[1:]))
            values = rng.standard_normal(shape) * scale
        elif name.endswith(".weight"):
            values = 1 + 0.2 * rng.standard_normal(shape)
        else:
            values = 0.2 * rng.standard_normal(shape)
        out[name] = values.astype(np.float32)
    return out


def write_folder(case: Case, folder: Path) -> Path:
    """The case as a Hugging Face folder, with the tiny BERT's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = case.config | {"torch_dtype": "float32"}
    if "id2label" in config:
        config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = build_tokenizer(TinyModel("", {"model_type": "bert"}, {}, {}))
    assert tokenizer.get_vocab_size() == len(bert_vocabulary()) == N_VOCAB
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"model_max_length": 1000}))
    weights = {
        name: Weight("f32", value.shape, value.reshape(value.shape[0], -1).view(np.uint8))
        for name, value in tensors(case).items()
    }
    _write_safetensors(folder / "model.safetensors", weights)
    return folder
