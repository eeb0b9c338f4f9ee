"""save_prefix and load_prefix: the same bits elsewhere, and no bytes that hurt.

Catalogue rows PRIV-03, KV-06, PRIV-05.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import tuili
from patience import least, processor_s
from tiny_core import core_spec
from tiny_files import write_hf_folder
from tiny_models import tiny_gemma3, tiny_llama
from tuili import InvalidParameterError, KVCacheExhaustedError, ModelFormatError, PromptTooLongError, _core
from tuili.generation import prefix

OPTIONS = {"num_threads": 1, "kv_cache_bytes": 4 << 20, "max_model_len": 512}
IDS = [7 * i % 290 + 4 for i in range(150)]  # four whole blocks of 32 and a tail
N_SAVED = 128
SUM = 32  # bytes of the checksum


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_hf_folder(tiny_llama(), folder / "llama")
    write_hf_folder(tiny_llama(seed=1), folder / "other")
    write_hf_folder(tiny_gemma3(), folder / "gemma")
    return folder


@pytest.fixture(scope="module")
def llm(folder):
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def saved(llm):
    return llm.save_prefix(IDS)


def forged(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes with some replaced, and a checksum that fits."""
    body = data[:at] + new + data[at + len(new) : -SUM]
    return body + hashlib.sha256(body).digest()


def answer(llm, ids=IDS, **options):
    """(tokens, log-probabilities, tokens found in the cache) of a continuation."""
    out = llm.generate(list(ids), max_tokens=8, temperature=0, logprobs=2, **options)
    logprobs = [(entry.logprob, entry.top) for entry in out.outputs[0].logprobs]
    return out.outputs[0].token_ids, logprobs, out.metrics["cached_tokens"]


# --- what is saved is found


@pytest.mark.parametrize("model", ["llama", "gemma"])
@pytest.mark.parametrize("kv_cache_dtype", ["float32", "float16", "bfloat16", "int8"])
def test_another_engine_finds_the_prefix_and_answers_with_the_same_bits(folder, model, kv_cache_dtype):
    options = OPTIONS | {"kv_cache_dtype": kv_cache_dtype}
    with tuili.LLM(folder / model, **options) as first:
        data = first.save_prefix(IDS)
    with tuili.LLM(folder / model, **options | {"prefill_chunk": 40, "num_threads": 2}) as cold:
        cold._prefixes._cache.poison()
        expected = answer(cold)
        assert cold.save_prefix(IDS) == data, "no chunk, thread or byte of others may show"
    with tuili.LLM(folder / model, **options) as warm:
        assert warm.load_prefix(data) == N_SAVED
        got = answer(warm)
        assert warm.save_prefix(IDS) == data, "what was loaded is saved again, to the byte"
    assert got[:2] == expected[:2]
    assert (got[2], expected[2]) == (N_SAVED, 0)


def test_text_and_chats_are_prefixes_too(llm):
    text = "the answer is " * 20
    n_tokens = len(llm.tokenizer.encode(text))
    assert llm.load_prefix(llm.save_prefix(text)) == n_tokens // 32 * 32
    messages = [{"role": "user", "content": text}]
    assert llm.load_prefix(llm.save_prefix(messages)) >= n_tokens // 32 * 32


def test_the_prefix_is_there_for_longer_prompts_and_up_to_the_token_that_differs(folder, saved):
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        llm.load_prefix(saved)
        llm.load_prefix(memoryview(bytearray(saved)))  # again: all of it is there already
        assert answer(llm, [*IDS[:70], 5, *IDS[71:]])[2] == 64
        assert answer(llm, IDS[:N_SAVED])[2] == 96, "one token is left to compute"
        assert answer(llm, [*IDS, *IDS])[2] == N_SAVED
        assert llm.stats()["free_blocks"] == llm.stats()["n_blocks"]


def test_half_of_the_prefix_may_be_there_before(folder, llm, saved):
    with tuili.LLM(folder / "llama", **OPTIONS) as other:
        answer(other, IDS[:70])
        assert other.load_prefix(saved) == N_SAVED
        assert answer(other)[:2] == answer(llm)[:2]


def test_a_prefix_is_copied_in_slices(folder, monkeypatch, saved):
    monkeypatch.setattr(prefix, "SLICE_BYTES", 1)
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        assert llm.load_prefix(saved) == N_SAVED
        assert answer(llm)[2] == N_SAVED
        assert llm.save_prefix(IDS) == saved


def test_of_a_window_only_its_end_is_saved(folder, monkeypatch):
    """200 tokens: the window's blocks from the tile of 64 on that the next token reads."""
    ids = [*IDS, *IDS[:60]]
    with tuili.LLM(folder / "gemma", **OPTIONS) as first:
        expected, data = answer(first, ids), first.save_prefix(ids)
        layer_bytes = first._prefixes.origin.block_bytes // 6
    assert len(data) == prefix._HEADER.size + 4 * 192 + (6 * 1 + 5 * 2) * layer_bytes + SUM
    monkeypatch.setattr(prefix, "SLICE_BYTES", 1)
    with tuili.LLM(folder / "gemma", **OPTIONS) as other:
        other._prefixes._cache.poison()
        assert other.load_prefix(data) == 192
        assert answer(other, [*ids[:150], 5, *ids[151:]])[2] == 0, "a prefix is found where its window is"
        assert answer(other, ids) == (*expected[:2], 192)
        assert other.save_prefix(ids) == data


def test_a_window_is_loaded_where_the_rest_of_its_prefix_is_there(folder, monkeypatch):
    monkeypatch.setattr(prefix, "SLICE_BYTES", 1)
    with tuili.LLM(folder / "gemma", **OPTIONS | {"max_num_seqs": 1, "prefill_chunk": 32}) as llm:
        expected, data = answer(llm), llm.save_prefix(IDS)
        pool, n_cached = llm._engine._pool, llm.stats()["cached_blocks"]
        others = [_core.Sequence(np.full(9, 9, np.int32)) for _ in range(pool.windows[0].n_blocks)]
        assert all(pool.grow(other, 9) for other in others), "others take the whole window"
        for other in others:
            pool.release(other)
        assert (llm.stats()["cached_blocks"], llm.stats()["cached_window_blocks"]) == (n_cached, 0)
        pool.check_invariants()
        assert llm.load_prefix(data) == N_SAVED
        pool.check_invariants()
        assert llm.stats()["cached_window_blocks"] == 2
        assert answer(llm) == (*expected[:2], N_SAVED)


def test_a_prefix_whose_window_others_hold_is_told_so(folder):
    with tuili.LLM(folder / "gemma", **OPTIONS) as llm:
        data = llm.save_prefix(IDS)
    with tuili.LLM(folder / "gemma", **OPTIONS) as llm:
        pool = llm._engine._pool
        [area] = pool.windows
        others = [_core.Sequence(np.full(9, 9, np.int32)) for _ in range(area.n_blocks)]
        assert all(pool.grow(other, 9) for other in others)
        with pytest.raises(KVCacheExhaustedError, match=f"of the window of {area.window} tokens 0 of "):
            llm.load_prefix(data)
        for other in others:
            pool.release(other)
        assert llm.load_prefix(data) == N_SAVED


def test_a_loaded_prefix_makes_room_like_any_other(folder):
    with tuili.LLM(folder / "llama", **OPTIONS | {"kv_cache_bytes": 1 << 18}) as llm:
        n_blocks = llm.stats()["n_blocks"]
        data = llm.save_prefix(IDS)
        for seed in range(2 * n_blocks):
            llm.generate([seed + 4] * 40, max_tokens=1)
        assert llm.load_prefix(data) == N_SAVED
        assert answer(llm)[2] == N_SAVED


# --- salts


def test_a_salted_prefix_is_found_under_its_salt_alone(folder, llm):
    data = llm.save_prefix(IDS, cache_salt="tenant")
    with tuili.LLM(folder / "llama", **OPTIONS) as other:
        for salt in (None, "another"):
            with pytest.raises(InvalidParameterError) as caught:
                other.load_prefix(data, cache_salt=salt)
            assert (caught.value.param, caught.value.code) == ("cache_salt", "prefix_salt")
        other.load_prefix(data, cache_salt="tenant")
        assert answer(other)[2] == 0
        assert answer(other, cache_salt="another")[2] == 0
        assert answer(other, cache_salt="tenant")[2] == N_SAVED


def test_the_salt_is_not_in_the_bytes(llm):
    data = llm.save_prefix(IDS, cache_salt="a secret of the tenant")
    assert b"secret" not in data


# --- refusals


@pytest.mark.parametrize(
    "model, options, code, named",
    [
        ("other", {}, "prefix_model", "the model"),
        ("gemma", {}, "prefix_architecture", "the architecture Llama.*; this engine has Gemma3"),
        ("llama", {"compute": "float32"}, "prefix_model", "the model"),
        ("llama", {"quantization": "int8"}, "prefix_model", "the model"),
        ("llama", {"kv_cache_dtype": "int8"}, "prefix_kv_dtype", "float16; this engine has int8"),
        ("llama", {"kv_cache_dtype": "bfloat16"}, "prefix_kv_dtype", "float16; this engine has bfloat16"),
        ("llama", {"max_model_len": 100}, "prefix_too_long", "128 tokens; max_model_len is 100"),
    ],
)
def test_a_prefix_of_another_kind_is_refused_by_name(folder, saved, model, options, code, named):
    with (
        tuili.LLM(folder / model, **OPTIONS | options) as llm,
        pytest.raises(InvalidParameterError, match=named) as caught,
    ):
        llm.load_prefix(saved)
    assert (caught.value.code, caught.value.param) == (code, "data")


def test_a_released_view_is_refused(llm, saved):
    view = memoryview(saved)
    view.release()
    with pytest.raises(InvalidParameterError):
        llm.load_prefix(view)


@pytest.mark.parametrize("data", [None, 3, "text", [1], np.zeros(9, np.uint8), memoryview(b"abcd")[::2]])
def test_what_is_not_bytes_is_refused(llm, data):
    with pytest.raises(InvalidParameterError) as caught:
        llm.load_prefix(data)
    assert caught.value.param == "data"


@pytest.mark.parametrize("prompt", [IDS[:31], [5], "a"])
def test_less_than_a_block_cannot_be_saved(llm, prompt):
    with pytest.raises(InvalidParameterError, match="whole blocks of 32"):
        llm.save_prefix(prompt)


def test_a_prompt_is_checked_as_everywhere(llm):
    with pytest.raises(PromptTooLongError):
        llm.save_prefix([5] * 600)
    with pytest.raises(tuili.TokenIdError):
        llm.save_prefix([5] * 40 + [300])
    with pytest.raises(InvalidParameterError):
        llm.save_prefix(None)
    with pytest.raises(InvalidParameterError):
        llm.save_prefix(IDS, cache_salt=3)


def test_without_prefix_caching_there_are_no_prefixes(folder, saved):
    with tuili.LLM(folder / "llama", enable_prefix_caching=False, **OPTIONS) as llm:
        for call in (lambda: llm.save_prefix(IDS), lambda: llm.load_prefix(saved)):
            with pytest.raises(InvalidParameterError, match="enable_prefix_caching"):
                call()


def test_a_closed_engine_says_so(folder, saved):
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        pass
    for call in (lambda: llm.save_prefix(IDS), lambda: llm.load_prefix(saved)):
        with pytest.raises(tuili.EngineClosedError):
            call()


def test_a_prefix_finds_no_room_while_others_hold_all(folder, saved):
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        taken = llm._engine._pool.take(llm.stats()["n_blocks"] - 3)
        with pytest.raises(KVCacheExhaustedError, match="needs 4 cache blocks; 3 of"):
            llm.load_prefix(saved)
        for block in taken:
            llm._engine._pool.drop(block)
        llm._engine._pool.check_invariants()
        assert llm.load_prefix(saved) == N_SAVED


# --- hostile bytes


def refused(llm, data: bytes) -> None:
    """Refused in time, with nothing left behind."""
    before = llm.stats()["cached_blocks"]

    def load() -> None:
        with pytest.raises((ModelFormatError, InvalidParameterError)):
            llm.load_prefix(data)

    assert least(lambda: processor_s(load), 0.5) < 0.5
    assert llm.stats()["cached_blocks"] == before


def test_truncated_bytes_are_refused(llm, saved):
    for n_bytes in [*range(0, len(saved), 64), len(saved) - 1]:
        refused(llm, saved[:n_bytes])
    refused(llm, saved + b"\0")


def test_flipped_bits_are_refused(llm, saved):
    rng = np.random.default_rng(0)
    for at in [*range(prefix._HEADER.size), *rng.integers(0, len(saved), 200)]:
        flipped = bytearray(saved)
        flipped[at] ^= 1 << rng.integers(8)
        refused(llm, bytes(flipped))


def test_random_bytes_behind_a_true_beginning_are_refused(llm, saved):
    rng = np.random.default_rng(1)
    for n_bytes in (0, 1, 8, 100, 10_000):
        for n_true in (0, 8, 16, prefix._HEADER.size):
            refused(llm, saved[:n_true] + rng.bytes(n_bytes))


FIELDS = {
    "format": (8, 4),
    "layout": (12, 4),
    "block_size": (80, 4),
    "block_bytes": (84, 8),
    "n_tokens": (156, 8),
    "n_bytes": (164, 8),
}


FORGED = {  # what can be written there, and is not the truth
    f"{field} {value}": (at, value.to_bytes(n_bytes, "little"))
    for field, (at, n_bytes) in FIELDS.items()
    for value in (0, 1, 2, 31, 33, 160, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)
    if value < 256**n_bytes and not (field in ("format", "layout") and value == 2)
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_number_with_a_checksum_that_fits_is_refused(llm, saved, name):
    refused(llm, forged(saved, *FORGED[name]))


@pytest.mark.parametrize("token", [-1, 300, 2**31 - 1, -(2**31)])
def test_forged_token_ids_are_refused(llm, saved, token):
    refused(llm, forged(saved, prefix._HEADER.size + 40, token.to_bytes(4, "little", signed=True)))


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x1b[31m\r\n", b"gpt2\0\0\0\0"])
def test_a_forged_name_is_refused_and_shown_escaped(llm, saved, name):
    with pytest.raises((ModelFormatError, InvalidParameterError)) as caught:
        llm.load_prefix(forged(saved, 32, name))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "kv_cache_dtype, infinity",
    [
        ("float32", b"\0\0\x80\x7f"),
        ("float16", b"\0\x7c"),
        ("bfloat16", b"\x80\x7f"),
        ("int8", b"\0\0\x80\x7f"),
    ],
)
def test_forged_values_that_are_no_numbers_are_refused(folder, kv_cache_dtype, infinity):
    with tuili.LLM(folder / "llama", **OPTIONS | {"kv_cache_dtype": kv_cache_dtype}) as llm:
        data = llm.save_prefix(IDS)
        begin = prefix._HEADER.size + 4 * N_SAVED
        n_bytes = (len(data) - SUM - begin) // 4
        refused(llm, forged(data, begin, b"\xff" * n_bytes))
        # The last number of the last block, or its scale.
        last = (len(data[:-SUM].rstrip(b"\0")) - 1) // 4 * 4
        for value in (b"\xff" * 4, infinity):
            refused(llm, forged(data, last, value))


def test_forged_finite_values_hurt_nobody_else(folder, saved):
    """The bytes are a caller's to vouch for: a forgery changes the answers that use it, and no others."""
    begin = prefix._HEADER.size + 4 * N_SAVED
    with tuili.LLM(folder / "llama", **OPTIONS) as llm:
        expected = answer(llm, IDS[::-1])[:2]
        llm.load_prefix(forged(saved, begin, b"\x3c" * 1000))
        answer(llm)
        assert answer(llm, IDS[::-1])[:2] == expected


# --- what the core itself refuses


def test_no_number_of_blocks_wraps_around():
    cache = _core.KvCache(core_spec(tiny_llama()), 4, 32)
    for n_tokens, first, n in ((2**62, 0, 2**56), (2**31, 0, 1), (64, 1, 2**63 - 1), (64, -1, 1)):
        with pytest.raises(InvalidParameterError, match="blocks"):
            cache.is_finite(n_tokens, first, n, np.zeros(0, np.uint8))


def test_blocks_are_not_written_for_a_sequence_that_collects_the_rows():
    spec = core_spec(tiny_llama())
    cache, pool = _core.KvCache(spec, 4, 32), _core.BlockPool(4, 32)
    sequence = _core.Sequence(IDS[:70], collect_logits=True)
    assert pool.grow(sequence, 70)
    with pytest.raises(InvalidParameterError, match="collects"):
        cache.write(sequence, 64, 2, np.zeros(cache.prefix_bytes(64, 2), np.uint8))
