"""Every encoder with random weights equals transformers, hidden states and heads, on any schedule."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import reference
import slow_tokenizers
import tuili
from encoder_models import CASES, CHOICES, QUESTION, Case, tensors, write_folder
from tiny_files import _write_safetensors, bert_vocabulary
from tiny_models import Weight
from tuili import _core
from tuili.loading.architectures import deberta_v2, roformer
from tuili.loading.architectures.class_defaults import CLASS_DEFAULTS
from tuili.loading.config import Config
from tuili.loading.distances import buckets
from tuili.loading.layout import our_names
from tuili.loading.model import LoadedModel, load, plan_model
from tuili.loading.registry import hf_architecture
from tuili.tasks.head import last_row

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "encoders.json").read_text())
ROWS, COLUMNS = (0, 7, 22), 12  # as tests/oracle/encoder_goldens.py keeps them


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Case -> the model, loaded once."""
    made: dict[str, LoadedModel] = {}

    def of(case: Case) -> LoadedModel:
        if case.name not in made:
            made[case.name] = load(plan_model(write_folder(case, tmp_path_factory.mktemp(case.name))))
        return made[case.name]

    return of


def sequence(case: Case, ids: list[int] | None = None) -> _core.Sequence:
    types = None if case.types is None else np.array(case.types, np.int32)
    return _core.Sequence(np.array(ids or case.ids, np.int32), token_type_ids=types, collect_hidden=True)


def error(got: np.ndarray, golden: dict) -> float:
    """Largest difference, in shares of the range of all values."""
    rows = got[list(ROWS), :COLUMNS] if len(golden["rows"]) > 1 else got[:, :COLUMNS]
    return float(abs(rows - np.array(golden["rows"])).max() / golden["range"])


def answer_of(model: LoadedModel, runner: _core.Runner, one: _core.Sequence, ids: list[int]) -> np.ndarray:
    """What the head says of a text: of a sequence one row."""
    row = model.head.row
    if row is not None and row.kind != "mean":
        return runner.answer([one], [[last_row(row, ids)]])
    answer = runner.answer([one])
    return answer if row is None else _core.ops.mean_rows(answer)[None]


@pytest.mark.parametrize("name", CASES)
def test_an_encoder_equals_transformers(loaded, name):
    case, golden = CASES[name], GOLDENS[name]
    model = loaded(case)
    runner = _core.Runner(model.model, num_threads=1)
    one = sequence(case)
    if "answer" in golden:
        answer = answer_of(model, runner, one, case.ids)
        assert error(answer, golden["answer"]) <= 1e-5
    else:
        assert model.head is None
        runner.encode([one], "mean", False)
    assert error(one.hidden_states()[-1], golden["hidden"]) <= 1e-5


HEADS = [name for name in CASES if re.search("For[A-Z]", name) and not name.endswith("other")]


@pytest.mark.parametrize("name", HEADS)
def test_a_heads_bits_do_not_depend_on_mates_threads_or_instruction_set(loaded, name):
    case = CASES[name]
    model = loaded(case).model
    texts = [case.ids, case.ids[:1], case.ids[3:20], case.ids[::-1]]

    def answers(order: list[int], **how: object) -> dict[int, bytes]:
        runner = _core.Runner(model, max_batch_tokens=200, **how)
        batch = [_core.Sequence(np.array(texts[i], np.int32)) for i in order]
        rows = runner.answer(batch)
        counts = [len(texts[i]) if model.spec.task_head.rows == "all" else 1 for i in order]
        parts = np.split(rows, np.cumsum(counts)[:-1])
        return {i: part.tobytes() for i, part in zip(order, parts, strict=True)}

    alone = {i: answers([i], num_threads=1, isa="generic")[i] for i in range(len(texts))}
    assert answers([0, 1, 2, 3], num_threads=2) == alone
    assert answers([3, 2, 0, 1], num_threads=3) == alone


STEMS = [name for name in CLASS_DEFAULTS if f"{name}Model" in CASES]


@pytest.mark.parametrize("stem", STEMS)
def test_a_setting_left_out_is_that_of_transformers_class(stem):
    usual, case = CLASS_DEFAULTS[stem], CASES[f"{stem}Model"]
    silent = {key: value for key, value in case.config.items() if key not in usual}
    specs = []
    for settings in (case.config | usual, silent):
        config = Config(dict(settings), "config.json")
        specs.append(hf_architecture(config)[1].spec(config))
    assert _core.ModelBuilder(specs[0]).expected() == _core.ModelBuilder(specs[1]).expected()
    assert specs[0].max_positions == specs[1].max_positions


def test_rank_tells_the_shares_of_the_choices_as_transformers_does(tmp_path):
    with tuili.LLM(write_folder(CASES["BertForMultipleChoice"], tmp_path), num_threads=1) as llm:
        found = llm.rank(QUESTION, CHOICES)
        assert [one["text"] for one in found] == [CHOICES[one["index"]] for one in found]
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
        wanted = [GOLDENS["choices"][one["index"]] for one in found]
        np.testing.assert_allclose([one["score"] for one in found], wanted, atol=1e-5)
        with pytest.raises(tuili.ModelUnsupportedError, match="can do: feature-extraction, rank"):
            llm.classify(QUESTION)


def test_labels_that_are_integers_count_as_their_digits(tmp_path):
    case = CASES["BertForSequenceClassification"]
    labels = {"0": 0, "1": 10, "2": "b"}
    folder = write_folder(Case(case.name, case.config | {"id2label": labels}, case.ids), tmp_path)
    with tuili.LLM(folder, num_threads=1) as llm:
        assert llm.config["labels"] == ["0", "10", "b"]


def test_whether_a_sentence_is_the_next_is_a_label_of_pairs(tmp_path):
    case = CASES["BertForNextSentencePrediction"]
    folder = write_folder(Case(case.name, case.config | {"num_labels": 3}, case.ids), tmp_path)
    with tuili.LLM(folder, num_threads=1) as llm:
        assert llm.config["labels"] == ["LABEL_0", "LABEL_1"]
        follows, other = (llm.classify((QUESTION, choice))["scores"] for choice in CHOICES[:2])
        assert follows != other and abs(sum(other.values()) - 1) < 1e-9


@pytest.mark.parametrize(
    "stem, key, value",
    [
        ("Electra", "summary_type", "mean"),
        ("Electra", "summary_activation", None),
        ("RoFormer", "summary_type", "attn"),
        ("RoFormer", "summary_activation", "tanh"),
    ],
)
def test_a_summary_that_is_not_done_is_an_error(tmp_path, stem, key, value):
    case = CASES[f"{stem}ForMultipleChoice"]
    folder = write_folder(Case(case.name, case.config | {key: value}, case.ids), tmp_path)
    with pytest.raises(tuili.ModelUnsupportedError, match=f"{key} is '?{value}"):
        plan_model(folder)


def test_heads_check_what_they_are_to_call(tmp_path):
    for name in ("BertForMultipleChoice", "BertForNextSentencePrediction"):
        with tuili.LLM(write_folder(CASES[name], tmp_path / name), num_threads=1) as llm:
            ask = llm.classify if "Next" in name else functools.partial(llm.rank, QUESTION)
            with pytest.raises(tuili.InvalidParameterError) as error:
                ask(CHOICES, progress=3)
            assert error.value.param == "progress"


def test_a_head_answers_for_chosen_positions(loaded):
    case = CASES["BertForMaskedLM"]
    runner = _core.Runner(loaded(case).model)
    whole = runner.answer([sequence(case)])
    some = runner.answer([sequence(case), sequence(case)], [[5, 2], [22]])
    np.testing.assert_array_equal(some, whole[[5, 2, 22]])
    for positions in ([[23]], [[-1]], [[0], [0]]):
        with pytest.raises(tuili.InvalidParameterError):
            runner.answer([sequence(case)], positions)
    first = _core.Runner(loaded(CASES["BertForSequenceClassification"]).model)
    with pytest.raises(tuili.InvalidParameterError, match="all rows"):
        first.answer([sequence(case)], [[0]])
    with pytest.raises(tuili.InvalidParameterError, match="no task head"):
        _core.Runner(loaded(CASES["BertModel"]).model).answer([sequence(case)])


def test_int8_weights_keep_the_answers_near(tmp_path):
    """A tied head's embedding is quantized with the layers."""
    case = CASES["BertForMaskedLM-wide"]
    folder = write_folder(case, tmp_path)
    rows = [
        _core.Runner(load(plan_model(folder, quantization=how)).model).answer([sequence(case)])
        for how in (None, "int8")
    ]
    assert not np.array_equal(*rows)
    assert abs(rows[1] - rows[0]).max() <= 0.05 * np.ptp(rows[0])


def test_electras_discriminator_is_an_encoder(tmp_path):
    """What it says of replaced words is no task's; its folders are read for what is below."""
    case = CASES["ElectraModel"]
    folder = write_folder(case, tmp_path)
    hidden = tuili.LLM(folder, packed_cache=False).hidden_states(case.ids)
    (folder / "config.json").write_text(
        json.dumps(case.config | {"architectures": ["ElectraForPreTraining"]})
    )
    with tuili.LLM(folder, packed_cache=False) as llm:
        np.testing.assert_array_equal(llm.hidden_states(case.ids), hidden)
        with pytest.raises(tuili.ModelUnsupportedError, match=r"this model can do: feature-extraction$"):
            tuili.pipeline("fill-mask", llm)


def test_a_folder_without_the_head_that_it_names_gives_vectors(tmp_path):
    """sentence-transformers' folders keep the name of the class that was trained further."""
    case = CASES["RobertaModel"]
    named = Case(case.name, case.config | {"architectures": ["RobertaForMaskedLM"]}, case.ids)
    folder = write_folder(case, tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {
        "architectures": named.config["architectures"]
    }
    (folder / "config.json").write_text(json.dumps(config))
    model = load(plan_model(folder))
    assert model.head is None and model.config["tasks"] == ["feature-extraction"]
    assert any("no head" in warning for warning in model.config["warnings"])


def test_a_tied_head_without_parts_of_its_own_is_there(tmp_path):
    """EuroBERT's words, which are the embedding alone: no tensor of the files is the head's."""
    case = CASES["EuroBertForMaskedLM"]
    bare = dataclasses.replace(case, config=case.config | {"tie_word_embeddings": True, "mlp_bias": False})
    assert not any("lm_head" in name for name in tensors(bare))
    model = load(plan_model(write_folder(bare, tmp_path)))
    assert model.head is not None and not model.config["warnings"]
    answers = _core.Runner(model.model, num_threads=1).answer([one := sequence(bare)])
    wanted = one.hidden_states()[-1] @ tensors(bare)["model.embed_tokens.weight"].T
    np.testing.assert_allclose(answers, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["DebertaV2Model", "DebertaV2ForSequenceClassification-p2c"])
def test_scores_from_distances_are_those_of_the_reference(loaded, name):
    case = CASES[name]
    names = deberta_v2.tensor_names(Config(dict(case.config), ""))
    weights = {}
    for theirs, values in tensors(case).items():
        if (parts := our_names(theirs, names)) is not None:
            weights[parts.names[0]] = values
    model = loaded(case).model
    wanted = reference.forward(model.spec, weights, np.array(case.ids))
    one = sequence(case)
    _core.Runner(model, num_threads=1).encode([one], "mean", False)
    for i, got in enumerate(one.hidden_states()):
        assert abs(got - wanted[f"hidden.{i}"]).max() <= 1e-5 * np.ptp(wanted[f"hidden.{i}"])


def test_buckets_of_distances_are_the_same_on_every_machine():
    """682 is 111.999998 logarithmic steps behind 47: 112 or 113 buckets, by the processor's own float32
    logarithm."""
    found = buckets(np.array([-682, -47, 0, 46, 141, 682]), 94, 142)
    assert found.tolist() == [-159, -47, 0, 46, 93, 159]


def test_a_deberta_folder_reads_its_spm_model(tmp_path):
    case = CASES["DebertaV2ForMaskedLM"]
    folder = write_folder(dataclasses.replace(case, config=case.config | {"vocab_size": 2000}), tmp_path)
    (folder / "tokenizer.json").unlink()
    slow_tokenizers.write(slow_tokenizers.FOLDERS["deberta-v2"], tmp_path / "slow")
    for name in ("spm.model", "tokenizer_config.json"):
        shutil.copy(tmp_path / "slow" / name, folder)
    with tuili.pipeline("fill-mask", folder) as pipe:
        best = pipe(f"The cat sat on the {pipe.mask_token}.", top_k=3)
        assert len(best) == 3 and all(guess["sequence"].startswith("The cat sat on the ") for guess in best)
        ids = pipe.model.tokenizer.encode("你好 cat")
        assert ids[0] == pipe.model.tokenizer.encode("")[0] and len(ids) > 3


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"conv_kernel_size": 4}, tuili.ModelFormatError, "conv_kernel_size .* odd"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, tuili.ModelUnsupportedError, "conv_groups"),
        ({"pos_att_type": 3}, tuili.ModelFormatError, "pos_att_type"),
        ({"position_buckets": 16, "max_relative_positions": 9}, tuili.ModelFormatError, "half of it not"),
        ({"position_buckets": 40, "max_relative_positions": 9}, tuili.ModelFormatError, "80 rows"),
        ({"position_buckets": 12}, tuili.ModelFormatError, "rel_embeddings.*\\[24, 48\\]"),
        ({"share_att_key": False}, tuili.ModelFormatError, "distance_key .*missing"),
        ({"embedding_size": 24, "legacy": False}, tuili.ModelFormatError, "embedding_size"),
        ({"attention_head_size": 24}, tuili.ModelUnsupportedError, "attention_head_size"),
        ({"pooler_hidden_size": 24}, tuili.ModelUnsupportedError, "pooler_hidden_size"),
    ],
)
def test_a_deberta_that_cannot_be_says_which_setting(tmp_path, settings, error, message):
    folder = write_folder(CASES["DebertaV2ForMaskedLM-large"], tmp_path)
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        plan_model(folder)


def test_a_vector_of_dpr_is_that_of_the_first_token(tmp_path):
    with tuili.LLM(write_folder(CASES["DPRContextEncoder"], tmp_path), packed_cache=False) as llm:
        vectors = [llm.embed("the cat", **how) for how in ({}, {"pooling": "cls"}, {"pooling": "mean"})]
        assert np.array_equal(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2])
    config = json.loads((tmp_path / "config.json").read_text()) | {"projection_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(tuili.ModelUnsupportedError, match="projection_dim"):
        plan_model(tmp_path)


def test_a_value_that_turns_is_that_of_the_reference(loaded):
    case = CASES["RoFormerModel-other"]
    names = roformer.tensor_names(Config(dict(case.config), ""))
    weights = {our_names(theirs, names).names[0]: values for theirs, values in tensors(case).items()}
    model = loaded(case).model
    assert model.spec.layers[0].rope_values
    wanted = reference.forward(model.spec, weights, np.array(case.ids), np.array(case.types))
    one = sequence(case)
    _core.Runner(model, num_threads=1).encode([one], "mean", False)
    for i, got in enumerate(one.hidden_states()):
        assert abs(got - wanted[f"hidden.{i}"]).max() <= 1e-5 * np.ptp(wanted[f"hidden.{i}"])


def _with_table(case: Case, folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The case's folder with the table of positions that transformers writes, changed."""
    n, d = case.config["max_position_embeddings"], 12
    angles = np.arange(n)[:, None] / 10000 ** (np.arange(0, d, 2) / d)
    table = change(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))
    stored = tensors(case) | {"encoder.embed_positions.weight": np.ascontiguousarray(table)}
    write_folder(case, folder)
    _write_safetensors(
        folder / "model.safetensors",
        {
            name: Weight("f32", x.shape, x.reshape(x.shape[0], -1).view(np.uint8))
            for name, x in stored.items()
        },
    )
    return folder


def test_roformers_table_of_positions_is_the_one_that_is_computed(tmp_path):
    """Files hold it, rounded to what they are stored as, which is told."""
    case = CASES["RoFormerModel"]
    for i, fine in enumerate((lambda x: x, lambda x: x.astype(np.float16).astype(np.float32))):
        warnings = plan_model(_with_table(case, tmp_path / f"fine {i}", fine)).warnings
        assert len(warnings) == i and all("is rounded and goes unread" in text for text in warnings)
    wrong = (lambda x: x[:-1], lambda x: x[:, ::-1], lambda x: 1.1 * x, lambda x: x * np.nan)
    for i, change in enumerate(wrong):
        with pytest.raises(tuili.ModelUnsupportedError, match="not the sines and cosines of 40 positions"):
            plan_model(_with_table(case, tmp_path / f"wrong {i}", change))


def test_roformers_words_need_jieba_unless_there_is_a_tokenizer_json(tmp_path):
    folder = write_folder(CASES["RoFormerModel"], tmp_path)
    assert not plan_model(folder).warnings
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text()) | {"tokenizer_class": "RoFormerTokenizerFast"}
    settings.write_text(json.dumps(named))
    (warning,) = plan_model(folder).warnings
    assert "RoFormerTokenizer has jieba" in warning
    with tuili.LLM(folder, packed_cache=False) as llm:
        ids = llm.tokenizer.encode("the cat")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(bert_vocabulary()))
    with pytest.raises(tuili.ModelUnsupportedError, match=r"jieba.*a tokenizer\.json.*Bert") as error:
        plan_model(folder)
    assert error.value.code == "tokenizer_class"
    settings.write_text(json.dumps(named | {"tokenizer_class": "BertTokenizer"}))
    with tuili.LLM(folder, packed_cache=False) as llm:
        assert llm.tokenizer.encode("the cat") == ids


@pytest.mark.parametrize("name, eos", [("ModernBertModel", 50282), ("EuroBertModel", 128001)])
def test_an_end_of_text_that_the_class_writes_unasked_is_none(tmp_path, name, eos):
    """Whatever the size of the vocabulary; another that is beyond it is an error."""
    case = CASES[name]
    usual = dataclasses.replace(case, config=case.config | {"eos_token_id": eos})
    assert plan_model(write_folder(usual, tmp_path)).source.eos_token_ids == ()
    with pytest.raises(tuili.ModelFormatError, match="eos_token_id"):
        beyond = dataclasses.replace(case, config=case.config | {"eos_token_id": eos + 1})
        plan_model(write_folder(beyond, tmp_path))


@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_eurobert_pools_by_either_name_of_the_setting(tmp_path, pooling):
    """clf_pooling is its makers' own, and "late" what both leave out."""
    case = CASES["EuroBertForSequenceClassification"]
    bare = {key: value for key, value in case.config.items() if key != "classifier_pooling"}
    older = {} if pooling == "late" else {"clf_pooling": pooling}
    answers = []
    for own in ({"classifier_pooling": pooling, "clf_pooling": "mean"}, older):
        folder = write_folder(dataclasses.replace(case, config=bare | own), tmp_path)
        with tuili.LLM(folder, packed_cache=False) as model:
            answers.append(model.classify("the cat in the house")["scores"])
    assert answers[0] == answers[1]
    with pytest.raises(tuili.ModelUnsupportedError, match="clf_pooling is 'max'; supported: bos, mean, late"):
        plan_model(write_folder(dataclasses.replace(case, config=bare | {"clf_pooling": "max"}), tmp_path))


def test_a_long_text_costs_deberta_no_square_of_it(tmp_path):
    """What distances add is kept for a tile of rows alone, and for as many heads as there is room for."""
    case = CASES["DebertaV2Model"]
    long = dataclasses.replace(case, config=case.config | {"max_position_embeddings": 8192})
    model = load(plan_model(write_folder(long, tmp_path))).model
    runners = [_core.Runner(model, max_batch_tokens=n, num_threads=1) for n in (4096, 8192)]
    assert runners[1].workspace_bytes < 2.1 * runners[0].workspace_bytes
    ids = np.random.default_rng(1).integers(5, 300, 1500).astype(np.int32)
    text = _core.Sequence(ids, collect_hidden=True)
    runners[0].encode([text], "mean", False)
    assert np.isfinite(text.hidden_states()).all()


@pytest.mark.parametrize("name", ["MPNetForCausalLM", "DistilBertLMHeadModel"])
def test_an_encoder_that_should_write_is_refused_with_what_it_can_be(tmp_path, name):
    case = CASES["BertModel"]
    folder = write_folder(
        Case("writer", case.config | {"architectures": [name], "is_decoder": True}, []), tmp_path
    )
    with pytest.raises(
        tuili.ModelUnsupportedError, match=r"as an encoder alone: with Model, .*ForMaskedLM"
    ) as error:
        plan_model(folder)
    assert error.value.code == "architecture"


def test_gte_reads_the_fused_tensors_of_its_files(tmp_path, loaded):
    case = CASES["GteForMaskedLM-other"]
    held = tensors(case)
    names = {
        "attention.qkv_proj.weight": "self_attn.{}_proj.weight",
        "attention.qkv_proj.bias": "self_attn.{}_proj.bias",
    }
    for i in range(case.config["num_hidden_layers"]):
        ours, theirs = f"gte.layers.{i}", f"gte.encoder.layer.{i}"
        for fused, plain in names.items():
            parts = [held.pop(f"{ours}.{plain.format(part)}") for part in "qkv"]
            held[f"{theirs}.{fused}"] = np.concatenate(parts)
        halves = [held.pop(f"{ours}.mlp.{half}_proj.weight") for half in ("up", "gate")]
        held[f"{theirs}.mlp.up_gate_proj.weight"] = np.concatenate(halves)
    renamed = (
        ("gte.layers", "gte.encoder.layer"),
        ("self_attn.", "attention."),
        ("lm_head.layer_norm", "lm_head.norm"),
    )
    renamed += (("post_attention_layernorm", "attn_ln"), ("post_mlp_layernorm", "mlp_ln"))
    for old, new in renamed:
        held = {name.replace(old, new): x for name, x in held.items()}
    folder = write_folder(case, tmp_path)
    weights = {
        name: Weight("f32", x.shape, x.reshape(x.shape[0], -1).view(np.uint8)) for name, x in held.items()
    }
    _write_safetensors(folder / "model.safetensors", weights)
    answers = [
        _core.Runner(model.model).answer([sequence(case)])
        for model in (loaded(case), load(plan_model(folder)))
    ]
    np.testing.assert_array_equal(*answers)


def test_a_row_that_is_not_a_number_is_in_every_pooling():
    """Wherever it stands, so that Encoder's check of vectors finds it."""
    spec = _core.ModelSpec(
        kind="encoder", n_vocab=4, d_model=2, max_positions=4, layers=[], has_head=False, final_norm=False
    )
    rows = np.array([[1, 5], [np.nan, 2], [3, -1], [-4, 0]], np.float32)
    builder = _core.ModelBuilder(spec)
    builder.add("token_embedding", "f32", rows.shape, rows.view(np.uint8))
    runner = _core.Runner(builder.finish(), num_threads=1)
    for ids in ([1, 0, 2], [0, 1, 2], [0, 2, 1]):
        for pooling in ("max", "mean", "mean_sqrt_len", "weighted_mean"):
            vector = runner.encode([_core.Sequence(ids)], pooling, False)[0]
            assert np.isnan(vector[0]) and np.isfinite(vector[1]), (ids, pooling, vector)
