"""Every call that the device may refuse, refused once: an error of the right type, nothing kept, and an
engine that goes on unless the device is lost. Of the emulated device alone (tests/cuda_emulation/faults.h).
"""

from __future__ import annotations

import gc
import itertools

import pytest

from tiny_core import build
from tiny_engine import codes, counted, counter, drain, is_idle, make_engine, sampling
from tuili import _core
from tuili.errors import EngineClosedError, EngineDeadError, EngineOutOfMemoryError, TuiliError
from tuili.generation.engine import Engine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        _core.build_info()["cuda"] != "emulated", reason="faults are planted in the emulated device"
    ),
]

KINDS = {"lost": EngineDeadError, "failed": TuiliError, "full": EngineOutOfMemoryError}
PROMPTS = ("a", "0A")
N_TOKENS = 2  # a step of prompts, one of decoding


def engine_on(model: _core.Model) -> Engine:
    return make_engine(model=model, kv_type="float16", n_blocks=4, max_num_seqs=2, prefill_chunk=8)


def answers(engine: Engine) -> list[str | TuiliError]:
    """Of two requests that share their steps: a text, or the error that ended it."""
    handles = [
        engine.submit(codes(prompt), sampling(max_tokens=N_TOKENS, temperature=temperature, seed=1))
        for prompt, temperature in zip(PROMPTS, (0.0, 1e-3), strict=True)
    ]
    drain(engine)
    ends: list[str | TuiliError] = []
    for handle in handles:
        try:
            ends.append(handle.result(timeout=0).outputs[0].text)
        except TuiliError as error:
            ends.append(error)
    return ends


EXPECTED = [counted(prompt, N_TOKENS) for prompt in PROMPTS]


def assert_is_the_fault(error: TuiliError, kind: str) -> None:
    assert type(error) is KINDS[kind], repr(error)
    assert "asked for" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_no_start_that_fails_keeps_anything(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(counter())
    for n in itertools.count(1):
        free, _ = _core.device_memory()
        monkeypatch.setenv("TUILI_EMULATED_FAULT", f"{n} {kind}")
        try:
            engine = engine_on(model.upload())
        except TuiliError as error:
            assert_is_the_fault(error, kind)
        else:
            engine.close()
            break
        finally:
            monkeypatch.delenv("TUILI_EMULATED_FAULT")
        gc.collect()
        assert _core.device_memory()[0] == free, f"call {n} of a start"
    assert n > 20


def is_whole(model: _core.Model, kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether two requests meet no fault at the n-th call; if they do, all must be as it should after one."""
    engine = engine_on(model)
    monkeypatch.setenv("TUILI_EMULATED_FAULT", f"{n} {kind}")
    ends = answers(engine)
    monkeypatch.delenv("TUILI_EMULATED_FAULT")
    if ends != EXPECTED:
        for end in ends:
            assert isinstance(end, TuiliError), f"call {n}: {ends}"
            assert_is_the_fault(end, kind)
        if kind == "lost":
            with pytest.raises(EngineClosedError):
                engine.submit(codes("a"), sampling(max_tokens=1))
        else:
            assert is_idle(engine)
            assert answers(engine) == EXPECTED, f"call {n}"
    engine.close()
    return ends == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_fails_ends_its_requests_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(counter()).upload()
    free, _ = _core.device_memory()
    n = 1
    while not is_whole(model, kind, n, monkeypatch):
        gc.collect()
        assert _core.device_memory()[0] == free, f"call {n} of a step"
        n += 1
    assert n > 50
