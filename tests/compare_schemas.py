"""Structured output of a real model: 50 schemas by the `jsonschema` package, 40 hostile ones by the clock.

    python tests/compare_schemas.py [--seeds 2] [--max-tokens 600]

Every schema of tests/schemas.py is asked of SmolLM2 at temperature 1, all at once. An output that was not cut
at max_tokens has to be valid, and each has to be what it is alone, to the bit. Then 8 streams decode while
hostile schemas arrive: each has to end in a GrammarError within 100 ms, and the streams' median time between
tokens may grow by a tenth, its 99th percentile to twice that without them, in rounds that alternate. The exit
status is 1 if anything fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from typing import Any

import jsonschema
import numpy as np

import tuili
from schemas import GOOD, HOSTILE
from tuili.errors import GrammarError

LIMIT_S = 0.1
N_STREAMS, N_TOKENS, N_ROUNDS = 8, 120, 5
PAUSE_S = 0.02  # between hostile schemas
MEDIAN_RATIO, TAIL_RATIO = 1.1, 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=600)
    arguments = parser.parse_args()
    with tuili.LLM("smollm2-135m-instruct", max_queue=4096) as llm:
        start = time.perf_counter()
        llm.generate("a", choice=["a"], max_tokens=1)
        print(f"first grammar, with the vocabulary: {time.perf_counter() - start:.3f} s")
        good = check_outputs(llm, arguments.seeds, arguments.max_tokens)
        return 0 if check_hostile(llm) and good else 1


def ask(llm: tuili.LLM, name: str, seed: int, max_tokens: int) -> tuili.Handle:
    messages = [{"role": "user", "content": f"Write an example of: {name}. Answer in JSON."}]
    return llm.submit(messages, json_schema=GOOD[name], temperature=1.0, seed=seed, max_tokens=max_tokens)


def check_outputs(llm: tuili.LLM, n_seeds: int, max_tokens: int) -> bool:
    start = time.perf_counter()
    asked = [(name, seed) for name in GOOD for seed in range(n_seeds)]
    handles = [ask(llm, *one, max_tokens) for one in asked]
    outputs = [handle.result().outputs[0] for handle in handles]
    seconds, n_tokens = time.perf_counter() - start, sum(len(output.token_ids) for output in outputs)
    cut, invalid, changed = [], [], []
    for (name, seed), output in zip(asked, outputs, strict=True):
        problem = problem_with(output.text, GOOD[name])
        if output.finish_reason == "length":
            cut.append(name)
        elif problem is not None:
            invalid.append(f"{name}, seed {seed}: {problem}: {output.text[:200]}")
        if seed == 0 and ask(llm, name, seed, max_tokens).result().outputs[0] != output:
            changed.append(name)
    print(f"{len(GOOD)} schemas, {len(outputs)} outputs, {n_tokens} tokens in {seconds:.1f} s")
    print(f"complete: {len(outputs) - len(cut)}; cut at max_tokens: {cut or 'none'}")
    print(f"invalid: {invalid or 'none'}; other bits alone: {changed or 'none'}")
    return not invalid and not changed


def problem_with(text: str, schema: dict[str, Any]) -> str | None:
    try:
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator, format_checker=checker)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def gaps_of_streams(llm: tuili.LLM, beside: threading.Thread | None) -> np.ndarray:
    """Seconds between the looks at which tokens came, of all streams together, while `beside` runs."""
    gaps: list[float] = []

    def read() -> None:
        last = None
        for _ in llm.stream("Once upon a time", max_tokens=N_TOKENS, ignore_eos=True, logprobs=0):
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now

    readers = [threading.Thread(target=read) for _ in range(N_STREAMS)]
    for thread in [*readers, *([beside] if beside else [])]:
        thread.start()
    for thread in [*readers, *([beside] if beside else [])]:
        thread.join()
    return np.array(gaps)


def check_hostile(llm: tuili.LLM) -> bool:
    seconds: dict[str, list[float]] = {name: [] for name in HOSTILE}
    wrong: list[str] = []

    def attack() -> None:
        for name, schema in HOSTILE.items():
            start = time.perf_counter()
            try:
                llm.generate("a", json_schema=schema, max_tokens=2)
                wrong.append(f"{name}: no error")
            except GrammarError:
                seconds[name].append(time.perf_counter() - start)
            except Exception as error:
                wrong.append(f"{name}: {error!r}")
            time.sleep(PAUSE_S)

    calm, attacked = [], []
    for _ in range(N_ROUNDS):
        calm.append(gaps_of_streams(llm, None))
        attacked.append(gaps_of_streams(llm, threading.Thread(target=attack)))
    print(f"{'hostile schema':36}{'slowest of ' + str(N_ROUNDS):>16}")
    for name, times in seconds.items():
        print(f"{name:36}{max(times, default=0) * 1e3:13.1f} ms")
    late = [name for name, times in seconds.items() if max(times, default=0) > LIMIT_S]
    print(f"other errors: {wrong or 'none'}; later than {LIMIT_S:g} s: {late or 'none'}")
    ratios = []
    for share, most in ((50, MEDIAN_RATIO), (99, TAIL_RATIO)):
        without, under = (
            float(np.median([np.percentile(gaps, share) for gaps in group])) for group in (calm, attacked)
        )
        ratios.append(under / without <= most)
        shown = f"{without * 1e3:.2f} ms calm, {under * 1e3:.2f} ms attacked (at most × {most:g})"
        print(f"time between tokens, {share} %: {shown}")
    return not wrong and not late and all(ratios)


if __name__ == "__main__":
    sys.exit(main())
