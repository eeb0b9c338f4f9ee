"""What a program that mypy checks may write. Nobody runs it: `mypy` reads it, and fails at another type."""

from __future__ import annotations

import contextlib
from typing import Any, assert_type

from tuili import LLM, Chunk, RequestOutput, SamplingParams


def texts_of_an_encoder_decoder(llm: LLM) -> None:
    assert_type(llm.translate("one", src_lang="eng_Latn", tgt_lang="deu_Latn"), str)
    assert_type(llm.translate(["one", "two"], tgt_lang="de", num_beams=4), list[str])
    assert_type(llm.translate(("one", "two")), list[str])
    assert_type(llm.summarize("a long text", max_tokens=30), str)
    assert_type(llm.summarize(["a long text"], truncation=True), list[str])


def parameters_by_all_their_names() -> None:
    assert_type(SamplingParams(max_tokens=3, n=2), SamplingParams)
    assert_type(SamplingParams(max_new_tokens=3, num_return_sequences=2, do_sample=True), SamplingParams)
    SamplingParams(max_token=3)  # type: ignore[call-arg]  # no name of anything: mypy wants this comment


def generations(llm: LLM) -> None:
    assert_type(llm.generate("a", max_new_tokens=3), RequestOutput)
    assert_type(llm.generate(["a", "b"], SamplingParams(do_sample=False)), list[RequestOutput])
    assert_type(llm.beam_search("a", num_beams=None), RequestOutput)


def labels(llm: LLM) -> None:
    assert_type(llm.classify("a"), dict[str, Any])
    assert_type(llm.classify(("a", "b")), dict[str, Any])
    assert_type(llm.classify(["a", ("b", "c")]), list[dict[str, Any]])


def streams(llm: LLM) -> None:
    with contextlib.closing(llm.stream("a")) as chunks:
        assert_type(next(chunks), Chunk)


async def async_streams(llm: LLM) -> None:
    async with contextlib.aclosing(llm.stream("a")) as chunks:
        assert_type(await anext(chunks), Chunk)


def models() -> None:
    assert_type(LLM("a folder", num_threads=2), LLM)
    LLM("a folder", n_threads=2)  # type: ignore[call-arg]
