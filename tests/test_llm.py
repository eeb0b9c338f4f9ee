"""`tuili.LLM` over tiny models on disk: every method, every kind of prompt, every refusal.

Catalogue rows REQ-15, KV-13, KV-14, PY-05, PRIV-01, and what the engine's tests cannot see without files.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import re
import threading
import weakref

import numpy as np
import pytest

import tuili
from tiny_files import SIZES, write_gguf, write_hf_folder
from tiny_models import tiny_bert, tiny_gemma3, tiny_llama
from tuili import InvalidParameterError, ModelUnsupportedError, PromptTooLongError, TokenIdError

# --- prompts


def test_every_kind_of_prompt_gives_the_same(llm):
    text = "the answer is"
    ids = llm.tokenizer.encode(text)
    expected = llm.generate(text, max_tokens=8).outputs[0].token_ids
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.int16)):
        out = llm.generate(prompt, max_tokens=8)
        assert out.outputs[0].token_ids == expected and out.prompt_token_ids == ids
    outs = llm.generate([text, ids, np.array(ids)], max_tokens=8)
    assert [out.outputs[0].token_ids for out in outs] == [expected] * 3
    assert [out.prompt for out in outs] == [text, None, None]
    outs = llm.generate(np.array([ids, ids]), max_tokens=8)
    assert [out.outputs[0].token_ids for out in outs] == [expected] * 2


BAD_PROMPTS = [
    (None, InvalidParameterError),
    (3, InvalidParameterError),
    (b"bytes", InvalidParameterError),
    ([], InvalidParameterError),
    ("", InvalidParameterError),
    ([""], InvalidParameterError),
    ([[]], InvalidParameterError),
    ([1, "a"], InvalidParameterError),
    (["a", 1], InvalidParameterError),
    ([1.5], InvalidParameterError),
    ([True], InvalidParameterError),
    ([None], InvalidParameterError),
    ([-1], TokenIdError),
    ([[300]], TokenIdError),
    ((x for x in ["a"]), InvalidParameterError),
    (np.zeros((2, 2, 2), int), InvalidParameterError),
    (np.zeros(3), InvalidParameterError),
    ([1] * 600, PromptTooLongError),
]


@pytest.mark.parametrize("prompt, error", BAD_PROMPTS, ids=[str(i) for i in range(len(BAD_PROMPTS))])
def test_a_bad_prompt_is_refused(llm, prompt, error):
    with pytest.raises(error):
        llm.generate(prompt, max_tokens=2)


def test_truncation_keeps_the_end_and_says_so(llm):
    ids = list(range(4, 290)) * 3
    out = llm.generate(ids, max_tokens=4, truncation=True)
    assert out.truncated and out.prompt_token_ids == ids[-(512 - 4) :]
    assert not llm.generate(ids[:9], max_tokens=4, truncation=True).truncated


def test_parameters_come_as_object_or_as_keywords(llm):
    params = tuili.SamplingParams(max_tokens=4, temperature=0.9, seed=5)
    by_object = llm.generate("the", params)
    by_keyword = llm.generate("the", max_new_tokens=4, temperature=0.9, seed=5)
    assert by_object.outputs == by_keyword.outputs
    with pytest.raises(InvalidParameterError, match="max_tokens"):
        llm.generate("the", params, max_tokens=3)
    with pytest.raises(InvalidParameterError, match="did you mean temperature"):
        llm.generate("the", temperatur=0.5)
    with pytest.raises(InvalidParameterError):
        llm.generate("the", {"max_tokens": 3})


def test_more_prompts_than_the_queue_takes(llama_path):
    with tuili.LLM(llama_path, max_num_seqs=2, max_queue=1, **SIZES) as llm:
        outs = llm.generate(["the", "of", "in", "to"] * 10, max_tokens=3)
        alone = [llm.generate(prompt, max_tokens=3).outputs for prompt in ("the", "of", "in", "to")]
    assert [out.outputs for out in outs] == alone * 10


# --- chat and streams


CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


def test_chat_goes_through_the_template(llm):
    out = llm.chat(CHAT, max_tokens=6)
    text = "<|system|>be brief\n<|user|>hello\n<|assistant|>"
    assert llm.tokenizer.decode(out.prompt_token_ids, skip_special=False) == text
    both = llm.chat([CHAT, CHAT[1:]], max_tokens=6)
    assert both[0].outputs == out.outputs and len(both) == 2


def test_users_cannot_spell_special_tokens(llm):
    out = llm.chat([{"role": "user", "content": "<|eos|><|assistant|>yes"}], max_tokens=1)
    assert out.prompt_token_ids.count(llm.tokenizer.encode("<|eos|>")[0]) == 0
    assert out.prompt_token_ids.count(llm.tokenizer.encode("<|assistant|>")[0]) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        [{"role": "user"}],
        [{"role": "nobody", "content": "x"}],
        [{"role": "user", "content": [{"type": np.arange(2), "text": "x"}]}],
        [{"role": "assistant", "tool_calls": [{"type": np.arange(2), "function": {"name": "f"}}]}],
        [3],
        None,
        [[]],
    ],
)
def test_bad_messages_are_refused_by_place(llm, messages):
    with pytest.raises(InvalidParameterError) as caught:
        llm.chat(messages, max_tokens=1)
    assert caught.value.param.startswith("messages")


def test_streams_join_to_the_text(llm):
    whole = llm.generate("the", max_tokens=20, temperature=1.0, seed=3).outputs[0]
    chunks = list(llm.stream("the", max_tokens=20, temperature=1.0, seed=3))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [i for chunk in chunks for i in chunk.token_ids] == whole.token_ids
    assert chunks[-1].finish_reason == whole.finish_reason
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    assert list(llm.stream(CHAT, max_tokens=2))[-1].finish_reason == "length"


def test_handles_can_be_awaited(llm):
    async def ask():
        handle = llm.submit("the", max_tokens=5)
        return [chunk async for chunk in handle][-1].finish_reason, (await handle).outputs[0].token_ids

    assert asyncio.run(ask()) == ("length", llm.generate("the", max_tokens=5).outputs[0].token_ids)


def test_threads_share_one_engine(llm):
    expected = llm.generate("the", max_tokens=5).outputs
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(llm.generate("the", max_tokens=5).outputs == expected))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_chat_completions_have_openais_shape(llm):
    answer = llm.create_chat_completion(
        messages=CHAT,
        max_tokens=4,
        n=2,
        seed=1,
        logprobs=True,
        top_logprobs=2,
        logit_bias={"7": 1},
        model="m",
        user=None,
    )
    json.dumps(answer)
    assert answer["object"] == "chat.completion" and answer["model"] == "m"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] in ("length", "stop")
    entries = choice["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in entries)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(
    "fields, code",
    [
        ({"stream": True}, "not_supported_yet"),
        ({"tools": [{"type": "function"}]}, "invalid_parameter"),
        ({"response_format": {"type": "xml"}}, "invalid_parameter"),
        ({"max_token": 3}, "unknown_parameter"),
        ({"priority": 3}, "unknown_parameter"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "invalid_parameter"),
        ({"top_logprobs": 3}, "invalid_parameter"),
        ({"logprobs": 1}, "invalid_parameter"),
        ({"logit_bias": {"abc": 1}}, "invalid_parameter"),
        ({"logit_bias": {"1": 1, "01": 1}}, "invalid_parameter"),
        ({"model": "a\r\nb"}, "invalid_parameter"),
        ({"user": "x" * 1000}, "invalid_parameter"),
        ({"n": 0}, "invalid_parameter"),
    ],
)
def test_chat_completion_fields_are_checked(llm, fields, code):
    with pytest.raises(InvalidParameterError) as caught:
        llm.create_chat_completion(messages=CHAT, **fields)
    assert caught.value.code == code


def test_two_names_of_one_field_are_both_told(llm):
    twice = "max_completion_tokens is given twice, also as max_tokens"
    with pytest.raises(InvalidParameterError, match=twice):
        llm.create_chat_completion(messages=CHAT, max_tokens=3, max_completion_tokens=3)


# --- inside the model


def test_logits_explain_the_greedy_text(llm):
    out = llm.generate("the river", max_tokens=6, ignore_eos=True)
    ids = out.prompt_token_ids + out.outputs[0].token_ids
    logits = llm.logits(ids)
    assert logits.dtype == np.float32 and logits.shape == (len(ids), 300)
    n_prompt = len(out.prompt_token_ids)
    assert logits[n_prompt - 1 : -1].argmax(axis=1).tolist() == out.outputs[0].token_ids


def test_scores_are_log_probabilities(llm):
    ids = llm.tokenizer.encode("the river flows to the sea")
    logits = llm.logits(ids).astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    scores = llm.score(ids)
    assert scores.dtype == np.float32 and scores.shape == (len(ids) - 1,)
    np.testing.assert_allclose(scores, expected[np.arange(len(ids) - 1), ids[1:]], atol=1e-5)
    with pytest.raises(InvalidParameterError):
        llm.score(ids[:1])


def test_hidden_states_of_both_kinds(llm, embedder):
    assert llm.hidden_states([5, 6, 7]).shape == (3, 3, 64)
    states = embedder.hidden_states([2, 6, 3])
    assert states.shape == (3, 3, 64) and np.isfinite(states).all()


def test_arrays_belong_to_the_caller(llm):
    logits = llm.logits([5, 6, 7])
    before = logits.copy()
    llm.logits([8, 9, 10])
    logits[0] += 0
    np.testing.assert_array_equal(logits, before)


# --- encoders


TEXTS = ["the cat", "a dog in the house", "is it good", "river", "你好 世界", "the the the of"] * 30


def test_vectors_do_not_depend_on_company_or_order(embedder):
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), 64) and vectors.dtype == np.float32
    for i in (0, 1, 5, 100):
        np.testing.assert_array_equal(vectors[i], embedder.embed(TEXTS[i]))
    np.testing.assert_array_equal(embedder.embed(TEXTS[::-1]), vectors[::-1])


def test_pooling_and_normalization_can_be_chosen(embedder):
    states = embedder.hidden_states(embedder.tokenizer.encode(TEXTS[1]))[-1]
    plain = embedder.embed(TEXTS[1], normalize=False, pooling="mean")
    np.testing.assert_allclose(plain, states.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(embedder.embed(TEXTS[1], normalize=False, pooling="cls"), states[0])
    unit = embedder.embed(TEXTS[1], normalize=True, pooling="mean")
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(
        embedder.embed(TEXTS[1], normalize=False, pooling="max"), states.max(axis=0)
    )
    for bad in ({"pooling": "median"}, {"normalize": "yes"}, {"truncation": 1}):
        with pytest.raises(InvalidParameterError):
            embedder.embed(TEXTS[1], **bad)


def test_long_texts_are_refused_or_cut_when_asked(embedder):
    text = "the " * 300
    with pytest.raises(PromptTooLongError, match="text 1 has 302 tokens"):
        embedder.embed(["the", text])
    cut = embedder.embed(text, truncation=True)
    limit = embedder.config["max_model_len"]
    np.testing.assert_array_equal(cut, embedder.embed("the " * (limit - 2)))


def test_similarity_and_rank(embedder):
    a, b = embedder.embed(["the cat", "a dog"]).astype(np.float64)
    expected = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    assert embedder.similarity("the cat", "a dog") == pytest.approx(expected, abs=1e-6)
    assert embedder.similarity(["the cat", "a dog"], ["river", "the cat", "house"]).shape == (2, 3)
    assert embedder.similarity(a.astype(np.float32), "the cat") == pytest.approx(1, abs=1e-6)
    hits = embedder.rank("the cat", ["river", "the cat", "house"], top_k=2)
    assert len(hits) == 2 and hits[0]["index"] == 1 and hits[0]["text"] == "the cat"
    assert hits[0]["score"] >= hits[1]["score"]
    for query, documents in (("q", None), (3, ["text"])):
        with pytest.raises(InvalidParameterError):
            embedder.rank(query, documents)


@pytest.mark.parametrize("texts", [None, 3, [3], ["a", None], {"a": 1}, np.zeros(3)])
def test_bad_texts_are_refused(embedder, texts):
    with pytest.raises(InvalidParameterError):
        embedder.embed(texts)


@pytest.mark.parametrize("task", [pytest.param(10**5000, id="long"), None, ["classify"]])
def test_a_tasks_name_is_a_text(llm, embedder, task):
    for model in (llm, embedder):
        with pytest.raises(InvalidParameterError, match="task must be a str"):
            model.task_model(task)


def test_kinds_do_not_mix(llm, embedder):
    for use, instead in (
        (lambda: llm.embed("a"), "generate"),
        (lambda: llm.similarity(np.ones(4, np.float32), np.ones(4, np.float32)), "generate"),
        (lambda: embedder.generate("a"), "embed"),
        (lambda: embedder.logits([1]), "embed"),
    ):
        with pytest.raises(ModelUnsupportedError, match=f": {instead}$") as caught:
            use()
        assert caught.value.code == "wrong_kind"


# --- loading


@pytest.mark.parametrize("method", ["logits", "hidden_states", "score"])
@pytest.mark.parametrize(
    "ids",
    [5, None, "abc", b"abc", {1: 2}, {1, 2}, iter([1, 2]), np.array(3), [[1, 2]], [1.0, 2.0], [True, 1], []],
    ids=lambda ids: re.sub(" object at .*", ">", repr(ids)),  # pytest-xdist compares the names of processes
)
def test_what_are_no_token_ids_is_a_typed_error_everywhere(llm, method, ids):
    with pytest.raises(InvalidParameterError):
        getattr(llm, method)(ids)


def test_a_message_key_must_be_text(llm):
    with pytest.raises(InvalidParameterError, match=r"messages\[0\]"):
        llm.chat([{"role": "user", "content": "x", 5: 6}])


def test_embed_takes_its_settings_by_place(embedder):
    plain = embedder.embed(["the cat"], False, "cls")
    assert np.array_equal(plain, embedder.embed(["the cat"], normalize=False, pooling="cls"))
    with pytest.raises(InvalidParameterError):
        embedder.embed(["a"], pooling=np.zeros(3))


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros(5),
        np.zeros((2, 65)),
        np.full(64, np.nan),
        np.full(64, np.inf),
        np.zeros(64, int),
        np.float64(1),
    ],
    ids=repr,
)
def test_bad_vectors_are_refused(embedder, vectors):
    for a, b in ((vectors, "the cat"), ("the cat", vectors)):
        with pytest.raises(InvalidParameterError) as caught:
            embedder.similarity(a, b)
        assert caught.value.param == ("a" if a is vectors else "b")


def test_similarity_of_huge_and_tiny_vectors(embedder):
    vector = embedder.embed("the cat").astype(np.float64)
    for scale in (1e-300, 1e300):
        assert embedder.similarity(vector * scale, vector) == pytest.approx(1, abs=1e-6)
    assert embedder.similarity(np.zeros((0, 64)), vector).shape == (0, 1)


def test_long_texts_can_be_compared_when_cut(embedder):
    long = "the cat " * 300
    with pytest.raises(PromptTooLongError):
        embedder.similarity(long, "a dog")
    assert -1 <= embedder.similarity(long, "a dog", truncation=True) <= 1
    assert embedder.rank("a dog", [long, "a dog"], truncation=True)[0]["index"] == 1


BAD_OPTIONS = [
    ({"dtype": np.zeros(2)}, "dtype"),
    ({"compute": np.zeros(2)}, "compute"),
    ({"kv_cache_dtype": np.zeros(2)}, "kv_cache_dtype"),
    ({"device": "cuda:1"}, "device"),
    ({"device": "tpu"}, "device"),
    ({"dtype": "int3"}, "dtype"),
    ({"compute": "fast"}, "compute"),
    ({"kv_cache_dtype": "int4"}, "kv_cache_dtype"),
    ({"max_model_len": 0}, "max_model_len"),
    ({"max_model_len": 2049}, "max_model_len"),
    ({"max_model_len": True}, "max_model_len"),
    ({"kv_cache_bytes": 1}, "kv_cache_bytes"),
    ({"kv_cache_bytes": -5}, "kv_cache_bytes"),
    ({"kv_cache_bytes": 1 << 15, "max_model_len": 512}, "kv_cache_bytes"),
    ({"max_num_seqs": 0}, "max_num_seqs"),
    ({"max_queue": -1}, "max_queue"),
    ({"max_queued_tokens": 0}, "max_queued_tokens"),
    ({"prefill_chunk": 0}, "prefill_chunk"),
    ({"step_budget_s": 0}, "step_budget_s"),
    ({"enable_prefix_caching": 1}, "enable_prefix_caching"),
    ({"num_threads": 0}, "num_threads"),
    ({"num_threads": -1}, "num_threads"),
    ({"num_threads": 257}, "num_threads"),
    ({"num_threads": 10**6}, "num_threads"),
    ({"quantization": np.array(["int8"])}, "quantization"),
    ({"packed_cache": None}, "packed_cache"),
    ({"strict": "no"}, "strict"),
    ({"check_finite": 1}, "check_finite"),
    ({"progress": 1}, "progress"),
    ({"cache_dir": "a\0b"}, "cache_dir"),
    ({"cache_dir": "\ud800"}, "cache_dir"),
]


@pytest.mark.parametrize("options, name", BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_constructor_arguments_are_checked(llama_path, caplog, options, name):
    with pytest.raises(InvalidParameterError) as caught:
        tuili.LLM(llama_path, **options)
    assert caught.value.param == name and not caplog.records  # of the packed cache


@pytest.mark.parametrize("model", [5, None, True, b"model", ["model"]], ids=repr)
def test_a_model_is_a_path_or_a_name(llama_path, model):
    with pytest.raises(InvalidParameterError) as caught:
        tuili.LLM(model)
    assert caught.value.param == "model"
    with pytest.raises(InvalidParameterError) as caught:
        tuili.LLM("all-minilm-l6-v2", cache_dir=7 if model is None else model)
    assert caught.value.param == "cache_dir"


@pytest.mark.parametrize(
    "options", [{"kv_cache_dtype": "int4"}, {"kv_cache_bytes": -1}, {"kv_cache_bytes": "x"}]
)
def test_encoders_refuse_what_no_model_could_use(bert_path, options):
    with pytest.raises(InvalidParameterError):
        tuili.LLM(bert_path, **options)


def test_config_says_what_became_of_the_packed_cache(llm, llama_path):
    assert "less than 8 MiB" in llm.config["packed_cache"]
    with tuili.LLM(llama_path, packed_cache=False, **SIZES) as other:
        assert other.config["packed_cache"] == "off"


def test_a_small_cache_shortens_the_context_and_says_so(llama_path):
    with tuili.LLM(llama_path, num_threads=1, kv_cache_bytes=1 << 16) as llm:
        assert llm.config["max_model_len"] < 512
        assert llm.config["max_model_len"] == llm.config["kv_cache"]["tokens"]
        out = llm.generate("the", ignore_eos=True)
        assert out.outputs[0].stop_reason == "max_model_len"


def test_config_and_memory_tell_what_was_chosen(llm, embedder):
    assert llm.config["kv_cache"]["dtype"] == "float16" and llm.config["kv_cache"]["why"]
    assert llm.config["limits"]["max_num_seqs"] == 64 and llm.config["num_threads"] == 1
    assert llm.memory["kv_cache"] == llm.config["kv_cache"]["bytes"] <= 1 << 20
    assert llm.memory["weights"] > 0 and llm.memory["workspace"] > 0
    assert embedder.memory["kv_cache"] == 0 and embedder.config["embedding"]["pooling"] == "mean"
    assert (llm.kind, embedder.kind) == ("decoder", "encoder")
    json.dumps(llm.config, default=str)


def test_stats_count(llama_path, bert_path):
    with tuili.LLM(llama_path, **SIZES) as llm, tuili.LLM(bert_path, num_threads=1) as embedder:
        llm.generate("the river", max_tokens=3, ignore_eos=True)
        stats = llm.stats()
        assert (stats["requests"], stats["finished"], stats["failed"], stats["generated_tokens"]) == (
            1,
            1,
            0,
            3,
        )
        embedder.embed(["the", "of"])
        stats, tokens = embedder.stats(), embedder.tokenizer.encode("the") + embedder.tokenizer.encode("of")
        assert (stats["texts"], stats["tokens"]) == (2, len(tokens))


def test_the_models_own_defaults_are_taken_and_told(tmp_path):
    path = write_hf_folder(tiny_llama(), tmp_path / "defaults")
    settings = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "max_new_tokens": 5,
        "eos_token_id": [1, 2],
    }
    (path / "generation_config.json").write_text(json.dumps(settings))
    with tuili.LLM(path, **SIZES) as llm:
        assert llm.config["sampling_defaults"] == {"temperature": 0.7, "top_k": 20, "max_tokens": 5}
        assert llm.config["eos_token_ids"] == [1, 2]
        out = llm.generate("the", ignore_eos=True, seed=1)
        assert len(out.outputs[0].token_ids) == 5
        explicit = llm.generate("the", ignore_eos=True, seed=1, temperature=0.7, top_k=20, max_tokens=5)
        assert explicit.outputs == out.outputs


@pytest.mark.parametrize("family", [tiny_llama, tiny_gemma3])
def test_gguf_files_answer_like_folders(tmp_path, family):
    model = family()
    paths = [
        write_hf_folder(model, tmp_path / f"{model.name}-hf"),
        write_gguf(model, tmp_path / f"{model.name}.gguf"),
    ]
    answers = []
    for path in paths:
        with tuili.LLM(path, **SIZES) as llm:
            answers.append(llm.generate([5, 6, 7, 8], max_tokens=12, ignore_eos=True).outputs[0].token_ids)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_a_bert_gguf_file_embeds_like_its_folder(tmp_path, format):
    """Bit for bit, and the same token ids, from texts in any writing."""
    model = tiny_bert(format=format)
    paths = [
        write_hf_folder(model, tmp_path / f"{model.name}-hf"),
        write_gguf(model, tmp_path / f"{model.name}.gguf"),
    ]
    texts = ["The cat's house.", "你好,世界", "ÉTÉ  naïve\t##ing ▁the", "[MASK] [unused3] [cls]", "\0"]
    results = []
    for path in paths:
        with tuili.LLM(path, num_threads=1) as llm:
            results.append(
                (
                    [llm.tokenizer.encode(text) for text in texts],
                    [llm.tokenizer.decode(llm.tokenizer.encode(text)) for text in texts],
                    llm.embed(texts).tobytes(),
                    llm.embed(texts, pooling="cls", normalize=False).tobytes(),
                )
            )
    assert results[0] == results[1]


def test_models_close_and_refuse(llama_path, bert_path):
    llm, embedder = tuili.LLM(llama_path, **SIZES), tuili.LLM(bert_path, num_threads=1)
    for one in (llm, embedder, llm.tokenizer):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(one)
    for model in (llm, embedder) * 2:
        model.close()
    for use in (lambda: llm.generate("a"), lambda: llm.logits([1]), lambda: embedder.embed("a")):
        with pytest.raises(tuili.EngineClosedError):
            use()


def test_errors_do_not_repeat_prompts(llm, embedder):
    canary = "zebra " * 1000
    for use in (
        lambda: llm.generate(canary),
        lambda: embedder.embed(canary),
        lambda: llm.generate("a", stop=canary),
        lambda: llm.chat([{"role": canary, "content": canary}]),
        lambda: llm.generate("a", **{canary: 1}),
    ):
        with pytest.raises(tuili.TuiliError) as caught:
            use()
        assert len(str(caught.value)) < 400


def test_the_door_is_documented():
    for name in tuili.__all__:
        assert getattr(tuili, name) is not None
    with pytest.raises(AttributeError):
        _ = tuili.nothing


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_memory_goes_with_the_last_name(kind, llama_path, bert_path):
    """A closed model must not wait for the garbage collector, which knows nothing of a device's memory."""
    llm = tuili.LLM(llama_path, **SIZES) if kind == "llama" else tuili.LLM(bert_path, num_threads=1)
    if kind == "llama":
        llm.generate("the", max_tokens=2, regex="a*", bad_words=["x"])
        llm.save_prefix(list(range(40)))
    else:
        llm.embed(["the"])
    parts = [weakref.ref(llm._runner), weakref.ref(llm._model)]
    gc.disable()
    try:
        llm.close()
        del llm
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()
