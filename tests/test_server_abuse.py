"""bench/abuse.py's clients against a tiny server: all good streams are whole. Catalogue row SRV-12."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import time
from collections import Counter
from pathlib import Path

import pytest

import tuili
from patience import comes_true
from tiny_engine import is_idle
from tiny_files import SIZES, write_hf_folder
from tiny_models import tiny_llama
from tiny_server import running

BENCH = Path(__file__).parent.parent / "bench"
SECONDS, HEADER_S = 9.0, 4.0  # those that are slow are cut off twice; no good one is as slow


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
def test_good_streams_are_whole_beside_abuse(tmp_path, monkeypatch):
    if not BENCH.exists():
        pytest.skip("bench/ is not beside the tests")
    monkeypatch.syspath_prepend(str(BENCH))
    abuse = __import__("abuse")
    path = write_hf_folder(tiny_llama(), tmp_path / "llama")
    with tuili.LLM(path, max_num_seqs=16, **SIZES) as llm:
        submit = llm.submit

        def slowly(token_ids, logits):
            time.sleep(0.001)

        llm.submit = lambda ids, params: submit(ids, dataclasses.replace(params, logits_processors=(slowly,)))
        monkeypatch.setattr(abuse, "prompt_ids", lambda n, seed, i: [(seed + i) % 250 + 4] * n)
        with running(llm, header_timeout_s=HEADER_S) as server:
            asyncio.run(abuse.abuse(server.port, 2.0, Counter()))
            asyncio.run(abuse.good(server.port, 1.0, 0))
            gc.collect()
            before, statuses = resident_bytes(), Counter()

            async def both():
                bad = abuse.abuse(server.port, SECONDS, statuses)
                return (await asyncio.gather(abuse.good(server.port, SECONDS, 1), bad))[0]

            reads = asyncio.run(both())
            assert server.ask("/health").status == 200
            assert comes_true(lambda: is_idle(llm)), llm.stats()
            gc.collect()
    assert len(reads) >= 8 and all(read.status == 200 and read.n_tokens == abuse.N_NEW for read in reads)
    assert sum(statuses.values()) > 50, statuses
    assert not [status for status in statuses if status >= 500], statuses
    assert resident_bytes() - before < 20e6
