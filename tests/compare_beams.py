"""Random beam searches with random parameters, in tuili and in transformers: the same sequences, scores and
log-probabilities.

    cd tests && PYTHONPATH=../python python compare_beams.py [--runs 240] [--seed 0]

Needs torch and transformers. Left out are searches whose answer is a matter of order or has none:
transformers calls a user's logits processors last and tuili first, which a repetition penalty or a forced
token shows; where fewer continuations exist than beams, transformers fills up with placeholders. The exit
status is 1 if a search differs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from beam_goldens import asked, check
from oracle.beams import golden
from tiny_core import built
from tiny_engine import drain, make_engine
from tiny_files import write_hf_folder
from tiny_models import FAMILIES, N_VOCAB


def some_options(rng: random.Random, met: list[int], ends: list[int], n_prompt: int, length: int) -> dict:
    """met: tokens of the search without options, so that they matter."""
    words = [token for token in met if token not in ends]
    forced = {"forced_eos_token_id": rng.choice(met)}
    if n_prompt == 1 and words:  # where transformers forces the first one
        forced["forced_bos_token_id"] = rng.choice(words)
    groups = [
        {"repetition_penalty": rng.choice([0.8, 1.2, 2.0])},
        {"presence_penalty": rng.choice([-0.5, 0.7]), "frequency_penalty": 0.3},
        {"no_repeat_ngram_size": rng.choice([1, 2, 3])},
        {"encoder_no_repeat_ngram_size": rng.choice([1, 2])},
        {"bad_words_ids": [[words[0]], words[1:3], *([end] for end in ends)]} if len(words) > 2 else {},
        {"suppress_tokens": rng.sample(met, 1)},
        {"begin_suppress_tokens": [met[0], *rng.sample(range(N_VOCAB - 1), 40)]},
        {"exponential_decay_length_penalty": [rng.randint(0, length), rng.choice([0.9, 1.1, 1.7])]}
        if ends
        else {},
        {"renormalize_logits": True},
        {"logit_bias": {str(rng.choice(met)): rng.uniform(-3, 3) for _ in range(3)}},
        {"allowed_token_ids": sorted({*rng.sample(range(N_VOCAB - 1), 40), *met[:10]})},
        {"bad_words": [chr(words[0]), chr(words[1]) + chr(words[2])]} if len(words) > 2 else {},
        {"min_tokens": rng.randint(0, length - 1)},
        {"stop": [chr(rng.choice(met)), chr(rng.choice(met)) + chr(rng.choice(met))]},
        forced,
        {"logits_processors": ["dislike_even"]},
    ]
    options = {name: value for group in groups if rng.random() < 0.3 for name, value in group.items()}
    if "min_tokens" in options:  # stop strings of transformers know nothing of it
        options.pop("stop", None)
    if set(options.get("suppress_tokens", ())) & set(forced.values()):  # what transformers refuses
        options.pop("suppress_tokens")
    if "bad_words_ids" in options:
        options.pop("bad_words", None)
    late = {"exponential_decay_length_penalty", "renormalize_logits"}  # before which transformers calls them
    if {"repetition_penalty", *late, *forced} & set(options):
        options.pop("logits_processors", None)
    if set(forced) & set(options):
        options = {name: value for name, value in options.items() if "presence" not in name}
        options.pop("frequency_penalty", None)
    return options


def differs(model: transformers.PreTrainedModel, seed: int) -> str | None:
    """What differs in the search of this seed; None if nothing, or nothing is to be compared."""
    rng = random.Random(seed)
    prompt = [rng.randint(1, N_VOCAB - 2) for _ in range(rng.choice([1, 1, 3, 17, 40]))]
    length = rng.choice([1, 2, 5, 12, 20])
    searching = {"num_beams": rng.choice([2, 3, 4, 5, 8]), "max_new_tokens": length}
    met = [token for ids in golden(model, prompt, [], **searching)["sequences"] for token in ids]
    ends = list(dict.fromkeys(rng.choice(met) for _ in range(rng.choice([0, 1, 2, 3]))))
    options = some_options(rng, met, ends, len(prompt), length)
    how = {
        "length_penalty": rng.choice([1.0, 0.0, 0.6, 2.5, -1.0]),
        "early_stopping": rng.choice([False, True, "never"]),
    }
    try:
        expected = golden(model, prompt, ends, options, **searching, **how)
    except AssertionError:  # placeholders
        return None
    engine = make_engine(model=built("llama"))
    handle = engine.submit(prompt, asked(expected))
    drain(engine)
    try:
        check(expected, handle)
    except AssertionError as error:
        return f"seed {seed}: {how | options}: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(FAMILIES["llama"](format="f32"), Path(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    found = [differs(model, seed) for seed in range(options.seed, options.seed + options.runs)]
    problems = [problem for problem in found if problem is not None]
    print(*problems[:5], f"{len(problems)} of {options.runs} searches differ", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
