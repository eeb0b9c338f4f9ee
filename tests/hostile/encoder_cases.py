"""Rows CF-* for encoders and their heads: settings that cannot be, heads without their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import Case, folder, st_file, st_header
from .config_cases import BERT

F, U = ModelFormatError, ModelUnsupportedError

DISTIL = {
    "architectures": ["DistilBertModel"],
    "model_type": "distilbert",
    "vocab_size": 16,
    "dim": 32,
    "n_heads": 4,
    "n_layers": 1,
    "hidden_dim": 64,
}


def heads() -> Iterator[Case]:
    classes = BERT | {"architectures": ["BertForSequenceClassification"]}

    def head(name: str, error: Any, code: str, **changes: Any) -> Case:
        return Case("CF-03", f"head {name}", folder(config=classes | changes), error, code)

    yield head("labels list", F, "config_value", id2label=["a", "b"])
    yield head("no labels", F, "config_value", id2label={})
    yield head("labels with a gap", F, "config_value", id2label={"0": "a", "2": "b"})
    yield head("label 7.5", F, "config_value", id2label={"0": 7.5})
    yield head("num_labels 0", F, "config_value", num_labels=0)
    yield head("problem", U, "config_unsupported", problem_type="ranking")
    yield head("activation_fn", F, "config_value", sentence_transformers={"activation_fn": "os.system"})


def writers() -> Iterator[Case]:
    def writer(name: str, error: Any, code: str, **changes: Any) -> Case:
        base = BERT | {"architectures": ["BertLMHeadModel"], "is_decoder": True}
        return Case("CF-03", f"bert writer {name}", folder(config=base | changes), error, code)

    yield writer("without its tensors", F, "tensor_missing")
    yield writer("that sees both sides", U, "config_unsupported", is_decoder=False)
    yield writer("of no kind", F, "config_type", is_decoder="yes")
    yield writer("with a source", U, "config_unsupported", add_cross_attention=True)
    yield writer("by another name", U, "architecture", architectures=["BertForCausalLM"])


def settings() -> Iterator[Case]:
    def roberta(name: str, error: Any, code: str, **changes: Any) -> Case:
        base = BERT | {"architectures": ["RobertaModel"]}
        return Case("CF-03", f"roberta {name}", folder(config=base | changes), error, code)

    yield roberta("no room for positions", F, "config_value", max_position_embeddings=2, pad_token_id=1)
    yield roberta("cross-attention", U, "config_unsupported", add_cross_attention=True)

    def distil(name: str, error: Any, code: str, **changes: Any) -> Case:
        return Case("CF-03", f"distilbert {name}", folder(config=DISTIL | changes), error, code)

    yield distil("heads 5", F, "config_value", n_heads=5)
    yield distil("activation", U, "config_unsupported", activation="prelu")

    def albert(name: str, error: Any, code: str, **changes: Any) -> Case:
        base = BERT | {"architectures": ["AlbertModel"], "embedding_size": 16}
        return Case("CF-03", f"albert {name}", folder(config=base | changes), error, code)

    yield albert("groups 0", F, "config_value", num_hidden_groups=0)
    yield albert("inner layers", F, "config_value", inner_group_num=4096)

    for kinds in ("c2p|p2p", "", ["c2p", "c2p"]):
        first = BERT | {"architectures": ["DebertaModel"], "pos_att_type": kinds}
        yield Case("CF-03", f"deberta scores {kinds}", folder(config=first), F, "config_value")

    choices = BERT | {"architectures": ["ElectraForMultipleChoice"], "summary_activation": None}
    yield Case(
        "CF-03", "electra summary without an activation", folder(config=choices), U, "config_unsupported"
    )

    windows = {"architectures": ["MistralModel"], "num_key_value_heads": 2, "is_causal": False}
    narrow = {"architectures": ["OPTModel"], "ffn_dim": 32, "word_embed_proj_dim": 16}
    for name, changes in (("windows on both sides", windows), ("narrow embedding without words", narrow)):
        yield Case("CF-03", f"decoder {name}", folder(config=BERT | changes), U, "config_unsupported")

    euro = BERT | {"architectures": ["EuroBertForSequenceClassification"], "clf_pooling": "max"}
    yield Case("CF-03", "eurobert pooling", folder(config=euro), U, "config_unsupported")

    def deberta(name: str, code: str, **changes: Any) -> Case:
        base = BERT | {"architectures": ["DebertaV2Model"], "relative_attention": True}
        return Case("CF-03", f"deberta {name}", folder(config=base | changes), F, code)

    yield deberta("even convolution", "config_value", conv_kernel_size=2)
    thin = {"architectures": ["DebertaV2ForMaskedLM"], "legacy": False, "embedding_size": 16}
    words = st_file(st_header({"lm_predictions.lm_head.dense.weight": [32, 32]}))
    yield Case("CF-03", "deberta narrow words", folder(words, BERT | thin), F, "config_value")
    yield deberta("kinds 7", "config_value", pos_att_type=7)
    for kinds in (["c2p", 5], {"c2p": 1}):
        yield deberta(f"kinds {kinds}", "config_value", pos_att_type=kinds)
    c2p = {"pos_att_type": ["c2p"]}
    for buckets in (1, -2, 1 << 25):
        yield deberta(f"{buckets} buckets", "config_value", position_buckets=buckets, **c2p)
    near = {"position_buckets": 16, "max_relative_positions": 9}
    yield deberta("buckets up to the farthest", "config_value", **near, **c2p)
    many = {"max_position_embeddings": 1 << 24, "position_biased_input": False}
    yield deberta("2^24 positions", "config_value", **many, **c2p)


def later() -> Iterator[Case]:
    """MPNet, ModernBERT, NomicBERT, and DeBERTa's table of distances."""
    few = st_file(st_header({"encoder.rel_embeddings.weight": [18, 32]}))
    back = BERT | {"architectures": ["DebertaV2Model"], "relative_attention": True, "position_buckets": 40}
    back |= {"max_relative_positions": 9, "pos_att_type": ["c2p"]}
    yield Case("CF-03", "deberta few rows", folder(few, back), F, "tensor_shape")

    def of(name: str, architecture: str, error: Any, code: str, **changes: Any) -> Case:
        base = BERT | {"architectures": [architecture]}
        return Case("CF-03", f"{architecture} {name}", folder(config=base | changes), error, code)

    yield of("no room for positions", "MPNetModel", F, "config_value", max_position_embeddings=2)
    yield of("buckets", "MPNetModel", F, "config_value", relative_attention_num_buckets=16)
    yield of("pooling", "ModernBertModel", U, "config_unsupported", classifier_pooling="max")
    yield of("layer types", "ModernBertModel", F, "config_value", layer_types=["full_attention"] * 7)
    yield of("GELU", "NomicBertModel", U, "config_unsupported", n_embd=32, activation_function="gelu")
    yield of("spans", "NomicBertForQuestionAnswering", U, "architecture")


def tables_of_tasks() -> Iterator[Case]:
    """ERNIE's, which is added to that of token types."""
    tasks, types = (f"ernie.embeddings.{kind}_type_embeddings.weight" for kind in ("task", "token"))
    config = BERT | {"architectures": ["ErnieModel"], "use_task_id": True}

    def of(name: str, error: Any, code: str, shapes: dict[str, list[int]], dtype: str = "F32") -> Case:
        header = st_header(shapes)
        for entry in header.values():
            entry["dtype"] = dtype
        return Case("CF-03", f"ernie {name}", folder(st_file(header), config), error, code)

    yield of("without a table of tasks", F, "tensor_missing", {types: [2, 32]})
    yield of("tasks of another width", F, "tensor_shape", {types: [2, 32], tasks: [3, 16]})
    yield of("tasks as integers", U, "tensor_dtype", {types: [2, 32], tasks: [3, 32]}, "I32")


def turned() -> Iterator[Case]:
    """RoFormer, and its table of positions."""
    config = BERT | {"architectures": ["RoFormerModel"], "num_attention_heads": 2}

    def of(name: str, error: Any, code: str, shape: list[int] | None = None, **changes: Any) -> Case:
        header = st_header({"roformer.encoder.embed_positions.weight": shape or [16, 16]})
        return Case("CF-03", f"roformer {name}", folder(st_file(header), config | changes), error, code)

    yield of("odd heads", U, "config_unsupported", hidden_size=6, max_position_embeddings=16)
    yield of("positions of zeros", U, "config_unsupported", max_position_embeddings=16)
    yield of("positions of another width", U, "config_unsupported", [16, 8], max_position_embeddings=16)
    yield of("positions of a vector", U, "config_unsupported", [256], max_position_embeddings=16)
    yield of("2^24 positions", U, "config_unsupported", max_position_embeddings=1 << 24)
    choices = {"architectures": ["RoFormerForMultipleChoice"]}
    for name, error, code, changes in (
        ("values by a word", F, "config_type", {"rotary_value": "yes"}),
        ("no embedding", F, "config_value", {"embedding_size": 0}),
        ("activation of no map", U, "config_unsupported", choices | {"summary_activation": "tanh"}),
    ):
        yield Case("CF-03", f"roformer {name}", folder(config=config | changes), error, code)


CASES = [case for group in (heads, writers, settings, later, tables_of_tasks, turned) for case in group()]
