"""Every call that the device may refuse, refused once: an error of the right type, nothing kept, and an
engine that goes on unless the device is lost. Of the emulated device alone (tests/cuda_emulation/faults.h).
"""

from __future__ import annotations

import bisect
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
N_TOKENS = 4  # a step of prompts; then one as it is, one that is recorded, one that is played


def engine_on(model: _core.Model) -> Engine:
    return make_engine(model=model, kv_type="float16", n_blocks=4, max_num_seqs=2, prefill_chunk=8)


def answers(engine: Engine, n_tokens: int = N_TOKENS) -> list[str | TuiliError]:
    """Of two requests that share their steps: a text, or the error that ended it."""
    handles = [
        engine.submit(codes(prompt), sampling(max_tokens=n_tokens, temperature=temperature, seed=1))
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


def expected(n_tokens: int = N_TOKENS) -> list[str]:
    return [counted(prompt, n_tokens) for prompt in PROMPTS]


def assert_is_the_fault(error: TuiliError, kind: str) -> None:
    assert type(error) is KINDS[kind], repr(error)
    assert "asked for" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_no_start_that_fails_keeps_anything(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(counter())
    gc.collect()  # what other tests left
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
    """Whether two requests are answered though the n-th call fails, or because there are not so many; if
    not, all must be as it should after a fault."""
    engine = engine_on(model)
    monkeypatch.setenv("TUILI_EMULATED_FAULT", f"{n} {kind}")
    ends = answers(engine)
    monkeypatch.delenv("TUILI_EMULATED_FAULT")
    if ends != expected():
        for end in ends:
            assert isinstance(end, TuiliError), f"call {n}: {ends}"
            assert_is_the_fault(end, kind)
        if kind == "lost":
            with pytest.raises(EngineClosedError):
                engine.submit(codes("a"), sampling(max_tokens=1))
        else:
            assert is_idle(engine)
            n_tokens = N_TOKENS if "graph" in str(ends[0]) else 1  # a graph is played again
            assert answers(engine, n_tokens) == expected(n_tokens), f"call {n}"
    engine.close()
    return ends == expected()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_fails_ends_its_requests_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory to end a recording, or for its first launch, the step runs as it is."""
    model = build(counter()).upload()
    gc.collect()
    free, _ = _core.device_memory()
    # A device that is lost fails every later call: how many there are can be bisected.
    n_calls = bisect.bisect_left(range(1, 2000), True, key=lambda n: is_whole(model, "lost", n, monkeypatch))
    whole = []
    for n in range(1, n_calls + 1):
        whole += [n] if is_whole(model, kind, n, monkeypatch) else []
        gc.collect()
        assert _core.device_memory()[0] == free, f"call {n} of a step"
    assert n_calls > 100
    assert whole == (list(range(whole[0], whole[-1] + 1)) if kind == "full" else []), f"of {n_calls} calls"
