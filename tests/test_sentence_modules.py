"""Sentence vectors by sentence-transformers' modules, prompts, shorter vectors and fewer bits."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuili
from encoder_models import CASES, Case, write_folder
from sentence_folders import FOLDERS, STATIC, TEXTS, write, write_plain_tensors
from tiny_files import write_hf_folder
from tiny_models import Weight, tiny_bert
from tiny_server import running
from tuili import NumericError
from tuili.embedding.options import in_precision
from tuili.loading import packed_cache
from tuili.loading.model import plan_model
from tuili.loading.sentence_maps import ACTIVATIONS

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "sentences.json").read_text())
DENSE = {"in_features": 48, "out_features": 20}


def test_files_say_how_many_numbers_are_kept_and_what_compares_them(tmp_path):
    with tuili.LLM(write("truncated by its files", tmp_path), num_threads=1) as llm:
        short, longer = llm.embed(TEXTS), llm.embed(TEXTS, truncate_dim=20)
        assert short.shape == (len(TEXTS), 12) and longer.shape == (len(TEXTS), 20)
        assert llm.similarity(short[0], short[1]) == llm.similarity(*TEXTS[:2])
        assert [text for text in llm.config["warnings"] if "similarity_fn_name is dot" in text]
        with running(llm) as server:
            for wanted, width in ((short, None), (short, 12), (llm.embed(TEXTS, True, truncate_dim=20), 20)):
                answer = server.ask("/v1/embeddings", {"input": TEXTS, "dimensions": width}).json()
                found = np.array([item["embedding"] for item in answer["data"]], np.float32)
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_of_sentence_transformers(tmp_path, name):
    with tuili.LLM(write(name, tmp_path), num_threads=1) as llm:
        vectors = llm.embed(TEXTS, **FOLDERS[name].options)
        wanted = np.array(GOLDENS["vectors"][name])
        assert vectors.shape == wanted.shape
        assert abs(vectors - wanted).max() <= 1e-5 * np.ptp(wanted)
        alone = llm.embed(TEXTS[2], **FOLDERS[name].options)
        np.testing.assert_array_equal(alone, vectors[2])
        for precision in ("float32", "ubinary"):
            some, none = (llm.embed(texts, precision=precision) for texts in (TEXTS, []))
            assert (none.shape, none.dtype) == ((0, some.shape[1]), some.dtype)
        assert llm.similarity(TEXTS, []).shape == (len(TEXTS), 0) and llm.rank(TEXTS[0], []) == []
        whole = llm.embed(TEXTS, prompt_name=FOLDERS[name].options.get("prompt_name"))
        assert llm.similarity(whole, whole).shape == (len(TEXTS), len(TEXTS))


@pytest.mark.parametrize("name", ["prompts", "without the prompt", "default prompt"])
def test_a_prompt_may_be_given_in_words(tmp_path, name):
    known = FOLDERS[name].others["config_sentence_transformers.json"]
    with tuili.LLM(write(name, tmp_path), num_threads=1) as llm:
        for prompt_name, words in known["prompts"].items():
            np.testing.assert_array_equal(
                llm.embed(TEXTS, prompt=words), llm.embed(TEXTS, prompt_name=prompt_name)
            )
        assert (llm.embed(TEXTS, prompt="in the ") != llm.embed(TEXTS, prompt="")).any(axis=1).all()
        for wrong in ({"prompt": 3}, {"prompt": "a", "prompt_name": prompt_name}):
            with pytest.raises(tuili.InvalidParameterError) as caught:
                llm.embed(TEXTS, **wrong)
            assert caught.value.param == "prompt"


# torch.nn's documentation of each, in float64.
_EXPM1, _SOFTPLUS = (lambda x: np.expm1(np.minimum(x, 0))), (lambda x: np.logaddexp(0, x))
_CLIP6 = lambda x: np.clip(x + 3, 0, 6) / 6  # noqa: E731
TORCH = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * np.array([(1 + math.erf(item / math.sqrt(2))) / 2 for item in x]),
    "SiLU": lambda x: x * (1 + np.tanh(x / 2)) / 2,
    "Sigmoid": lambda x: np.exp(-_SOFTPLUS(-x)),
    "ELU": lambda x: np.maximum(x, 0) + _EXPM1(x),
    "CELU": lambda x: np.maximum(x, 0) + _EXPM1(x),
    "SELU": lambda x: 1.0507009873554805 * (np.maximum(x, 0) + 1.6732632423543772 * _EXPM1(x)),
    "Softplus": _SOFTPLUS,
    "LogSigmoid": lambda x: -_SOFTPLUS(-x),
    "Mish": lambda x: x * np.tanh(_SOFTPLUS(x)),
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Hardsigmoid": _CLIP6,
    "Hardswish": lambda x: x * _CLIP6(x),
    "Tanhshrink": lambda x: x - np.tanh(x),
    "Softshrink": lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0),
    "Hardshrink": lambda x: np.where(abs(x) > 0.5, x, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name):
    x = np.concatenate([np.linspace(-30, 30, 997), [-1e4, 1e4, 0, 0.5, -0.5]]).astype(np.float32)
    got = ACTIVATIONS[name](x.reshape(1, -1))
    assert got.dtype == np.float32
    wanted = TORCH[name](x.astype(np.float64))
    error = abs(got[0] - wanted) / np.maximum(abs(wanted), 1)
    assert error.max() <= 1e-6, f"worst at {x[error.argmax()]}"
    assert np.isnan(ACTIVATIONS[name](np.full((1, 1), np.nan, np.float32)))


@pytest.mark.parametrize("name", STATIC)
def test_tables_of_vectors_give_those_of_sentence_transformers(tmp_path, name):
    with tuili.LLM(write(name, tmp_path), num_threads=1) as llm:
        vectors, wanted = llm.embed(TEXTS), np.array(GOLDENS["vectors"][name])
        assert abs(vectors - wanted).max() <= 1e-6 * np.ptp(wanted)
        np.testing.assert_array_equal(llm.embed(TEXTS[2]), vectors[2])
        assert llm.config["tasks"] == ["feature-extraction"]
        assert llm.config["max_model_len"] == 8192
        assert llm.similarity(TEXTS[:1], vectors).shape == (1, len(TEXTS))
        states = llm.hidden_states(llm.tokenizer.encode(TEXTS[0]))
        assert states.shape[0] == 1
        if not llm.loaded.dense:
            for pooling, row in (("last", states[0, -1]), ("cls", states[0, 0]), ("max", states[0].max(0))):
                np.testing.assert_array_equal(
                    llm.embed(TEXTS[0], pooling=pooling, normalize=False, prompt_name=None), row
                )


def test_a_text_without_tokens_is_the_mean_of_nothing(tmp_path):
    with tuili.LLM(write("static", tmp_path), num_threads=1) as llm:
        vectors = llm.embed(["", "a cat", "  "])
        np.testing.assert_array_equal(vectors[[0, 2]], 0)
        np.testing.assert_array_equal(vectors[1], llm.embed("a cat"))
        np.testing.assert_array_equal(llm.embed([""]), np.zeros((1, 16), np.float32))


@pytest.mark.parametrize("name, dtype", [("embedding.weight", "float64"), ("embeddings", "int8")])
def test_tables_may_be_of_other_numbers(tmp_path, name, dtype):
    """Whole ones, so that all types hold the same table."""
    folder = write("static at the root", tmp_path)
    n_vocab = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    table = np.random.default_rng(0).integers(-99, 99, (n_vocab, 16))
    vectors = []
    for stored in (dtype, "float32"):
        write_plain_tensors(folder, {name: table.astype(stored)})
        with tuili.LLM(folder, num_threads=1) as llm:
            vectors.append(llm.embed(TEXTS))
    np.testing.assert_array_equal(*vectors)


def test_a_table_takes_as_many_tokens_as_its_tokenizer_does(tmp_path):
    folder = write("static at the root", tmp_path)
    document = json.loads((folder / "tokenizer.json").read_text())

    def cut(**how):
        cut = {"max_length": 4, "stride": 0, "strategy": "LongestFirst", "direction": "Right"} | how
        (folder / "tokenizer.json").write_text(json.dumps(document | {"truncation": cut}))
        return tuili.LLM(folder, num_threads=1)

    with cut() as llm:
        assert llm.config["max_model_len"] == 4
        with pytest.raises(tuili.PromptTooLongError):
            llm.embed("the cat is the cat", prompt_name=None)
        prompted = "the good the cat is on"  # the first two are the prompt
        np.testing.assert_array_equal(llm.embed(prompted[9:], truncation=True), llm.embed("the cat"))
    with pytest.raises(tuili.ModelUnsupportedError, match="direction"):
        cut(direction="Left")


def test_a_table_multiplies_nothing_that_could_have_fewer_bits(tmp_path):
    with pytest.raises(tuili.InvalidParameterError) as error:
        tuili.LLM(write("static", tmp_path), num_threads=1, quantization="int8")
    assert error.value.param == "quantization"


def test_a_folder_of_a_table_that_is_not_there_is_an_error(tmp_path):
    folder = write("static", tmp_path)
    shutil.rmtree(folder / "0_StaticEmbedding")
    with pytest.raises(tuili.ModelIOError, match=r"tokenizer\.json"):
        tuili.LLM(folder, num_threads=1)


@pytest.mark.parametrize(
    "changed, code",
    [
        ({"embeddings": None}, "tensor_missing"),
        ({"embeddings": np.zeros((7, 16), np.int64)}, "tensor_dtype"),
        ({"embeddings": np.zeros(7, np.float32)}, "tensor_dtype"),
        ({"embeddings": np.zeros((7, 4, 4), np.float32), "mapping": None, "weights": None}, "tensor_shape"),
        ({"mapping": np.zeros(3, np.float32)}, "tensor_dtype"),
        ({"mapping": np.zeros(3, np.int64)}, "tensor_shape"),
        ({"mapping": np.full(60, 7)}, "tensor_shape"),
        ({"mapping": np.full(60, -1)}, "tensor_shape"),
        ({"mapping": None}, "tensor_shape"),
    ],
)
def test_tables_that_cannot_be_are_errors(tmp_path, changed, code):
    folder = write("model2vec of few rows", tmp_path)
    n = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    values = {
        "embeddings": np.ones((7, 16), np.float32),
        "mapping": np.zeros(n, np.int64),
        "weights": np.ones(n),
    }
    values |= {k: v if v is None or len(v) != 60 else np.resize(v, n) for k, v in changed.items()}
    write_plain_tensors(folder, {key: value for key, value in values.items() if value is not None})
    with pytest.raises((tuili.ModelFormatError, tuili.ModelUnsupportedError)) as error:
        tuili.LLM(folder, num_threads=1)
    assert error.value.code == code


def test_a_table_that_changes_is_read_again(tmp_path, monkeypatch):
    """Though it lies in a folder of its own, whose files are not those that a model usually has."""
    monkeypatch.setattr(packed_cache, "MIN_WEIGHT_BYTES", 0)
    folder, cache = write("static", tmp_path / "model"), tmp_path / "cache"

    def vector():
        with tuili.LLM(folder, num_threads=1, cache_dir=cache) as llm:
            return llm.embed("a cat"), llm.config["packed_cache"]

    first, _ = vector()
    again, state = vector()
    assert state.startswith("read from")
    np.testing.assert_array_equal(again, first)
    inner = folder / "0_StaticEmbedding"
    n_vocab = len(json.loads((inner / "tokenizer.json").read_text())["model"]["vocab"])
    write_plain_tensors(inner, {"embedding.weight": np.ones((n_vocab, 16), np.float32)})
    changed, _ = vector()
    np.testing.assert_allclose(changed, 0.25)


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
            {"precision": "int8"},
        ):  # fmt: skip
            with pytest.raises(tuili.InvalidParameterError):
                llm.embed("a cat", **options)
        assert llm.stats()["texts"] == 0, "before any text is read"


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
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "pooling"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": "no"}, "config_type"),
        ("2_Dense/config.json", {"in_features": 0, "out_features": 2}, "config_value"),
        ("2_Dense/config.json", {"in_features": 48, "out_features": 21}, "tensor_shape"),
        ("2_Dense/config.json", DENSE | {"activation_function": "os.system"}, "module"),
        ("2_Dense/config.json", DENSE | {"activation_function": "own.nn.ReLU"}, "module"),
        ("2_Dense/config.json", DENSE | {"activation_function": "torch.nn.Softmax"}, "module"),
        ("2_Dense/config.json", DENSE | {"use_residual": True}, "tensor_shape"),
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
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.WeightedLayerPooling"}], "module"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.StaticEmbedding"}], "module"),
        ("modules.json", [{"type": "x.StaticEmbedding"}, {"type": "x.Pooling"}], "tensor_missing"),
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
    cross_encoder(tmp_path, config={"activation_fn": "torch.nn.modules.activation.Tanh"})
    with tuili.LLM(folder, num_threads=1) as llm:
        found = [llm.rank("the cat", [text])[0]["score"] for text in TEXTS]
        together = {hit["text"]: hit["score"] for hit in llm.rank("the cat", TEXTS)}
    np.testing.assert_allclose(found, np.tanh(raw), rtol=1e-5)
    assert found == [together[text] for text in TEXTS]
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


def test_encode_is_embed_and_takes_sentence_transformers_names(embedder):
    plain, wanted = embedder.embed(TEXTS[:3]), embedder.embed(TEXTS[:3], normalize=True)
    unnormed = embedder.embed(TEXTS[:3], normalize=False)
    assert not np.array_equal(plain, unnormed)
    for vectors, same in (
        (embedder.encode(texts=TEXTS[:3], normalize=True), wanted),
        (embedder.encode(TEXTS[:3], True, None), wanted),
        (embedder.encode(TEXTS[:3], False), unnormed),
        (embedder.encode(sentences=TEXTS[:3], batch_size=2, normalize_embeddings=True), wanted),
        (embedder.encode(TEXTS[:3], normalize_embeddings=False), plain),  # as the files say
        (embedder.encode(TEXTS[:3], convert_to_numpy=True, show_progress_bar=None), plain),
    ):
        np.testing.assert_array_equal(vectors, same)
    for param, given in (
        ("batch_size", {"batch_size": 0}),
        ("normalize_embeddings", {"normalize_embeddings": 1}),
        ("normalize_embeddings", {"normalize_embeddings": True, "normalize": True}),
        ("sentences", {"sentences": TEXTS[0]}),
        ("prompt_name", {"prompt_name": "query"}),
        ("normalize", {"normalize": "query"}),
        ("convert_to_tensor", {"convert_to_tensor": True}),
        ("output_value", {"output_value": "token_embeddings"}),
        ("truncate", {"truncate": True}),
    ):
        with pytest.raises(tuili.InvalidParameterError) as error:
            embedder.encode(TEXTS[0], **given)
        assert error.value.param == param
