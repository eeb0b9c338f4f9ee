"""Several CUDA devices in one process; the emulated build has two."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tiny_core import How, built, encode, run, some_ids
from tiny_engine import codes, counted, counting_model, make_engine, sampling
from tiny_files import SIZES
from tuili import LLM, InvalidParameterError, _core
from tuili.device import checked_device
from tuili.generation.engine import Engine

N_DEVICES = _core.device_count()
on_two = pytest.mark.skipif(N_DEVICES < 2, reason="fewer than two devices; .ci/run tests two emulated ones")
BOTH = ("cuda", "cuda:1")


def bytes_free() -> list[int]:
    return [_core.device_memory(device)[0] for device in BOTH]  # type: ignore[index]


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:01", "cuda:-1", "cuda:1 ", "CUDA", "cuda:10000", "", 1]
)
def test_what_names_no_device_is_refused(name: object) -> None:
    with pytest.raises(InvalidParameterError, match="device must be") as failure:
        checked_device(name, "auto")
    assert failure.value.param == "device"
    assert str(failure.value).endswith(f", not {name}")


def test_the_cpu_is_no_device_of_cuda() -> None:
    for ask in (_core.device_memory, _core.device_name, built("llama").upload):
        with pytest.raises(InvalidParameterError, match='device is "cpu"'):
            ask("cpu")


@pytest.mark.skipif(_core.build_info()["cuda"] != "none", reason="a build with CUDA")
def test_no_device_answers_a_build_without_cuda() -> None:
    assert _core.device_count() == 0
    with pytest.raises(InvalidParameterError, match="no CUDA") as failure:
        LLM("nothing", device="cuda:1")
    assert failure.value.code == "no_cuda"


@on_two
def test_a_device_that_is_not_there_is_refused() -> None:
    absent = f"cuda:{N_DEVICES}"
    with pytest.raises(InvalidParameterError, match=f"devices that answer are {N_DEVICES}") as failure:
        LLM("nothing", device=absent)
    assert failure.value.code == "no_device" and failure.value.param == "device"
    spec = built("llama").spec
    for call in (
        lambda: built("llama").upload(absent),
        lambda: _core.KvCache(spec, 4, 32, "float16", device=absent),
        lambda: _core.device_memory(absent),
    ):
        with pytest.raises(InvalidParameterError, match=f"no {absent}; {N_DEVICES} CUDA devices answer"):
            call()


@on_two
def test_memory_is_taken_where_the_model_is() -> None:
    free = bytes_free()
    model = built("llama").upload("cuda:1")
    cache = _core.KvCache(model.spec, 4, 32, "float16", device=model.device)
    runner = _core.Runner(model, cache, max_batch_tokens=16)
    assert model.device == "cuda:1" and built("llama").upload("cuda:0").device == "cuda"
    first, second = bytes_free()
    assert first == free[0] and second < free[1] - runner.workspace_bytes
    del runner, cache, model
    assert bytes_free() == free


@on_two
def test_a_cache_of_another_device_is_refused() -> None:
    model = built("llama").upload("cuda:1")
    with pytest.raises(InvalidParameterError, match="one device"):
        _core.Runner(model, _core.KvCache(model.spec, 4, 32, "float16", device="cuda"))


@on_two
@pytest.mark.parametrize("family", ["llama", "experts"])
def test_logits_are_those_of_the_other_device(family: str) -> None:
    ids = some_ids(40)
    first, second = (run(built(family).upload(device), ids, How(kv_type="float16")) for device in BOTH)
    assert first.logits().tobytes() == second.logits().tobytes()


@on_two
def test_vectors_are_those_of_the_other_device() -> None:
    texts = [some_ids(n, seed=n) for n in (5, 33)]
    first, second = (encode(built("bert").upload(device), texts)[0] for device in BOTH)
    assert first.tobytes() == second.tobytes()


def engine_on(device: str, start_thread: bool = False) -> Engine:
    model = counting_model().upload(device)
    return make_engine(model=model, kv_type="float16", n_blocks=24, start_thread=start_thread)


@on_two
def test_engines_beside_each_other_step_by_turns() -> None:
    """One host thread drives both: each step chooses its own device and leaves the thread as it was."""
    engines = [engine_on(device) for device in BOTH]
    handles = [engine.submit(codes("a"), sampling(max_tokens=9)) for engine in engines]
    for _ in range(12):
        for engine in engines:
            engine.step()
    assert [handle.result(timeout=0).outputs[0].text for handle in handles] == 2 * [counted("a", 9)]
    for engine in engines:
        engine.close()


@on_two
def test_engines_beside_each_other_run_in_threads_of_their_own() -> None:
    engines = [engine_on(device, start_thread=True) for device in BOTH]
    texts: dict[tuple[str, str], str] = {}

    def ask(device: str, engine: Engine, prompt: str) -> None:
        handle = engine.submit(codes(prompt), sampling(max_tokens=20, temperature=1e-3, seed=1))
        texts[device, prompt] = handle.result(timeout=60).outputs[0].text

    asking = [
        threading.Thread(target=ask, args=(device, engine, prompt))
        for device, engine in zip(BOTH, engines, strict=True)
        for prompt in ("a", "hello A", "0")
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    for engine in engines:
        engine.close()
    for (_, prompt), text in texts.items():
        assert text == counted(prompt[-1], 20)
    assert len(texts) == 6


@on_two
def test_an_llm_on_each_device(llama_path: Path) -> None:
    path, options = llama_path, {**SIZES, "packed_cache": False}
    free = bytes_free()
    with LLM(path, device="cuda", **options) as first, LLM(path, device="cuda:1", **options) as second:
        assert second.config["device"] == "cuda:1"
        asked = {"max_tokens": 6, "temperature": 1.0, "seed": 3}
        ids = [llm.generate("the cat", **asked).outputs[0].token_ids for llm in (first, second)]
        assert ids[0] == ids[1]
        scores = [llm.score(list(range(40))) for llm in (first, second)]
        assert np.array_equal(*scores)
        first.load_prefix(second.save_prefix(list(range(40))))  # of devices of one name
    del first, second
    assert bytes_free() == free
    with pytest.raises(InvalidParameterError, match="compute"):
        LLM(path, device="cuda:1", **options, compute="float32")
