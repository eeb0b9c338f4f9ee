"""What prompt lookup gains and costs: decode rates with and without it, of the same tokens.

    python bench/speculation.py [MODEL] [--check]     smollm2-135m-instruct unless another is named

Two texts repeat themselves: one is copied from its prompt, one falls into a loop (greedy). One does not: it
is drawn at temperature 1. --check: exit code 1 unless repetition decodes 1.5 times as fast and the other text
loses at most 5 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from verdicts import at_least, missed, show

import tuili
from tuili.benchmark.machine import interleaved

N_DRAFTED = 10
STORY = (
    "The harbour master kept three ledgers: one for ships that came, one for ships that left, and one for "
    "ships that were only expected. Every evening he compared the ledgers by lamp light, drew a line under "
    "the last entry, and walked once around the harbour before he locked the door of his office."
)
COPY = [{"role": "user", "content": f"Repeat the following text word for word:\n\n{STORY}"}]


@dataclass(frozen=True)
class Case:
    """least: the ratio of the rates with and without lookup that is asked for."""

    prompt: Any
    sampling: dict[str, Any]
    least: float


CASES = {
    "copied from the prompt": Case(COPY, {"max_tokens": 192, "temperature": 0}, 1.5),
    "a loop": Case("Once upon a time", {"max_tokens": 384, "temperature": 0, "ignore_eos": True}, 1.5),
    "new": Case("Once upon a time", {"max_tokens": 192, "seed": 1, "ignore_eos": True}, 0.95),
}


def measure(llm: tuili.LLM, case: Case, repeats: int) -> tuple[float, float, str]:
    """Medians of tokens per second without and with lookup, and what became of the guesses."""
    outputs: dict[int, list[int]] = {}

    def rate(n_drafted: int) -> float:
        handle = llm.submit(case.prompt, **case.sampling, prompt_lookup_num_tokens=n_drafted)
        output = handle.result()
        outputs[n_drafted] = output.outputs[0].token_ids
        return float((len(outputs[n_drafted]) - 1) / (output.metrics["decode_s"] or 1))

    jobs = {"plain": lambda: rate(0), "lookup": lambda: rate(N_DRAFTED)}
    interleaved(jobs, 1)
    before = llm.stats()
    samples = interleaved(jobs, repeats)
    after = llm.stats()
    assert outputs[0] == outputs[N_DRAFTED], "the guesses changed the text"
    drafted, accepted = (
        (after[f"{what}_tokens"] - before[f"{what}_tokens"]) / repeats for what in ("drafted", "accepted")
    )
    counts = f"{len(outputs[0])} tokens, {accepted:.0f} of {drafted:.0f} guesses right"
    return statistics.median(samples["plain"]), statistics.median(samples["lookup"]), counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = []
    with tuili.LLM(options.model, num_threads=options.threads) as llm:
        for name, case in CASES.items():
            plain, lookup, counts = measure(llm, case, options.repeats)
            text = f"{lookup:.0f} against {plain:.0f} tok/s; {counts}"
            rows.append(at_least(name, lookup / plain, case.least, "×", text, ()))
            show(rows[-1:])
    return int(options.check and bool(missed(rows)))


if __name__ == "__main__":
    sys.exit(main())
