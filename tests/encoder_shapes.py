"""What checkpoints of each encoder hold, by the settings of a config.json: names and shapes of tensors.

Written from transformers' classes and not from tuili's tables, so that the two can disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Shapes = Iterator[tuple[str, tuple[int, ...]]]
PAIRS = ("ForMultipleChoice", "ForNextSentencePrediction")  # heads that read what a pooler makes


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


def bert(c: dict[str, Any], prefix: str = "bert.", body: Callable[..., Shapes] = bert_body) -> Shapes:
    d, (name,) = c["hidden_size"], c["architectures"]
    before = "" if name.endswith("Model") else prefix
    for theirs, shape in body(c):
        yield before + theirs, shape
    if name.endswith(("Model", "ForSequenceClassification", "ForPreTraining", *PAIRS)):
        yield from linear(f"{before}pooler.dense", d, d)
    if name.endswith(("ForPreTraining", "ForNextSentencePrediction")):
        yield from linear("cls.seq_relationship", 2, d)
    if name.endswith(("ForPreTraining", "ForMaskedLM")):
        at = "cls.predictions"
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", c, d, f"{at}.bias"
        )
    yield from labels(c)


def dpr(c: dict[str, Any]) -> Shapes:
    before = "ctx_encoder" if "Context" in c["architectures"][0] else "question_encoder"
    yield from ((f"{before}.bert_model.{name}", shape) for name, shape in bert_body(c))


def ernie(c: dict[str, Any]) -> Shapes:
    def body(c: dict[str, Any]) -> Shapes:
        yield from bert_body(c)
        if c["use_task_id"]:
            yield from table("embeddings.task_type_embeddings", c["task_type_vocab_size"], c["hidden_size"])

    return bert(c, "ernie.", body)


def pre_norm_body(c: dict[str, Any], dropped: str, norms: tuple[str, str], last: str) -> Shapes:
    """BERT's with each layer's `norms` and a last one in place of those that are called `dropped`."""
    yield from ((name, shape) for name, shape in bert_body(c) if dropped not in name)
    for i in range(c["num_hidden_layers"]):
        for name in norms:
            yield from norm(f"encoder.layer.{i}.{name}", c["hidden_size"])
    yield from norm(last, c["hidden_size"])


def megatron(c: dict[str, Any]) -> Shapes:
    return bert(c, "bert.", lambda c: pre_norm_body(c, "LayerNorm", ("attention.ln", "ln"), "encoder.ln"))


def roberta_pre_norm(c: dict[str, Any]) -> Shapes:
    def body(c: dict[str, Any]) -> Shapes:
        norms = ("attention.LayerNorm", "intermediate.LayerNorm")
        return pre_norm_body(c, "output.LayerNorm", norms, "LayerNorm")

    return roberta(c, "roberta_prelayernorm.", body)


def roberta_xl(c: dict[str, Any]) -> Shapes:
    def body(c: dict[str, Any]) -> Shapes:
        norms = ("attention.self_attn_layer_norm", "LayerNorm")
        return pre_norm_body(c, "LayerNorm", norms, "encoder.LayerNorm")

    return roberta(c, "roberta.", body)


def longformer(c: dict[str, Any]) -> Shapes:
    """RoBERTa's, and maps of tokens that all others would see, of which there are none."""

    def body(c: dict[str, Any]) -> Shapes:
        yield from bert_body(c)
        for i in range(c["num_hidden_layers"]):
            for part in ("query", "key", "value"):
                at = f"encoder.layer.{i}.attention.self.{part}_global"
                yield from linear(at, c["hidden_size"], c["hidden_size"])

    return roberta(c, "longformer.", body)


def jina_v3(c: dict[str, Any]) -> Shapes:
    """Without a head as its makers call it, and transformers writes it; else by transformers' own names."""
    own = c["architectures"][0].endswith("Model")

    def body(c: dict[str, Any]) -> Shapes:
        d, f = c["hidden_size"], c["intermediate_size"]
        yield from table("embeddings.word_embeddings", c["vocab_size"], d)
        yield from table("embeddings.token_type_embeddings", c["type_vocab_size"], d)
        yield from norm("emb_ln" if own else "embeddings.LayerNorm", d)
        for i in range(c["num_hidden_layers"]):
            at = f"encoder.layers.{i}" if own else f"layers.{i}"
            if own:
                yield from linear(f"{at}.mixer.Wqkv", 3 * d, d)
            for part in () if own else "qkv":
                yield from linear(f"{at}.self_attn.{part}_proj", d, d)
            yield from linear(f"{at}.mixer.out_proj" if own else f"{at}.self_attn.o_proj", d, d)
            yield from linear(f"{at}.mlp.fc1", f, d)
            yield from linear(f"{at}.mlp.fc2", d, f)
            yield from norm(f"{at}.norm1" if own else f"{at}.post_attention_layernorm", d)
            yield from norm(f"{at}.norm2" if own else f"{at}.post_mlp_layernorm", d)

    return roberta(c, "roberta.", body)


def privacy_filter(c: dict[str, Any]) -> Shapes:
    d, f, n, (name,) = c["hidden_size"], c["intermediate_size"], c["num_local_experts"], c["architectures"]
    before, q = "" if name.endswith("Model") else "model.", c["num_attention_heads"] * c["head_dim"]
    kv = c["num_key_value_heads"] * c["head_dim"]
    yield from table(f"{before}embed_tokens", c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        at = f"{before}layers.{i}"
        for part, rows, columns in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
            yield from linear(f"{at}.self_attn.{part}_proj", rows, columns)
        yield f"{at}.self_attn.sinks", (c["num_attention_heads"],)
        yield from linear(f"{at}.mlp.router", n, d)
        for part, rows, columns in (("gate_up", 2 * f, d), ("down", d, f)):
            yield f"{at}.mlp.experts.{part}_proj", (n, columns, rows)
            yield f"{at}.mlp.experts.{part}_proj_bias", (n, rows)
        yield from norm(f"{at}.input_layernorm", d, False)
        yield from norm(f"{at}.post_attention_layernorm", d, False)
    yield from norm(f"{before}norm", d, False)
    if not name.endswith("Model"):
        yield from linear("score", len(c["id2label"]), d)


def big_bird(c: dict[str, Any]) -> Shapes:
    d, (name,), at = c["hidden_size"], c["architectures"], "cls.predictions"
    before = "" if name.endswith("Model") else "bert."
    for theirs, shape in bert_body(c):
        if c.get("use_bias", True) or not theirs.endswith(("query.bias", "key.bias", "value.bias")):
            yield before + theirs, shape
    if name.endswith("ForSequenceClassification"):
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if name.endswith(("Model", "ForPreTraining", *PAIRS)):
        yield from linear(f"{before}pooler", d, d)
    if name.endswith("ForPreTraining"):
        yield from linear("cls.seq_relationship", 2, d)
    if name.endswith(("ForPreTraining", "ForMaskedLM")):
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", c, d, f"{at}.bias"
        )
    yield from labels(c)


def rembert(c: dict[str, Any]) -> Shapes:
    d, (name,) = c["hidden_size"], c["architectures"]
    before = "" if name.endswith("Model") else "rembert."
    for theirs, shape in bert_body(c, c["input_embedding_size"]):
        if "embeddings_project" not in theirs:
            yield before + theirs, shape
    yield from linear(f"{before}encoder.embedding_hidden_mapping_in", d, c["input_embedding_size"])
    if name.endswith(("Model", "ForSequenceClassification", *PAIRS)):
        yield from linear(f"{before}pooler.dense", d, d)
    if name.endswith("ForMaskedLM"):
        at, own = "cls.predictions", c | {"tie_word_embeddings": False}
        width = c["output_embedding_size"]
        yield from words(f"{at}.dense", f"{at}.LayerNorm", f"{at}.decoder", own, width, f"{at}.decoder.bias")
    yield from labels(c)


def gte(c: dict[str, Any]) -> Shapes:
    d, f, (name,) = c["hidden_size"], c["intermediate_size"], c["architectures"]
    before = "" if name == "GteModel" else "gte."
    yield from table(f"{before}embeddings.word_embeddings", c["vocab_size"], d)
    if c["type_vocab_size"]:
        yield from table(f"{before}embeddings.token_type_embeddings", c["type_vocab_size"], d)
    yield from norm(f"{before}embeddings.LayerNorm", d)
    for i in range(c["num_hidden_layers"]):
        at = f"{before}layers.{i}"
        for part in "qkvo":
            yield from linear(f"{at}.self_attn.{part}_proj", d, d)
        yield from linear(f"{at}.mlp.gate_proj", f, d, False)
        yield from linear(f"{at}.mlp.up_proj", f, d, False)
        yield from linear(f"{at}.mlp.down_proj", d, f)
        yield from norm(f"{at}.post_attention_layernorm", d)
        yield from norm(f"{at}.post_mlp_layernorm", d)
    if name == "GteForSequenceClassification":
        yield from linear(f"{before}pooler.dense", d, d)
    if name == "GteForMaskedLM":
        at = "lm_head"
        yield from words(f"{at}.dense", f"{at}.layer_norm", f"{at}.decoder", c, d, f"{at}.decoder.bias")
    yield from labels(c)


def data2vec(c: dict[str, Any]) -> Shapes:
    return roberta(c, "data2vec_text.")


def roberta(c: dict[str, Any], prefix: str = "roberta.", body: Callable[..., Shapes] = bert_body) -> Shapes:
    d, (name,) = c["hidden_size"], c["architectures"]
    before = "" if name.endswith("Model") else prefix
    for theirs, shape in body(c):
        yield before + theirs, shape
    if name.endswith(("Model", *PAIRS)):
        yield from linear(f"{before}pooler.dense", d, d)
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
    if name == "ElectraForMultipleChoice":
        yield from linear("sequence_summary.summary", d, d)
    if name == "ElectraForMaskedLM":
        at = "generator_predictions"
        bias = "generator_lm_head.bias"
        yield from words(f"{at}.dense", f"{at}.LayerNorm", "generator_lm_head", c, width, bias)
    yield from labels(c)


def roformer(c: dict[str, Any]) -> Shapes:
    d, width, (name,) = c["hidden_size"], c.get("embedding_size", c["hidden_size"]), c["architectures"]
    before, at = "" if name == "RoFormerModel" else "roformer.", "cls.predictions"
    for theirs, shape in bert_body(c, width):
        if "position" not in theirs:
            yield before + theirs, shape
    if name == "RoFormerForSequenceClassification":
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if c.get("summary_use_proj"):
        yield from linear("sequence_summary.summary", d, d)
    if name == "RoFormerForMaskedLM":
        yield from words(
            f"{at}.transform.dense", f"{at}.transform.LayerNorm", f"{at}.decoder", c, width, f"{at}.bias"
        )
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
    if name in ("AlbertModel", "AlbertForSequenceClassification", "AlbertForMultipleChoice"):
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
    if name in ("DistilBertForSequenceClassification", "DistilBertForMultipleChoice"):
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
    if name.endswith("ForMultipleChoice"):
        yield from linear("classifier", 1, d)


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
        n = 1 if name.endswith("ForMultipleChoice") else len(c.get("id2label", "12"))
        yield from linear("classifier", n, d)


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
    if name in ("MPNetModel", "MPNetForMultipleChoice"):
        yield from linear(f"{before}pooler.dense", d, d)
    if name == "MPNetForSequenceClassification":
        yield from linear("classifier.dense", d, d)
        yield from linear("classifier.out_proj", len(c["id2label"]), d)
        return
    if name == "MPNetForMaskedLM":
        yield from words("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", c, d, "lm_head.bias")
    yield from labels(c)


def deberta_1(c: dict[str, Any]) -> Shapes:
    """The second version's with other names in attention, and without maps of its own for keys."""
    d, kinds = c["hidden_size"], c["pos_att_type"] if c["relative_attention"] else ""
    before = "" if c["architectures"] == ["DebertaModel"] else "deberta."
    second = c | {"architectures": [name.replace("Deberta", "DebertaV2") for name in c["architectures"]]}
    second |= {"position_buckets": -1}  # which the first does not read
    for name, shape in deberta(second):
        if ".attention.self." not in name:
            yield name, shape
    for i in range(c["num_hidden_layers"]):
        at = f"{before}encoder.layer.{i}.attention.self"
        yield from linear(f"{at}.in_proj", 3 * d, d, False)
        yield f"{at}.q_bias", (d,)
        yield f"{at}.v_bias", (d,)
        if "c2p" in kinds:
            yield from linear(f"{at}.pos_proj", d, d, False)
        if "p2c" in kinds:
            yield from linear(f"{at}.pos_q_proj", d, d)


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
    if name in ("DebertaV2ForSequenceClassification", "DebertaV2ForMultipleChoice"):
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
    "data2vec-text": data2vec,
    "roberta-prelayernorm": roberta_pre_norm,
    "ernie": ernie,
    "megatron-bert": megatron,
    "distilbert": distilbert,
    "electra": electra,
    "roformer": roformer,
    "albert": albert,
    "dpr": dpr,
    "llama": llama,
    "eurobert": llama,
    "gemma3_text": llama,
    "modernbert": modernbert,
    "nomic_bert": nomic_bert,
    "mpnet": mpnet,
    "deberta-v2": deberta,
    "deberta": deberta_1,
    "xlm-roberta-xl": roberta_xl,
    "rembert": rembert,
    "big_bird": big_bird,
    "gte": gte,
    "jina_embeddings_v3": jina_v3,
    "longformer": longformer,
    "openai_privacy_filter": privacy_filter,
}
