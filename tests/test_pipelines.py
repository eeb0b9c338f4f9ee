"""Pipelines give what transformers' give, refuse what a model cannot do, and say so where they cut."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import tuili
from encoder_models import CASES, write_folder
from patience import least
from pipeline_cases import CALLS, DOCUMENT, LONG, PAIR, QUESTION, QUESTIONS, TEXT, TEXTS
from tuili.errors import InvalidParameterError
from tuili.loading.tokenizers.tokenizer import from_huggingface
from tuili.tasks.encoding import encode, joined
from tuili.tokenization.tokenizer import Tokenizer as Words

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "pipelines.json").read_text())
TOLERANCE = 2e-5  # of scores and hidden states: float32 through three layers, the largest value about 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Name of a case -> an LLM, loaded once."""
    made: dict[str, tuili.LLM] = {}

    def of(name: str) -> tuili.LLM:
        if name not in made:
            made[name] = tuili.LLM(write_folder(CASES[name], tmp_path_factory.mktemp(name)), num_threads=1)
        return made[name]

    yield of
    for llm in made.values():
        llm.close()


def difference(got: Any, wanted: Any, at: str = "") -> str:
    """Where two results differ; empty if nowhere."""
    if isinstance(wanted, dict):
        if not isinstance(got, dict) or list(got) != list(wanted):
            return f"{at}: {got} for {wanted}"
        return next(filter(None, (difference(got[key], wanted[key], f"{at}.{key}") for key in wanted)), "")
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"{at}: {got} for {wanted}"
        parts = (difference(*pair, f"{at}[{i}]") for i, pair in enumerate(zip(got, wanted, strict=True)))
        return next(filter(None, parts), "")
    if isinstance(wanted, float):
        return (
            "" if isinstance(got, float) and abs(got - wanted) <= TOLERANCE else f"{at}: {got} for {wanted}"
        )
    return "" if type(got) is type(wanted) and got == wanted else f"{at}: {got!r} for {wanted!r}"


def without_marks(value: Any) -> Any:
    """Without "truncated", which transformers does not say."""
    if isinstance(value, list):
        return [without_marks(item) for item in value]
    if isinstance(value, dict):
        return {key: without_marks(item) for key, item in value.items() if key != "truncated"}
    return value


@pytest.mark.parametrize("i", range(len(CALLS)), ids=lambda i: f"{i}-{CALLS[i][1]}")
def test_a_pipeline_gives_what_transformers_gives(model, i):
    name, task, args, kwargs = CALLS[i]
    got = tuili.pipeline(task, model(name))(*args, **kwargs)
    assert not difference(without_marks(got), GOLDENS["calls"][i])


@pytest.mark.parametrize("i", range(len(QUESTIONS)))
def test_question_answering_gives_what_version_4_documents(model, i):
    pipe = tuili.pipeline("question-answering", model("BertForQuestionAnswering"))
    got = pipe(question=QUESTION, context=DOCUMENT, **QUESTIONS[i])
    wanted = GOLDENS["questions"][i]
    assert not difference(got if isinstance(got, list) else [got], wanted)
    assert isinstance(got, dict) == (len(wanted) == 1)


def test_a_document_that_fits_is_read_whatever_the_stride(model):
    pipe = tuili.pipeline("question-answering", model("BertForQuestionAnswering"))
    asked = {"question": QUESTION * 3, "context": "The cat is on the house."}
    n_tokens = (
        len(pipe.tokenizer.encode(asked["question"])) + len(pipe.tokenizer.encode(asked["context"])) - 1
    )
    assert pipe(**asked, max_seq_len=n_tokens) == pipe(**asked, max_seq_len=n_tokens, doc_stride=0)
    assert pipe(**asked, max_seq_len=n_tokens) == pipe(**asked)
    with pytest.raises(InvalidParameterError, match="no more than doc_stride"):
        pipe(**asked, max_seq_len=n_tokens - 1)


def test_the_last_layer_computes_nothing_of_a_question_but_cls(model):
    llm = model("BertForQuestionAnswering")
    before = llm._runner.n_last_rows()
    tuili.pipeline("question-answering", llm)(f"{QUESTION} [CLS]", DOCUMENT)
    assert llm._runner.n_last_rows() - before == 2 + len(llm.tokenizer.encode(DOCUMENT, add_special=False))


def test_questions_come_in_several_forms(model):
    pipe = tuili.pipeline("question-answering", model("BertForQuestionAnswering"))
    one = pipe(question=QUESTION, context=DOCUMENT)
    assert pipe({"question": QUESTION, "context": DOCUMENT}) == one
    assert pipe([{"question": QUESTION, "context": DOCUMENT}]) == [one]
    assert pipe(QUESTION, DOCUMENT) == one
    assert pipe(*[{"question": QUESTION, "context": DOCUMENT}] * 2) == [one, one]
    assert pipe(question=[QUESTION, QUESTION], context=DOCUMENT) == [one, one]
    assert DOCUMENT[one["start"] : one["end"]] == one["answer"]
    assert pipe(question=QUESTION, context=" ") == {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    document = {"question": "x", "context": "y"}
    for wrong in (
        (),
        ("what?",),
        ("x", "y", "z"),
        ("x", document),
        ({"question": "x"},),
        ([document | {"context": 1}],),
    ):
        with pytest.raises(tuili.InvalidParameterError):
            pipe(*wrong)
    for given in ({"question": QUESTION}, {"context": DOCUMENT}):
        with pytest.raises(tuili.InvalidParameterError, match="not a text alone"):
            pipe(**given)
    for given in ({"question": np.arange(3)}, {"context": np.arange(3)}):
        with pytest.raises(tuili.InvalidParameterError, match="not a value of type ndarray"):
            pipe(**given)


@pytest.mark.parametrize(
    "name, task, known",
    [
        ("BertModel", "text-classification", "feature-extraction"),
        ("BertForTokenClassification", "question-answering", "token-classification"),
        ("BertForMaskedLM", "ner", "fill-mask"),
        ("BertForSequenceClassification", "text-generation", "zero-shot-classification"),
    ],
)
def test_a_task_that_a_model_cannot_do_names_those_that_it_can(model, name, task, known):
    with pytest.raises(tuili.ModelUnsupportedError, match=known) as error:
        tuili.pipeline(task, model(name))
    assert error.value.code == "task"
    assert known in model(name).config["tasks"]


def test_filled_texts_have_no_spaces_before_punctuation_where_the_files_say_so(tmp_path):
    """As in transformers, which leaves those of BPE alone."""
    folder = write_folder(CASES["BertForMaskedLM"], tmp_path)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    for tidy, wanted in ((True, "the cat's"), (False, "the cat ' s")):
        path.write_text(json.dumps(settings | {"clean_up_tokenization_spaces": tidy}))
        with tuili.pipeline("fill-mask", folder) as pipe:
            assert pipe("the cat's [MASK]", top_k=1)[0]["sequence"].startswith(wanted)


def test_tasks_and_options_are_checked(model):
    llm = model("BertForSequenceClassification")
    for task in ("translation", "translation_en_to_zh", "summarization", "text2text-generation"):
        with pytest.raises(tuili.ModelUnsupportedError) as unsupported:
            tuili.pipeline(task, llm)
        assert unsupported.value.code == "task"
    with pytest.raises(tuili.InvalidParameterError, match="token-classification"):
        tuili.pipeline("tagging", llm)
    with pytest.raises(tuili.InvalidParameterError, match="did you mean top_k"):
        tuili.pipeline("sentiment-analysis", llm, topk=2)
    with pytest.raises(tuili.InvalidParameterError, match="did you mean truncation"):
        tuili.pipeline("sentiment-analysis", llm)(TEXT, truncated=True)
    with pytest.raises(tuili.InvalidParameterError):
        tuili.pipeline("zero-shot-classification", llm)(TEXT, ["cat"], hypothesis_template="no place")
    with pytest.raises(tuili.InvalidParameterError, match="return_all_scores"):
        tuili.pipeline("sentiment-analysis", llm)(TEXT, return_all_scores="no")
    for labels in (None, [], "", " , ", [""], [1], {"cat": 1}):
        with pytest.raises(tuili.InvalidParameterError, match="candidate_labels"):
            tuili.pipeline("zero-shot-classification", llm)(TEXT, labels)
    with pytest.raises(tuili.InvalidParameterError, match="none of them"):
        tuili.pipeline("fill-mask", model("BertForMaskedLM"))("the [MASK]", targets=[""])
    with pytest.raises(tuili.InvalidParameterError) as no_mask:
        tuili.pipeline("fill-mask", model("BertForMaskedLM"))("the cat")
    assert no_mask.value.code == "no_mask"


@pytest.mark.parametrize(
    "name, task, args",
    [
        ("BertForSequenceClassification", "text-classification", [LONG]),
        ("BertForSequenceClassification", "zero-shot-classification", [LONG, ["cat"]]),
        ("BertForTokenClassification", "ner", [LONG]),
        ("BertForMaskedLM", "fill-mask", ["the [MASK] " + LONG]),
    ],
)
def test_what_is_too_long_is_an_error_unless_it_may_be_cut(model, name, task, args):
    pipe = tuili.pipeline(task, model(name))
    with pytest.raises(tuili.PromptTooLongError, match="truncation=True"):
        pipe(*args)
    got = pipe(*args, truncation=True)
    assert (got[0] if isinstance(got, list) else got)["truncated"] is True


def test_answers_do_not_depend_on_the_batch(model):
    llm = model("BertForTokenClassification")
    pipe = tuili.pipeline("ner", llm, aggregation_strategy="none", ignore_labels=[])
    assert pipe([*TEXTS, *TEXTS]) == [pipe(text) for text in (*TEXTS, *TEXTS)]


def test_a_batch_size_is_checked_and_changes_nothing(model):
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"), batch_size=2)
    assert pipe(TEXTS, batch_size=1) == pipe(TEXTS)
    for wrong in (0, "2", True, np.arange(3)):
        for use in (pipe, lambda texts, **how: tuili.pipeline("ner", pipe.model, **how)(texts)):
            with pytest.raises(tuili.InvalidParameterError) as error:
                use(TEXTS, batch_size=wrong)
            assert error.value.param == "batch_size"


@pytest.mark.parametrize(
    "name, task, inputs",
    [
        ("BertForSequenceClassification", "text-classification", [*TEXTS, PAIR]),
        ("BertForTokenClassification", "ner", TEXTS),
        ("BertForMaskedLM", "fill-mask", ["the [MASK] is", "[MASK] good", "the [MASK] is [MASK]"]),
        ("BertForQuestionAnswering", "question-answering", [{"question": QUESTION, "context": DOCUMENT}] * 3),
        ("BertForSequenceClassification", "zero-shot-classification", TEXTS),
    ],
)
def test_an_iterable_is_read_as_its_results_are_taken(model, name, task, inputs):
    """Each is what it is in a list, whatever is left for the last batch."""
    pipe = tuili.pipeline(task, model(name))
    labels = {"candidate_labels": "cat, dog"} if task.startswith("zero") else {}
    taken: list[Any] = []

    def source() -> Any:
        for one in inputs:
            taken.append(one)
            yield one

    results = pipe(source(), batch_size=2, **labels)
    assert not taken
    first = next(results)
    assert len(taken) == 2
    assert [first, *results] == pipe(inputs, **labels)
    taken.clear()
    next(tuili.pipeline(task, model(name), batch_size=1)(source(), **labels))
    assert len(taken) == 1


class Rows:
    """As torch's data sets are, which have no `__iter__`."""

    def __getitem__(self, i: int) -> str:
        return TEXTS[i]


def test_data_sets_are_iterables_and_wrong_ones_are_errors(model):
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"))
    assert list(pipe(Rows())) == pipe(TEXTS)
    assert list(pipe(iter([]))) == []
    with pytest.raises(InvalidParameterError, match="strid"):
        pipe(iter(TEXTS), strid=3)
    with pytest.raises(InvalidParameterError, match=r"first, average, max, not frist$"):
        pipe(TEXT, aggregation_strategy="frist")
    for wrong in (3, None, b"text", list, np.array(3)):
        with pytest.raises(InvalidParameterError, match="inputs must be"):
            pipe(wrong)
    with pytest.raises(InvalidParameterError, match="inputs must be a str"):
        list(pipe(iter([TEXT, 3])))


def test_what_an_iterable_gave_before_it_failed_is_answered(model):
    """However far it is read ahead."""
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"))

    def source(n: int) -> Any:
        yield from TEXTS[:n]
        raise LookupError

    for n in (0, 1, len(TEXTS)):
        results, taken = pipe(source(n), batch_size=2), []
        with pytest.raises(LookupError):
            taken.extend(one for one in results)
        assert taken == pipe(TEXTS[:n])
    for wrong, error in ((3, InvalidParameterError), (LONG, tuili.PromptTooLongError)):
        results, taken = pipe(iter([*TEXTS, wrong, TEXT])), []
        with pytest.raises(error):
            taken.extend(one for one in results)
        assert taken == pipe(TEXTS)


def test_entities_are_grouped_by_the_older_names(model):
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"))
    assert pipe(TEXT, grouped_entities=True) == pipe(TEXT, aggregation_strategy="simple")
    both = {"grouped_entities": True, "ignore_subwords": True}
    assert pipe(TEXT, **both) == pipe(TEXT, aggregation_strategy="first")
    assert pipe(TEXT, **both, aggregation_strategy="none") == pipe(TEXT, ignore_subwords=True) == pipe(TEXT)


@pytest.mark.parametrize("prefix", ["##", ""])
def test_words_of_entities_are_the_decoders_and_an_added_tokens_has_no_space_around_it(prefix, tmp_path):
    folder = write_folder(CASES["BertForTokenClassification"], tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True)])
    tokenizer.decoder = decoders.WordPiece(prefix=prefix)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert tokenizer.encode("the [MASK] cat").tokens[2] == " [MASK] "
    with tuili.pipeline("ner", folder, ignore_labels=[]) as pipe:
        assert [one["word"] for one in pipe("the [MASK] cat")] == ["the", "[MASK]", "cat"]
        pieces = pipe(text := "the the cat cat ' s good good dog . [MASK] n ' t")
        place = {piece["start"]: i for i, piece in enumerate(pieces)}
        for strategy in ("simple", "first", "average", "max"):
            assert pipe(" ", aggregation_strategy=strategy) == []
            for one in pipe(text, aggregation_strategy=strategy):
                first = place[one["start"]]
                words = [piece["word"] for piece in pieces[first:] if piece["end"] <= one["end"]]
                assert one["word"] == tokenizer.decoder.decode(words)


def test_words_of_a_text_are_checked(model, tmp_path):
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"), is_split_into_words=True)
    assert pipe([]) == [] and pipe([[]]) == [[]]
    for wrong in (TEXT, [["a", 3]], ["a", ["b"]], 3):
        with pytest.raises(InvalidParameterError, match="inputs must be"):
            pipe(wrong)
    assert list(pipe(iter([["the", "cat"]]))) == pipe(["the", "cat"])
    with pytest.raises(InvalidParameterError, match="lists of words"):  # not the words of one text
        list(pipe(iter(["the", "cat"])))
    folder = write_folder(CASES["RobertaForTokenClassification"], tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with tuili.pipeline("ner", folder) as roberta, pytest.raises(InvalidParameterError, match="add_prefix"):
        roberta(["the", "cat"], is_split_into_words=True)


_AROUND = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B [SEP]",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
)
_POSTS = {
    "RobertaProcessing": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False),
    "ByteLevel": processors.ByteLevel(trim_offsets=True),
    "ByteLevel, then a template": processors.Sequence([processors.ByteLevel(trim_offsets=True), _AROUND]),
    "a template, then ByteLevel": processors.Sequence([_AROUND, processors.ByteLevel(trim_offsets=True)]),
}


@pytest.mark.parametrize("post", _POSTS)
def test_a_token_is_where_its_letters_are_once_the_space_before_it_is_taken_off(post, tmp_path):
    """RoBERTa's post-processor takes it off the offsets each time that it is called."""
    folder = write_folder(CASES["RobertaForTokenClassification"], tmp_path)
    shown = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "d"), ("Ġd", "o"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "1")]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *shown, *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _POSTS[post]
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "cat do  cat 12 cat, do" * 3
    with tuili.pipeline("ner", folder, ignore_labels=[]) as pipe:
        pieces = pipe(text[:30])
        assert pieces[0]["index"] == (0 if post == "ByteLevel" else 1)
        assert {"Ġdo", "Ġcat", "Ġ1", "Ġ"} <= {piece["word"] for piece in pieces}
        assert all(text[p["start"] : p["end"]] == p["word"].replace("Ġ", "") for p in pieces)
        windows = pipe(text, stride=5, aggregation_strategy="first")
        assert [one["end"] for one in windows][-1] == len(text)
        assert all(text[w["start"] - 1 : w["start"]] in ("", " ") for w in windows)


def words_of_roberta(*, add_prefix_space):
    shown = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*shown, "Ġa", "[CLS]", "[SEP]"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    ends = [(name, vocabulary[name]) for name in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=add_prefix_space)
    return Words(from_huggingface(backend.to_str().encode()))


def test_a_window_begins_with_the_space_of_its_first_token():
    """As transformers has it where the post-processor takes the first space for one that was put there."""
    tokenizer = words_of_roberta(add_prefix_space=True)

    def windows(text):
        encoding = tokenizer.loaded.backend.encode(text, add_special_tokens=False)
        encoding.truncate(2, 0)
        parts = [joined(tokenizer, [part], truncated=False) for part in (encoding, *encoding.overflowing)]
        return [part.offsets[1:-1] for part in parts]

    assert windows("a a a a") == [[(0, 1), (2, 3)], [(3, 5), (6, 7)]]
    assert windows("a a  a") == [[(0, 1), (2, 3)], [(3, 3), (5, 6)]]  # " " alone, which is trimmed at its end


@pytest.mark.parametrize("text", [" ", "  ", " a", "a ", "a  a"])
def test_a_space_alone_is_where_the_library_has_it(text):
    for tokenizer in (words_of_roberta(add_prefix_space=on) for on in (True, False)):
        found = encode(tokenizer, text, max_len=99, cut=None).offsets
        assert found == tokenizer.loaded.backend.encode(text).offsets


def test_a_pipeline_says_how_its_model_is_loaded(model, tmp_path):
    folder = write_folder(CASES["BertForTokenClassification"], tmp_path)
    for device in (-1, "cpu"):
        with tuili.pipeline("ner", folder, device=device, dtype="torch.bfloat16", num_workers=2) as pipe:
            assert "bf16" in pipe.model.config["weight_bytes"]
    with tuili.pipeline("ner", folder, torch_dtype="float16") as pipe:
        assert "f16" in pipe.model.config["weight_bytes"]
    with pytest.raises(InvalidParameterError, match="torch_dtype is given next to dtype"):
        tuili.pipeline("ner", folder, dtype="float32", torch_dtype="float32")
    with tuili.pipeline("ner", folder, model_kwargs={"quantization": "int8"}) as pipe:
        assert pipe.model.config["quantization"] == "int8"
    for param, value in (("device", 7), ("dtype", "int3"), ("model_kwargs", {"quantization": "int9"})):
        with pytest.raises(tuili.TuiliError):
            tuili.pipeline("ner", folder, **{param: value})
    for param, value in (("device", "cpu"), ("dtype", "float32")):
        with pytest.raises(InvalidParameterError, match="loaded already"):
            tuili.pipeline("ner", model("BertForTokenClassification"), **{param: value})
    with pytest.raises(InvalidParameterError, match="model_kwargs must be a dict"):
        tuili.pipeline("ner", folder, model_kwargs=3)
    with tuili.pipeline("ner", folder, model_kwargs={"torch_dtype": "float16", "device": -1}) as pipe:
        assert "f16" in pipe.model.config["weight_bytes"]
    wrong: tuple[tuple[dict[Any, Any], dict[str, Any], str], ...] = (
        ({"device": "cpu"}, {"device": "cpu"}, "device is given next to model_kwargs"),
        ({"dtype": "float16"}, {"dtype": "float32"}, "dtype is given next to model_kwargs"),
        ({"dtype": "float16"}, {"torch_dtype": "float32"}, "torch_dtype is given next to dtype"),
        ({"quantisation": "int8"}, {}, "did you mean quantization"),
        ({"model": "x"}, {}, "unknown parameter model"),
        ({3: 4}, {}, "unknown parameter 3"),
    )
    for kwargs, others, message in wrong:
        with pytest.raises(InvalidParameterError, match=message):
            tuili.pipeline("ner", folder, model_kwargs=kwargs, **others)


@pytest.mark.parametrize(
    "name, task, inputs, within",
    [
        ("BertForSequenceClassification", "text-classification", [LONG], None),
        ("BertForMaskedLM", "fill-mask", ["the [MASK] is " + LONG], "tokenizer_kwargs"),
        ("DistilBertModel", "feature-extraction", [LONG], "tokenize_kwargs"),
    ],
)
def test_the_words_of_transformers_tokenizers_say_how_long_an_input_is(model, name, task, inputs, within):
    pipe = tuili.pipeline(task, model(name))

    def call(**words: Any) -> Any:
        return pipe(*inputs, **(words if within is None else {within: words}))

    whole = call(truncation=True)
    short = call(truncation="longest_first", max_length=12, padding=True)
    assert short != whole and short == call(truncation="only_first", max_length=12, padding="max_length")
    if task == "feature-extraction":
        assert len(short[0]) == 12 and len(whole[0]) == 40
    if within is not None:
        with pytest.raises(InvalidParameterError, match="unknown parameter an integer of"):
            pipe(*inputs, **{within: {10**5000: True}})
    wrong: tuple[dict[str, Any], ...] = (
        {"truncation": "first"}, {"truncation": 1}, {"max_length": 41}, {"max_length": 0}, {"padding": "no"},
        {"max_lenght": 3}, {"padding": np.zeros(2)},
    )  # fmt: skip
    for words in wrong:
        with pytest.raises(InvalidParameterError):
            call(**words)
    for words in ({}, {"truncation": "do_not_truncate"}, {"max_length": 12}):
        with pytest.raises(tuili.PromptTooLongError):
            call(**words)
    if within is not None:
        with pytest.raises(InvalidParameterError, match="twice"):
            pipe(*inputs, truncation=True, **{within: {"truncation": True}})
        with pytest.raises(InvalidParameterError, match="must be a dict"):
            pipe(*inputs, **{within: 3})
        with pytest.raises(InvalidParameterError, match="unknown parameter 3"):
            pipe(*inputs, **{within: {3: 4}})


def test_a_hypothesis_stays_whole_whatever_is_cut(model):
    pipe = tuili.pipeline("zero-shot-classification", model("BertForSequenceClassification"))
    cut = pipe(LONG, "cat, dog", truncation=True)
    assert cut["truncated"] and cut == pipe(LONG, "cat, dog", truncation="only_first")
    alike = pipe(TEXT, ["cat", "Cat", "CAT"])  # equal scores: the last first, as in transformers
    assert alike["labels"] == ["CAT", "Cat", "cat"] and len(set(alike["scores"])) == 1


def test_none_counts_as_not_given(model):
    """As transformers has it, where only top_k=None means all labels."""
    pipe = tuili.pipeline("ner", model("BertForTokenClassification"), aggregation_strategy="simple")
    assert pipe(TEXT, ignore_labels=None, aggregation_strategy=None) == pipe(TEXT)
    fill = tuili.pipeline("fill-mask", model("BertForMaskedLM"))
    assert fill("the [MASK] is", top_k=None, targets=None) == fill("the [MASK] is")
    assert fill.tokenizer.mask_token == fill.mask_token == "[MASK]"
    assert fill("the [MASK] is", targets=["Cat", "cat"]) == fill("the [MASK] is", targets="cat")
    labels = tuili.pipeline("sentiment-analysis", model("BertForSequenceClassification"), top_k=1)
    assert len(labels(TEXT, top_k=None)) == 3 and len(labels([TEXT])[0]) == 1


def test_a_target_of_several_tokens_counts_as_its_first_with_a_warning(model, caplog):
    """As in transformers, which takes the unknown token, too."""
    fill = tuili.pipeline("fill-mask", model("BertForMaskedLM"))
    assert fill("the [MASK] is", targets=["catdog", ""]) == fill("the [MASK] is", targets="cat")
    assert "catdog is not one token of the vocabulary and counts as cat" in caplog.text
    assert "is not one token of the vocabulary and is left out" in caplog.text
    assert [one["token_str"] for one in fill("the [MASK] is", targets=["☃", "\ud800"])] == ["[UNK]"]


def test_padding_that_is_filled_in_is_not_in_the_sequence(model):
    fill = tuili.pipeline("fill-mask", model("BertForMaskedLM"))
    (one,) = fill("the [MASK] is", targets="[PAD]")
    assert (one["token_str"], one["sequence"]) == ("[PAD]", "the is")
    (one,), _ = fill("the [MASK] is [MASK]", targets="[PAD]")
    assert "[PAD]" not in one["sequence"]


def test_classify_gives_every_label(model):
    llm = model("BertForSequenceClassification")
    results = llm.classify([*TEXTS, (TEXT, TEXTS[1])])
    assert llm.classify(TEXTS[0]) == results[0]
    for result in results:
        assert list(result["scores"]) == llm.config["labels"]
        assert result["score"] == max(result["scores"].values()) == result["scores"][result["label"]]
        assert abs(sum(result["scores"].values()) - 1) < 1e-12
    assert llm.classify((TEXT, TEXTS[1])) == results[-1] != results[0]
    with pytest.raises(tuili.ModelUnsupportedError, match="feature-extraction"):
        model("BertModel").classify(TEXT)


def test_encoding_a_long_text_lets_other_threads_run(model):
    tokenizer = model("BertForQuestionAnswering").tokenizer

    def longest_share() -> float:
        """Of the time of encoding, between two moments at which the other thread ran."""
        ticks, done = [], threading.Event()

        def tick() -> None:
            while not done.wait(0.001):
                ticks.append(time.perf_counter())

        other = threading.Thread(target=tick)
        other.start()
        begin = time.perf_counter()
        tokenizer.encode("the cat is good. " * 30_000)
        end = time.perf_counter()
        done.set()
        other.join()
        pauses = np.diff([begin, *(tick for tick in ticks if begin < tick < end), end])
        return pauses.max() / (end - begin)

    assert least(longest_share, 0.7) < 0.7


def test_features_are_the_hidden_states(model):
    llm = model("DistilBertModel")
    pipe = tuili.pipeline("feature-extraction", llm)
    states = llm.hidden_states(llm.tokenizer.encode(TEXT))[-1]
    assert pipe(TEXT, return_tensors=True).tobytes() == states.tobytes()


def test_a_pipeline_loads_a_path_and_closes_it(tmp_path):
    folder = write_folder(CASES["BertForTokenClassification"], tmp_path)
    with tuili.pipeline("ner", folder) as pipe:
        assert pipe("the cat") is not None and pipe([]) == []
    with pytest.raises(tuili.EngineClosedError):
        pipe("the cat")


@pytest.mark.parametrize(
    "name, task, inputs",
    [
        ("BertForSequenceClassification", "text-classification", [TEXT]),
        ("BertForSequenceClassification", "zero-shot-classification", [TEXT, ["cat"]]),
        ("BertForTokenClassification", "token-classification", [TEXT]),
        ("BertForMaskedLM", "fill-mask", ["the [MASK] is"]),
        ("BertForQuestionAnswering", "question-answering", [{"question": QUESTION, "context": DOCUMENT}]),
        ("BertModel", "feature-extraction", [TEXT]),
    ],
)
def test_an_option_that_is_no_value_of_it_is_named(model, name, task, inputs):
    pipe = tuili.pipeline(task, model(name))
    beside = {"stride": {"aggregation_strategy": "simple"}}
    for option in sorted({*pipe.OPTIONS, "batch_size", "num_workers"} - {"candidate_labels"}):
        for wrong in (np.arange(3), object(), {1, 2}):
            with pytest.raises(InvalidParameterError) as error:
                pipe(*inputs, **{option: wrong}, **beside.get(option, {}))
            assert error.value.param == option
