"""Encoders with random weights under transformers' own names: a config.json, tensors made by numpy alone.

encoder_shapes.py says what a checkpoint of each architecture holds. tests/oracle/encoder_goldens.py loads the
same tensors into transformers and keeps what it computes in tests/goldens/encoders.json.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoder_shapes import SHAPES
from tiny_files import _write_safetensors, bert_vocabulary, build_tokenizer
from tiny_models import TinyModel, Weight

N_VOCAB = 300
LABELS = {"0": "neutral", "1": "entailment", "2": "contradiction"}
TAGS = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}


@dataclass(frozen=True)
class Case:
    """One configuration. ids: what is computed; types: their token types, or None."""

    name: str
    config: dict[str, Any]
    ids: list[int]
    types: list[int] | None = None


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


QUESTION, CHOICES = "The cat is in the", ["river of York", "house", "good dog, a dog"]


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


def with_padding(plain: Case) -> Case:
    """A text that holds padding, which has no position in RoBERTa and its kin."""
    ids, padding = list(plain.ids), plain.config["pad_token_id"]
    ids[0] = ids[6] = ids[7] = padding
    return dataclasses.replace(plain, ids=ids)


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
    yield from _rows_cases(llama_base)
    yield case("albert", "AlbertModel", albert_base | {"num_hidden_layers": 40}, "deep")
    yield case("albert", "AlbertModel", albert_base | {"num_hidden_groups": 5}, "groups")
    yield from _later_cases(heads)


def _rows_cases(llama: dict[str, Any]) -> Iterator[Case]:
    """Classifiers that answer for every token."""
    late = llama | {"classifier_pooling": "late"}
    yield case("eurobert", "EuroBertForSequenceClassification", late, "late")
    padded = case("llama", "LlamaForSequenceClassification", llama | {"pad_token_id": 7}, "padding")
    yield dataclasses.replace(padded, ids=[*padded.ids[:-2], 7, 7])


def _later_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    yield case("bert", "BertForMaskedLM", BASE | wide, "wide")
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
    yield from _choices_cases(modern, mpnet)
    far = mpnet | {"max_position_embeddings": 220, "relative_attention_num_buckets": 40, "hidden_act": "relu"}
    yield dataclasses.replace(case("mpnet", "MPNetModel", far, "far"), ids=ids_for("far", 210))
    roberta = BASE | {"type_vocab_size": 1, "pad_token_id": 3}
    yield with_padding(case("roberta", "RobertaModel", roberta, "padding"))
    yield with_padding(case("mpnet", "MPNetModel", mpnet, "padding"))
    yield from _kin_cases(heads)
    yield from _later_kin_cases(heads)
    yield from _roformer_cases(heads)


def _kin_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    """BERT and RoBERTa with other names, norms or one more table."""
    roberta = BASE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    tasks = {"use_task_id": True, "task_type_vocab_size": 3}
    for name in ("DPRContextEncoder", "DPRQuestionEncoder"):
        yield case("dpr", name, BASE | {"projection_dim": 0})
    for model_type, stem, settings, more in (
        ("ernie", "Ernie", BASE | tasks, {"use_task_id": False}),
        ("megatron-bert", "MegatronBert", BASE, {}),
        ("data2vec-text", "Data2VecText", roberta, {"pad_token_id": 3}),
        ("roberta-prelayernorm", "RobertaPreLayerNorm", roberta, {"pad_token_id": 3}),
    ):
        for head in ("Model", *heads, "ForMultipleChoice"):
            yield case(model_type, stem + head, settings)
        other = settings | OTHER | {"tie_word_embeddings": False, "hidden_act": "gelu_new"} | more
        yield case(model_type, f"{stem}ForMaskedLM", other, "other")
        yield case(model_type, f"{stem}ForSequenceClassification", other, "other")
    for stem in ("Ernie", "MegatronBert"):
        model_type, settings = ("ernie", BASE | tasks) if stem == "Ernie" else ("megatron-bert", BASE)
        yield case(model_type, f"{stem}ForPreTraining", settings)
        yield case(model_type, f"{stem}ForNextSentencePrediction", settings)
    for model_type, stem in (
        ("data2vec-text", "Data2VecText"),
        ("roberta-prelayernorm", "RobertaPreLayerNorm"),
    ):
        yield with_padding(case(model_type, f"{stem}Model", roberta | {"pad_token_id": 3}, "padding"))


def _later_kin_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    """RoBERTa of two sizes more, DeBERTa's first version, and BERT with other embeddings and positions."""
    roberta = BASE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    rembert = BASE | {"input_embedding_size": 24, "output_embedding_size": 56}
    bird = BASE | {"attention_type": "original_full", "hidden_act": "gelu_new"}
    windows = roberta | {"type_vocab_size": 2, "attention_window": [4, 8, 40]}
    gte = BASE | {"pad_token_id": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    first = BASE | {
        "type_vocab_size": 0, "layer_norm_eps": 1e-7, "relative_attention": True, "pos_att_type": "c2p|p2c",
        "max_relative_positions": -1, "position_biased_input": False,
    }  # fmt: skip
    choices = "ForMultipleChoice"
    for model_type, stem, settings, ends in (
        ("xlm-roberta-xl", "XLMRobertaXL", roberta, (*heads, choices)),
        ("rembert", "RemBert", rembert, (*heads, choices)),
        ("big_bird", "BigBird", bird, ("ForPreTraining", *heads[:3], choices)),
        ("gte", "Gte", gte, heads[:3]),
        ("jina_embeddings_v3", "JinaEmbeddingsV3", roberta, heads),
        ("longformer", "Longformer", windows, ("ForMaskedLM", "ForTokenClassification")),
        ("deberta", "Deberta", first, heads),
    ):
        for head in ("Model", *ends):
            yield case(model_type, stem + head, settings)
    sinks = {key: BASE[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "pad_token_id")}
    sinks |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    sinks |= {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 6, "rms_norm_eps": 1e-5}
    for head in ("Model", "ForTokenClassification"):
        yield case("openai_privacy_filter", f"OpenAIPrivacyFilter{head}", sinks)
    untied = {"tie_word_embeddings": False}
    yield case(
        "xlm-roberta-xl", "XLMRobertaXLForMaskedLM", roberta | OTHER | untied | {"pad_token_id": 3}, "other"
    )
    yield case(
        "rembert",
        "RemBertForMaskedLM",
        OTHER | {"input_embedding_size": 40, "output_embedding_size": 40},
        "other",
    )
    other = OTHER | untied | {"use_bias": False, "rescale_embeddings": True, "hidden_act": "relu"}
    for head in ("ForMaskedLM", "ForSequenceClassification"):
        yield case("big_bird", f"BigBird{head}", other | {"block_size": 8, "num_random_blocks": 1}, "other")
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0}
    other = roberta | OTHER | untied | {"hidden_act": "relu", "rope_parameters": linear}
    yield case("jina_embeddings_v3", "JinaEmbeddingsV3ForMaskedLM", other, "other")
    other = windows | OTHER | untied | {"hidden_act": "gelu_new", "attention_window": 6}
    yield case("longformer", "LongformerForMaskedLM", other, "other")
    other = gte | OTHER | untied | {"type_vocab_size": 0, "hidden_act": "silu", "rope_parameters": None}
    yield case(
        "gte", "GteForMaskedLM", other | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "other"
    )
    other = (
        first | OTHER | {"max_relative_positions": 12, "position_biased_input": True, "embedding_size": 24}
    )
    yield case(
        "deberta", "DebertaForMaskedLM", other | {"pos_att_type": ["p2c"], "hidden_act": "relu"}, "other"
    )
    yield case("deberta", "DebertaModel", other | {"pos_att_type": ["c2p"], "position_buckets": 4}, "c2p")
    plain = first | {"relative_attention": False, "position_biased_input": True, "legacy": False}
    yield case("deberta", "DebertaForMaskedLM", plain, "no distances")


def _roformer_cases(heads: tuple[str, ...]) -> Iterator[Case]:
    """Turned heads: the embedding narrow, values turned too, and each way to sum up a choice."""
    for head in ("Model", *heads, "ForMultipleChoice"):
        yield case("roformer", f"RoFormer{head}", BASE | {"embedding_size": 24})
    other = OTHER | {"rotary_value": True, "hidden_act": "gelu_new", "tie_word_embeddings": False}
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification"):
        yield case("roformer", f"RoFormer{head}", other, "other")
    mapped = {"summary_type": "mean", "summary_use_proj": True, "summary_activation": "tanh"}
    yield case("roformer", "RoFormerForMultipleChoice", other | mapped, "mean")
    far = other | {"max_position_embeddings": 220}
    yield dataclasses.replace(
        case("roformer", "RoFormerModel", far, "far"), ids=ids_for("far", 210), types=None
    )


def _choices_cases(modern: dict[str, Any], mpnet: dict[str, Any]) -> Iterator[Case]:
    """Heads of pairs of texts."""
    roberta = BASE | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    albert = BASE | {"embedding_size": 24, "num_hidden_groups": 1, "inner_group_num": 1}
    deberta = BASE | {
        "type_vocab_size": 0, "relative_attention": True, "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "pos_att_type": "p2c|c2p", "position_biased_input": False,
    }  # fmt: skip
    yield case("bert", "BertForNextSentencePrediction", BASE)
    for model_type, stem, settings in (
        ("bert", "Bert", BASE),
        ("roberta", "Roberta", roberta),
        ("xlm-roberta", "XLMRoberta", roberta),
        ("camembert", "Camembert", roberta),
        ("distilbert", "DistilBert", DISTIL),
        ("electra", "Electra", BASE | {"embedding_size": 24}),
        ("albert", "Albert", albert),
        ("mpnet", "MPNet", mpnet),
        ("deberta-v2", "DebertaV2", deberta),
        ("modernbert", "ModernBert", modern | {"classifier_pooling": "mean"}),
    ):
        yield case(model_type, f"{stem}ForMultipleChoice", settings)


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
                       "pooler_hidden_act": "tanh"}, "p2c")  # fmt: skip
    plain = base | {"relative_attention": False, "norm_rel_ebd": "none", "position_biased_input": True}
    yield case("deberta-v2", "DebertaV2Model", plain, "no distances")
    far = base | {"max_position_embeddings": 220, "position_buckets": 24, "num_hidden_layers": 2}
    yield dataclasses.replace(case("deberta-v2", "DebertaV2Model", far, "far"), ids=ids_for("far", 210))
    back = own | {"position_buckets": 10, "max_relative_positions": 4, "embedding_size": 48}
    yield case("deberta-v2", "DebertaV2Model", back, "buckets come back")


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
