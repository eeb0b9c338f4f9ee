"""Sentence vectors by sentence-transformers' modules, prompts, shorter vectors and fewer bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from encoder_models import CASES, Case, write_folder
from sentence_folders import D_MODEL, FOLDERS, TEXTS, write
from tiny_files import write_hf_folder
from tiny_models import Weight, tiny_bert
from tuili import NumericError
from tuili.embedding import in_precision
from tuili.loading.model import plan_model

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "sentences.json").read_text())
DENSE = {"in_features": 48, "out_features": 20}


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, name):
    with tuili.LLM(write(name, tmp_path), num_threads=1) as llm:
        vectors = llm.embed(TEXTS, **FOLDERS[name].options)
        wanted = np.array(GOLDENS["vectors"][name])
        assert vectors.shape == wanted.shape
        assert abs(vectors - wanted).max() <= 1e-5 * np.ptp(wanted)
        alone = llm.embed(TEXTS[2], **FOLDERS[name].options)
        np.testing.assert_array_equal(alone, vectors[2])
        whole = llm.embed(TEXTS, prompt_name=FOLDERS[name].options.get("prompt_name"))
        assert llm.similarity(whole, whole).shape == (len(TEXTS), len(TEXTS))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits_are_those_of_sentence_transformers(precision):
    sample = np.array(GOLDENS["vectors"]["cls"], np.float32)
    ranges = np.stack([sample.min(0), sample.max(0)])
    got = in_precision(sample, precision, ranges if precision in ("int8", "uint8") else None)
    np.testing.assert_array_equal(got, GOLDENS["codes"][precision])
    assert got.dtype == (np.uint8 if precision[0] == "u" else np.int8)
    if precision not in ("int8", "uint8"):
        for unused in (precision, "float32"):
            with pytest.raises(tuili.InvalidParameterError, match="ranges"):
                in_precision(sample, unused, ranges)
    else:
        for wrong in (None, ranges[:1], ranges * np.nan, "ab", [[1], [2, 3]]):
            with pytest.raises(tuili.InvalidParameterError, match="ranges"):
                in_precision(sample, precision, wrong)


def test_a_text_shorter_than_the_prompt_that_is_skipped_keeps_its_last_token(tmp_path):
    with tuili.LLM(write("without the prompt", tmp_path), num_threads=1) as llm:
        cut = llm.embed("a cat", pooling="mean", prompt_name="query", truncation=True, max_length=3)
        np.testing.assert_array_equal(
            cut, llm.embed("the", pooling="last", prompt_name="query", truncation=True, max_length=3)
        )
        assert llm.embed("a cat", pooling="weighted_mean").shape == (D_MODEL,)
        with pytest.raises(tuili.InvalidParameterError, match="include_prompt"):
            llm.embed("a cat", pooling="weighted_mean", prompt_name="query")


def test_a_prompt_without_tokens_skips_none(tmp_path):
    folder = write("without the prompt", tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    prompts = {"prompts": {"query": " "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    with tuili.LLM(folder, num_threads=1) as llm:
        np.testing.assert_array_equal(llm.embed("a cat", prompt_name="query"), llm.embed("a cat"))


def test_options_of_embed_are_checked(tmp_path):
    with tuili.LLM(write("two dense", tmp_path), num_threads=1) as llm:
        for options in (
            {"pooling": "median"}, {"pooling": "cls"}, {"truncate_dim": 0}, {"truncate_dim": 25},
            {"prompt_name": "query"}, {"prompt_name": ["query"]}, {"precision": "int4"},
        ):  # fmt: skip
            with pytest.raises(tuili.InvalidParameterError):
                llm.embed("a cat", **options)


def test_truncation_keeps_an_end_token_that_stands_alone(tmp_path):
    """Qwen3-Embedding puts one token behind a text and none before it, and its vector is that token's."""
    folder = write_folder(CASES["BertModel"], tmp_path)
    document = json.loads((folder / "tokenizer.json").read_text())
    sep = document["model"]["vocab"]["[SEP]"]
    end = {"SpecialToken": {"id": "[SEP]", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with tuili.LLM(folder, num_threads=1) as llm:
        text = "the cat " * 100
        ids = llm.tokenizer.encode(text)
        limit = CASES["BertModel"].config["max_position_embeddings"]
        states = llm.hidden_states([*ids[: limit - 1], sep])
        vector = llm.embed(text, pooling="last", normalize=False, truncation=True)
        np.testing.assert_array_equal(vector, states[-1, -1])


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_texts_become_lower_case_where_the_files_say_so(tmp_path, kind):
    folder = write("max", tmp_path)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / f"sentence_{kind}_config.json").write_text(json.dumps({"do_lower_case": True}))
    with tuili.LLM(folder, num_threads=1) as llm:
        np.testing.assert_array_equal(llm.embed("The CAT"), llm.embed("the cat"))


def test_a_folder_that_names_the_class_with_words_is_an_embedder(tmp_path):
    """As Qwen3-Embedding's does."""
    folder = write("last", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaModel"]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with tuili.LLM(folder, num_threads=1) as llm:
        wanted = np.array(GOLDENS["vectors"]["last"])
        assert abs(llm.embed(TEXTS) - wanted).max() <= 1e-5 * np.ptp(wanted)


@pytest.mark.parametrize(
    "file, value, code",
    [
        ("1_Pooling/config.json", {}, "pooling"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "pooling"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": "no"}, "config_type"),
        ("2_Dense/config.json", {"in_features": 0, "out_features": 2}, "config_value"),
        ("2_Dense/config.json", {"in_features": 48, "out_features": 21}, "tensor_shape"),
        ("2_Dense/config.json", DENSE | {"activation_function": "os.system"}, "module"),
        ("2_Dense/config.json", DENSE | {"use_residual": True}, "module"),
        ("2_Dense/config.json", DENSE | {"module_input_name": "token_embeddings"}, "config_unsupported"),
        ("9_Normalize/config.json", {"module_input_name": "token_embeddings"}, "config_unsupported"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "config_unsupported"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method_output_name": "pooler_output"}}},
            "config_unsupported",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"message": {"format": "flat"}}},
            "config_unsupported",
        ),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "config_value"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "config_value"),
        ("config_sentence_transformers.json", {"default_prompt_name": "a"}, "config_value"),
        ("modules.json", [{"type": "x.Normalize"}, {"type": "x.Pooling", "path": "1_Pooling"}], "module"),
        ("modules.json", [{"type": "x.LSTM", "path": ""}], "module"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "pylate.Dense", "path": "2_Dense"}], "module"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Normalize", "path": "9_N"}], "module"),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_are_errors(tmp_path, file, value, code):
    folder = write("dense", tmp_path)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(value))
    with pytest.raises((tuili.ModelFormatError, tuili.ModelUnsupportedError)) as error:
        plan_model(folder)
    assert error.value.code == code


def test_a_cross_encoder_ranks_by_reading_both_texts(tmp_path):
    case = CASES["BertForSequenceClassification"]
    config = {key: value for key, value in case.config.items() if key != "id2label"}
    one = Case("reranker", config | {"id2label": {"0": "relevant"}}, case.ids)
    with tuili.LLM(write_folder(one, tmp_path), num_threads=1) as llm:
        ranked = llm.rank("the cat", TEXTS)
        pairs = llm.classify([("the cat", text) for text in TEXTS])
        assert sorted(hit["index"] for hit in ranked) == [0, 1, 2, 3]
        for hit in ranked:
            assert hit["score"] == pairs[hit["index"]]["score"]  # a sigmoid in both
            assert hit["text"] == TEXTS[hit["index"]]
        assert [hit["score"] for hit in ranked] == sorted((hit["score"] for hit in ranked), reverse=True)
        assert llm.rank("the cat", TEXTS, top_k=2) == ranked[:2]
    many = write_folder(case, tmp_path / "many")
    with tuili.LLM(many, num_threads=1) as llm, pytest.raises(tuili.InvalidParameterError, match="3 labels"):
        llm.rank("the cat", TEXTS)


CROSS_ENCODER = {
    "modules.json": [{"name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}],
    "config_sentence_transformers.json": {
        "model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity",
        "prompts": {}, "default_prompt_name": None,
    },
    "sentence_bert_config.json": {
        "transformer_task": "sequence-classification", "module_output_name": "scores",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    },
}  # fmt: skip


def cross_encoder(folder: Path, **changed: Any) -> Path:
    """As sentence-transformers 6 writes one, with settings changed by the first word of their file."""
    case = CASES["BertForSequenceClassification"]
    write_folder(Case("reranker", case.config | {"id2label": {"0": "LABEL_0"}}, case.ids), folder)
    for name, content in CROSS_ENCODER.items():
        more = changed.get(name.split("_")[0].split(".")[0])
        found = more if isinstance(more, list) else content if more is None else {**content, **more}
        (folder / name).write_text(json.dumps(found))
    return folder


def test_a_cross_encoder_of_the_newest_folders_is_one(tmp_path):
    folder = cross_encoder(tmp_path)
    with tuili.LLM(folder, num_threads=1) as llm:
        assert llm.config["tasks"] == ["feature-extraction", "text-classification"]
        raw = [llm.rank("the cat", [text])[0]["score"] for text in TEXTS]
    neutral = {"processing_kwargs": {"text": {"padding": True, "truncation": True}, "image": {"x": 1}}}
    cross_encoder(tmp_path, config={"activation_fn": "torch.nn.modules.activation.Sigmoid"}, sentence=neutral)
    with tuili.LLM(folder, num_threads=1) as llm:
        found = [llm.rank("the cat", [text])[0]["score"] for text in TEXTS]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-np.array(raw))), rtol=1e-6)
    cross_encoder(tmp_path, config={"activation_fn": None}, sentence={"max_seq_length": 12})
    config = json.loads((folder / "config.json").read_text())
    settings = {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
    (folder / "config.json").write_text(json.dumps(config | settings))
    with tuili.LLM(folder, num_threads=1) as llm:
        assert llm.rank("the cat", TEXTS[:1])[0]["score"] == raw[0], "config.json says so, too"
        with pytest.raises(tuili.PromptTooLongError, match="limit is 12"):
            llm.rank("the cat", [TEXTS[0] * 3])


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            {"modules": [*CROSS_ENCODER["modules.json"], {"type": "x.Dense", "path": "1_D"}]},
            "Dense",
        ),
        ({"sentence": {"transformer_task": "text-generation"}}, "transformer_task"),
        ({"sentence": {"module_output_name": "causal_logits"}}, "module_output_name"),
        ({"sentence": {"processing_kwargs": {"text": {"max_length": 4}}}}, "max_length for text"),
        ({"sentence": {"processing_kwargs": {"common": {"add_special_tokens": False}}}}, "add_special"),
        ({"sentence": {"do_lower_case": True}}, "do_lower_case"),
    ],
)
def test_cross_encoders_that_are_not_done_are_refused(tmp_path, changed, message):
    with pytest.raises(tuili.ModelUnsupportedError, match=message):
        tuili.LLM(cross_encoder(tmp_path, **changed), num_threads=1)


def test_token_types_are_given_where_the_tokenizer_gives_them(tmp_path):
    scores = []
    for names in (None, ["input_ids", "token_type_ids"], ["input_ids", "attention_mask"]):
        folder = cross_encoder(tmp_path)
        settings = {} if names is None else {"model_input_names": names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        with tuili.LLM(folder, num_threads=1) as llm:
            scores.append(llm.rank("the cat", [TEXTS[0]])[0]["score"])
    assert scores[0] == scores[1] != scores[2]
    (folder / "tokenizer_config.json").write_text('{"model_input_names": 3}')
    with pytest.raises(tuili.TokenizerError, match="model_input_names"):
        tuili.LLM(folder, num_threads=1)


def test_vectors_that_are_not_numbers_are_an_error(tmp_path):
    """Not a vector of NaN, whose similarity to anything would be 0 and whose bits would be those of zeros."""
    model = tiny_bert()
    weight = model.weights["layers.0.down"]
    model.weights["layers.0.down"] = Weight("f32", weight.shape, np.full_like(weight.rows, 0xFF))
    with tuili.LLM(write_hf_folder(model, tmp_path / "nan"), num_threads=1, packed_cache=False) as embedder:
        for use in (
            lambda: embedder.embed(["a", "b"]),
            lambda: embedder.embed("a", precision="binary"),
            lambda: embedder.similarity("a", "b"),
            lambda: embedder.rank("a", ["b"]),
        ):
            with pytest.raises(NumericError):
                use()
