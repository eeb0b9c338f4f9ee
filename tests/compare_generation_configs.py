"""Generation as the files of well-known models ask for it, in tuili and in transformers: the same sequences.

    python tests/compare_generation_configs.py [NAME …]

Tiny models with random weights hold the generation_config.json, or the old config.json, that the published
ones have. Ids of large vocabularies become small ones, lengths shorter ones. Ends of text, and padding that
is forbidden, become tokens that the search without them meets, so that they matter. Each is asked with
nothing but its files' settings where these draw nothing, and with a few arguments. Exit status 1 if a
sequence differs. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architecture_files
import architecture_table
import seq2seq_models
import tuili
from oracle.table import Table

BART, MBART = "BartForConditionalGeneration", "MBartForConditionalGeneration"
T5 = "T5ForConditionalGeneration"
PEGASUS, M2M100 = "PegasusForConditionalGeneration", "M2M100ForConditionalGeneration"
_BART = {"bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
_ZERO = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
_CNN = _BART | {
    "early_stopping": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 42,
    "min_length": 16,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
}
_DRAWING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "summarization": ("summarize: ", {"early_stopping": True, "length_penalty": 2.0, "max_length": 20,
                                      "min_length": 6, "no_repeat_ngram_size": 3, "num_beams": 4}),
    "translation_en_to_de": ("translate English to German: ",
                             {"early_stopping": True, "max_length": 30, "num_beams": 4}),
}  # fmt: skip

# name -> (class, generation settings, of config.json: old, or in a generation_config.json: new)
PUBLISHED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bart-large-cnn": (BART, _CNN, "new"),
    "distilbart-cnn-12-6": (BART, _CNN, "old"),
    "bart-base": (BART, _BART | {"early_stopping": True, "no_repeat_ngram_size": 3, "num_beams": 4,
                                 "forced_bos_token_id": 0, "forced_eos_token_id": 2}, "new"),
    "blenderbot-400M-distill's": (BART, _BART | {"encoder_no_repeat_ngram_size": 3, "forced_eos_token_id": 2,
                                  "length_penalty": 0.65, "max_length": 40, "min_length": 20,
                                  "no_repeat_ngram_size": 3, "num_beams": 10}, "new"),
    "whisper-tiny's": (BART, _BART | {"begin_suppress_tokens": [220, 1], "max_length": 30,
                                      "suppress_tokens": [*range(3, 90)], "forced_bos_token_id": 95}, "new"),
    "pegasus-xsum": (PEGASUS, _ZERO | {"bos_token_id": 0, "forced_eos_token_id": 1, "length_penalty": 0.6,
                                       "max_length": 34, "num_beams": 8}, "new"),
    "mbart-large-50-many-to-many-mmt": (MBART, _BART | {"early_stopping": True, "forced_eos_token_id": 2,
                                        "max_length": 40, "num_beams": 5}, "new"),
    "m2m100_418M": (M2M100, _BART | {"early_stopping": True, "max_length": 40, "num_beams": 5}, "new"),
    "nllb-200-distilled-600M": (M2M100, _BART | {"max_length": 40}, "new"),
    "opus-mt-zh-en": ("MarianMTModel", {"bad_words_ids": [[299]], "bos_token_id": 0, "num_beams": 6,
                      "decoder_start_token_id": 299, "eos_token_id": 0, "forced_eos_token_id": 0,
                      "max_length": 40, "pad_token_id": 299, "renormalize_logits": True}, "new"),
    "opus-mt-zh-en, old": ("MarianMTModel", {"bad_words_ids": [[299]], "bos_token_id": 0, "num_beams": 6,
                           "decoder_start_token_id": 299, "eos_token_id": 0, "max_length": 40,
                           "pad_token_id": 299}, "old"),
    "t5-small": (T5, _ZERO, "new"),
    "flan-t5-small": ("T5ForConditionalGeneration: gated", _ZERO, "new"),
    "gpt2": ("GPT2LMHeadModel", {"bos_token_id": 256, "eos_token_id": 256}, "new"),
    "Meta-Llama-3-8B-Instruct": ("LlamaForCausalLM", {"bos_token_id": 250, "eos_token_id": [251, 259],
                                 "max_length": 4096, **_DRAWING}, "new"),
    "a decoder with lengths of texts": ("LlamaForCausalLM", {"bos_token_id": 250, "eos_token_id": 251,
                                        "max_length": 64, "min_length": 56}, "new"),
    "Qwen2.5-0.5B-Instruct": ("Qwen2ForCausalLM", {"bos_token_id": 243, "pad_token_id": 243, "top_k": 20,
                              "eos_token_id": [245, 243], "repetition_penalty": 1.1, **_DRAWING}, "new"),
    "Qwen3-0.6B": ("Qwen3ForCausalLM", {"bos_token_id": 243, "pad_token_id": 243, "top_k": 20,
                   "eos_token_id": [245, 243], **_DRAWING}, "new"),
    "gemma-3-1b-it": ("Gemma3ForCausalLM", {"bos_token_id": 2, "cache_implementation": "hybrid",
                      "do_sample": True, "eos_token_id": [1, 106], "pad_token_id": 0, "top_k": 64,
                      "top_p": 0.95}, "new"),
    "Phi-4-mini-instruct": ("Phi3ForCausalLM", {"bos_token_id": 299, "eos_token_id": [220, 299],
                            "pad_token_id": 299}, "new"),
    "gpt-oss-20b": ("GptOssForCausalLM", {"bos_token_id": 298, "do_sample": True,
                    "eos_token_id": [202, 299, 212], "pad_token_id": 299}, "new"),
}  # fmt: skip

SEQ2SEQ_CALLS: list[dict[str, Any]] = [
    {},
    {"num_beams": 1},
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 2, "early_stopping": "never", "length_penalty": 1.5},
    {"max_new_tokens": 9},
    {"min_new_tokens": 12, "max_new_tokens": 20},
    {"forced_bos_token_id": 297},
    {"begin_suppress_tokens": [*range(3, 200)], "encoder_no_repeat_ngram_size": 2},
    {"suppress_tokens": [*range(3, 60)], "exponential_decay_length_penalty": (5, 1.2)},
    {"repetition_penalty": 1.3, "bad_words_ids": [[i] for i in range(100, 200)]},
]
DECODER_CALLS: list[dict[str, Any]] = [
    {"max_new_tokens": 24, "do_sample": False} | more
    for more in (
        {},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
        {"min_new_tokens": 15},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
        {"suppress_tokens": [*range(3, 90)], "begin_suppress_tokens": [*range(90, 200)]},
        {"encoder_no_repeat_ngram_size": 1, "bad_words_ids": [[i] for i in range(100, 200)]},
        {"num_beams": 3, "exponential_decay_length_penalty": (3, 1.3), "renormalize_logits": True},
    )
]


def written(name: str, generation: dict[str, Any], folder: Path) -> Path:
    """The folder of a model with these settings."""
    architecture, _, kind = PUBLISHED[name]
    cases = seq2seq_models.CASES if seq2seq(name) else architecture_table.CASES
    case: Any = next(case for case in cases if case.name.startswith(architecture))
    settings = {**case.config, **({} if kind == "new" else generation)}
    if architecture == T5:
        tasks = {task: {"prefix": prefix, **search} for task, (prefix, search) in _TASKS.items()}
        settings["task_specific_params"] = tasks
    case = dataclasses.replace(case, config=settings)
    write: Callable[..., Path] = seq2seq_models.write if seq2seq(name) else architecture_files.write
    path = write(case, folder)
    if kind == "new":
        (path / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return path


def seq2seq(name: str) -> bool:
    return not PUBLISHED[name][0].endswith(("CausalLM", "LMHeadModel"))


def prompt_of(name: str) -> list[int]:
    return seq2seq_models.source_ids() if seq2seq(name) else architecture_files.token_ids()


def opened(name: str, folder: Path) -> Any:
    import torch
    import transformers

    kind = transformers.AutoModelForSeq2SeqLM if seq2seq(name) else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def theirs(model: Any, prompt: list[int], n_before: int, ends: list[int], call: dict) -> list[list[int]]:
    """Their sequences up to an end of text."""
    import torch

    with torch.no_grad():
        found = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **call)
    sequences = []
    for row in found[:, n_before:].tolist():
        at = next((i for i, token_id in enumerate(row) if token_id in ends), len(row))
        sequences.append(row[: at + 1])
    return sequences


def tasks_that_differ(llm: tuili.LLM, model: Any, ends: list[int]) -> list[str]:
    """Of T5's tasks in config.json those that a pipeline answers otherwise."""
    wrong = []
    for task, (prefix, search) in _TASKS.items():
        ids = llm.tokenizer.encode(f"{prefix}the cat and the dog")
        wanted = theirs(model, ids, 0, ends, search)[0]
        [found] = tuili.pipeline(task, llm)("the cat and the dog", return_tensors=True)
        if [*found.values()] != [wanted]:
            wrong.append(f"{task}: {found} in place of {wanted}")
    return wrong


def listed(ids: int | list[int]) -> list[int]:
    return ids if isinstance(ids, list) else [ids]


def with_ends(generation: dict[str, Any], met: list[int]) -> dict[str, Any]:
    """`generation` with tokens of `met` for its ends and for what it forbids."""
    changed, n_ends = dict(generation), len(listed(generation["eos_token_id"]))
    chosen = list(dict.fromkeys(token_id for token_id in met[4:] if token_id not in met[:4])) or met[-1:]
    ends = (chosen * n_ends)[:n_ends]
    changed["eos_token_id"] = ends if isinstance(generation["eos_token_id"], list) else ends[0]
    if "forced_eos_token_id" in changed:
        changed["forced_eos_token_id"] = ends[0]
    if "bad_words_ids" in changed:
        changed["bad_words_ids"] = [[met[2]]]
    return changed


def differences(name: str, folder: Path) -> tuple[list[str], int, list[str]]:
    """The calls that are answered differently; how many there are; what tuili makes nothing of."""
    generation, prompt = PUBLISHED[name][1], prompt_of(name)
    n_before = 1 if seq2seq(name) else len(prompt)
    free = opened(name, written(name, generation, folder / "free"))
    for key in ("eos_token_id", "forced_eos_token_id", "bad_words_ids", "min_length"):
        setattr(free.generation_config, key, None)
    greedy = {"max_new_tokens": 24, "num_beams": 1, "do_sample": False}
    generation = with_ends(generation, theirs(free, prompt, n_before, [], greedy)[0])
    path = written(name, generation, folder / "whole")
    model = opened(name, path)
    ends = listed(generation["eos_token_id"])
    calls = SEQ2SEQ_CALLS if seq2seq(name) else DECODER_CALLS
    if not seq2seq(name) and "min_length" in generation:
        calls = [{}, {"num_beams": 2}, {"min_new_tokens": 3}, *calls]
    if seq2seq(name) and "max_length" not in generation:  # 20 tokens in transformers, all that fit here
        calls = [{"max_new_tokens": 30} | call for call in calls]
    wrong = []
    with tuili.LLM(path, compute="float32", packed_cache=False, max_num_seqs=16) as llm:
        ignored = [*llm.config["ignored_generation_keys"], *llm.config["warnings"]]
        for call in calls:
            wanted = theirs(model, prompt, n_before, ends, call)
            found = [out.token_ids for out in llm.generate(prompt, **call).outputs]
            if found != wanted:
                wrong.append(f"{name} {call}: {found} in place of {wanted}")
        if PUBLISHED[name][0] == T5:
            wrong += tasks_that_differ(llm, model, ends)
    return wrong, len(calls), ignored


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    table = Table(model=34, calls=6, differ=7, ignored=30)
    for name in PUBLISHED:
        if names and not any(text in name for text in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            wrong, n_calls, ignored = differences(name, Path(folder))
        table.row([name, n_calls, len(wrong), ", ".join(ignored)], passed=not wrong)
        print(*wrong, sep="\n", end="\n" if wrong else "")
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
