"""How long a grammar keeps the GIL, and with it everybody who waits for tokens: indexing a vocabulary, then
compiling.

    python bench/grammar.py [MODEL…]     the built-in decoders unless others are named

Another thread of Python notes the longest time it could not run; processor time of the call stands beside it.
Only indexing, LLTokenizer of llguidance, is one call that keeps the GIL.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from functools import partial

import tuili
from tuili.generation.grammar import Grammars
from tuili.generation.structure import Form, json_schema

NAMES = ("smollm2-135m-instruct", "gemma3-270m")
FIELDS = {
    f"field{i}": {"type": "string", "pattern": f"[a-z]{{1,{30 + i % 50}}}x?(a|b|[0-9]+)"} for i in range(120)
}


def watched(call: Callable[[], object]) -> tuple[float, float]:
    """Processor time of `call`, and the longest time that a busy thread stood still meanwhile, in seconds."""
    longest, done = 0.0, threading.Event()

    def run() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    thread = threading.Thread(target=run)
    thread.start()
    before = time.thread_time()
    call()
    used = time.thread_time() - before
    done.set()
    thread.join()
    return used, longest


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a grammar keeps the GIL.")
    parser.add_argument("models", nargs="*", default=NAMES, metavar="MODEL", help="default: those built in")
    names = parser.parse_args().models
    schema = Form("json_schema", json_schema("json_schema", {"type": "object", "properties": FIELDS}))
    print("model                    tokens  index: cpu s  stood s  compile: cpu s  stood s")
    for name in names:
        with tuili.LLM(name, num_threads=1) as llm:
            n_vocab = llm.config["n_vocab"]
            grammars = Grammars(llm.tokenizer, n_vocab, llm.config["eos_token_ids"], start_thread=False)
            for token_id in range(n_vocab):  # made once, in Python, which gives way
                llm.tokenizer.token_bytes(token_id)
            index, compiled = watched(grammars._index), watched(partial(grammars._compile, schema))
        print(f"{name:24}{n_vocab:7}{index[0]:14.3f}{index[1]:9.3f}{compiled[0]:16.3f}{compiled[1]:9.3f}")


if __name__ == "__main__":
    main()
