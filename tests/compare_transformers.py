"""Compare tuili with transformers on SmolLM2 and Gemma 3: logits at every position and greedy continuations.

    python tests/compare_transformers.py [--smollm2 FILE.gguf] [--gemma3 FILE.gguf] [--only MODEL]

Both sides compute in float32: the reference dequantizes the GGUF file and uses eager attention, tuili runs
with `compute="float32"` and a float32 KV cache. A row passes if the logits of every position agree to 1e-4 of
that position's range, and 64 greedy tokens are the same or first differ where the reference's two best logits
are within 1e-3 of each other. Exit status 1 if a row fails.

Needs torch, transformers, gguf and sentencepiece besides tuili, about 10 GB of memory and some minutes. The
two sides can also run apart: `--oracle-only FOLDER` stores the reference's answers (about 5 GB), and a later
run with `--oracle FOLDER` uses them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from oracle import model_files, texts
from oracle.answers import Answer, answer
from oracle.measures import NEAR_TIE, first_difference, relative_error
from oracle.table import Table

MODELS = ("smollm2", "gemma3")
LOGIT_TOLERANCE = 1e-4  # of the range of the reference's logits at the position
N_GREEDY = 64

Answers = Iterator[tuple[str, Answer]]


def main() -> int:
    arguments = _arguments()
    paths = model_files.chosen(arguments, MODELS)
    if arguments.oracle_only:
        arguments.oracle_only.mkdir(parents=True, exist_ok=True)
        for model, path in paths.items():
            for prompt, reference in _computed(path):
                reference.save(arguments.oracle_only / f"{model}_{prompt}.npz")
                print(f"{model} {prompt}: {len(reference.ids)} tokens", flush=True)
        return 0
    table = Table(model=8, prompt=13, tokens=6, worst_error=11, at=5, same_best=11, greedy=34)
    for model, path in paths.items():
        answers = _stored(arguments.oracle, model) if arguments.oracle else _computed(path)
        _compare(table, model, path, answers)
    return table.finish()


def _compare(table: Table, model: str, path: Path, answers: Answers) -> None:
    """One row per prompt: tuili's answer against the reference's."""
    import tuili

    with tuili.LLM(path, compute="float32", kv_cache_dtype="float32") as llm:
        for prompt, reference in answers:
            ids = reference.ids.tolist()
            logits = llm.logits(ids)
            if logits.shape != reference.logits.shape:
                table.row([model, prompt, len(ids), f"logits are {logits.shape}"], passed=False)
                continue
            errors = relative_error(logits, reference.logits)
            same_best = int((logits.argmax(axis=1) == reference.logits.argmax(axis=1)).sum())
            out = llm.generate(ids, max_tokens=N_GREEDY, temperature=0, ignore_eos=True)
            verdict, greedy_passed = _judge_greedy(out.outputs[0].token_ids, reference)
            cells = [model, prompt, len(ids), f"{errors.max():.1e}", int(errors.argmax())]
            cells += [f"{same_best}/{len(ids)}", verdict]
            table.row(cells, passed=greedy_passed and bool(errors.max() <= LOGIT_TOLERANCE))


def _judge_greedy(tokens: list[int], reference: Answer) -> tuple[str, bool]:
    """In words, and whether the continuation is the reference's up to a near tie."""
    index = first_difference(tokens, reference.greedy.tolist())
    if index is None:
        return f"{len(tokens)} identical", True
    if index >= len(tokens) or index >= len(reference.greedy):
        return f"{len(tokens)} tokens, not {len(reference.greedy)}", False
    gap = float(reference.gaps[index])
    return f"differs at {index}, reference's gap {gap:.1e}", gap <= NEAR_TIE


def _computed(path: Path) -> Answers:
    """The reference's answers to all prompts, computed one at a time."""
    from oracle import gguf_decoder, gguf_tokenizer

    encode, _ = gguf_tokenizer.load(path)
    model = gguf_decoder.load(path)
    for prompt in texts.prompts():
        yield prompt.name, answer(model, encode(prompt.text), N_GREEDY)


def _stored(folder: Path, model: str) -> Answers:
    for prompt in texts.prompts():
        yield prompt.name, Answer.load(folder / f"{model}_{prompt.name}.npz")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model_files.add_arguments(parser, MODELS)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--oracle-only", type=Path, metavar="FOLDER", help="store the answers and stop")
    where.add_argument("--oracle", type=Path, metavar="FOLDER", help="use the answers stored there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
