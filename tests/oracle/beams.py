"""Write tests/goldens/beams.json: transformers' beam search on a tiny Llama with random weights.

    cd tests && PYTHONPATH=../python python -m oracle.beams

Needs torch and transformers. Ends of text are tokens that the search without them meets, so that they matter.
The `options` of a golden are tuili's; what transformers lacks (presence and frequency penalties, stop strings
without a tokenizer) is given to its search as a logits processor or stopping criterion. A text is its tokens'
characters, as in tiny_engine.py.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import torch
import transformers

from tiny_files import write_hf_folder
from tiny_models import FAMILIES, N_VOCAB

GOLDEN = Path(__file__).resolve().parent.parent / "goldens" / "beams.json"
PROMPTS = {n: [(7 * i + n) % 299 + 1 for i in range(n)] for n in (1, 16, 17, 45)}
WIDTHS, PENALTIES, LENGTHS = (2, 3, 4, 8), (1.0, 0.0, 2.5, -1.0), (1, 9, 24)


def search(
    model: transformers.PreTrainedModel, prompt: list[int], ends: list[int], *, calls: dict, **config: object
) -> transformers.generation.GenerateBeamDecoderOnlyOutput:
    """All beams, best first. calls: what transformers takes as functions."""
    return model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        generation_config=transformers.GenerationConfig(
            **config,
            do_sample=False,
            num_return_sequences=config["num_beams"],
            eos_token_id=ends or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        ),
        **calls,
    )


def golden(
    model: transformers.PreTrainedModel,
    prompt: list[int],
    ends: list[int],
    options: dict | None = None,
    **searching: object,
) -> dict:
    """The case with transformers' answer: token ids without the prompt, scores, log-probabilities of the best
    one's tokens.
    """
    config, calls = in_their_terms(options or {}, len(prompt))
    result = search(model, prompt, ends, calls=calls, **searching, **config)
    assert result.sequences_scores.min() > -1e8, "a placeholder of a sequence"
    lengths = (result.beam_indices >= 0).sum(dim=1).tolist()
    sequences = [row[len(prompt) :][:n] for row, n in zip(result.sequences.tolist(), lengths, strict=True)]
    logprobs = [torch.log_softmax(logits, dim=-1) for logits in result.logits]
    own = [
        logprobs[i][beam, token].item()
        for i, (beam, token) in enumerate(zip(result.beam_indices[0].tolist(), sequences[0], strict=False))
    ]
    scores = [round(score, 7) for score in result.sequences_scores.tolist()]
    case = {"prompt": prompt, **searching, "eos_token_id": ends, "sequences": sequences, "scores": scores}
    return case if options is None else case | {"options": options, "logprobs": [round(x, 5) for x in own]}


# --- tuili's options in transformers' terms -----------------------------------------------------------------


def in_their_terms(options: dict, n_prompt: int) -> tuple[dict, dict]:
    """Fields of GenerationConfig, and functions."""
    left = dict(options)
    config = {name: left.pop(name) for name in SAME if name in left}
    calls, processors, criteria = {}, [], []
    if "min_tokens" in left:
        config["min_new_tokens"] = left.pop("min_tokens")
    if "logit_bias" in left:
        config["sequence_bias"] = [[[int(i)], bias] for i, bias in left.pop("logit_bias").items()]
    if "bad_words" in left:  # at the beginning of a text and after a space
        words = [[ord(c) for c in word] for word in left.pop("bad_words")]
        config["bad_words_ids"] = [*words, *([32, *word] for word in words)]
    if "allowed_token_ids" in left:
        allowed = left.pop("allowed_token_ids")
        calls["prefix_allowed_tokens_fn"] = lambda batch, ids: allowed
    penalties = {name: left.pop(name) for name in ("presence_penalty", "frequency_penalty") if name in left}
    if penalties:
        processors.append(lambda ids, scores: openai_penalties(ids[:, n_prompt:], scores, **penalties))
    if left.pop("logits_processors", None):
        processors.append(dislike_even)
    if "stop" in left:
        stops = left.pop("stop")
        criteria.append(lambda ids, scores: torch.tensor([ends_now(row[n_prompt:], stops) for row in ids]))
    assert not left, f"no terms for {left}"
    calls["logits_processor"] = transformers.LogitsProcessorList(processors)
    calls["stopping_criteria"] = transformers.StoppingCriteriaList(criteria)
    return config, calls


SAME = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "renormalize_logits",
)


def openai_penalties(
    ids: torch.Tensor, scores: torch.Tensor, presence_penalty: float = 0.0, frequency_penalty: float = 0.0
) -> torch.Tensor:
    """Source: OpenAI's API reference. ids: those generated."""
    counts = torch.zeros_like(scores).scatter_add_(1, ids, torch.ones_like(ids, dtype=scores.dtype))
    return scores - presence_penalty * (counts > 0) - frequency_penalty * counts


def dislike_even(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """What test_beam.py's processor does."""
    return scores - 2.0 * (torch.arange(N_VOCAB) % 2 == 0)


def ends_now(ids: torch.Tensor, stops: list[str]) -> bool:
    """Whether the last token completes a stop string."""
    text = "".join(map(chr, ids.tolist()))
    return any(text.endswith(stop) for stop in stops)


# --- cases --------------------------------------------------------------------------------------------------


def plain_cases(model: transformers.PreTrainedModel) -> list[dict]:
    cases = itertools.product(PROMPTS, WIDTHS, PENALTIES, LENGTHS, (False, True), (0, 1, 2))
    goldens = []
    for i, (n_prompt, width, penalty, length, early, n_ends) in enumerate(cases):
        if i % 7:  # some of all combinations
            continue
        prompt, searching = PROMPTS[n_prompt], {"num_beams": width, "max_new_tokens": length}
        free = golden(model, prompt, [], **searching)["sequences"]
        ends = [free[0][length // 2], free[-1][length // 3]][:n_ends]
        how = {"length_penalty": penalty, "early_stopping": early}
        goldens.append(golden(model, prompt, ends, **searching, **how))
    return goldens


def option_cases(model: transformers.PreTrainedModel) -> list[dict]:
    """One or two searches with each option, and with several; the tokens they name are met without them."""
    goldens = []
    for i, (n_prompt, width) in enumerate(((1, 4), (16, 3), (45, 8))):
        prompt = PROMPTS[n_prompt]
        searching = {"num_beams": width, "max_new_tokens": 12}
        [best, *_, worst] = golden(model, prompt, [], **searching)["sequences"]
        ends = [best[6], worst[8]]
        longest = max(golden(model, prompt, ends, **searching)["sequences"], key=len)
        bias = {str(best[0]): -3.0, str(best[4]): 2.5, "7": 1.5}
        each = [
            {"repetition_penalty": 1.3},
            {"presence_penalty": 0.7, "frequency_penalty": 0.4},
            {"no_repeat_ngram_size": 2},
            {"logit_bias": bias},
            {"allowed_token_ids": sorted({*range(3, 300, 11), *best[:5]})},
            {"bad_words": [chr(longest[1]), chr(longest[2]) + chr(longest[3])]},
            {"min_tokens": 9},
            {"stop": [chr(best[3]) + chr(best[4]), chr(worst[5])]},
            {"stop": [chr(c) for c in range(2, 300, 5)]},
            {"forced_eos_token_id": best[6]},
            {"logits_processors": ["dislike_even"]},
            {"repetition_penalty": 1.2, "logit_bias": bias, "stop": [chr(best[5])], "min_tokens": 3},
        ]
        each += [{"forced_bos_token_id": 9, "forced_eos_token_id": best[6]}] if n_prompt == 1 else []
        bans = {"bad_words_ids": [[longest[1]], longest[2:4], ends[:1]], "suppress_tokens": [best[4]]}
        each += [
            {"encoder_no_repeat_ngram_size": 1},
            bans | {"begin_suppress_tokens": [best[0], *range(50)], "renormalize_logits": True},
            {"exponential_decay_length_penalty": [2, 1.3]},
        ]
        for j, options in enumerate(each):
            penalty, early = (1.0, 0.6, -0.5, 2.0)[(i + j) % 4], (False, "never", True)[(i + j) % 3]
            how = {"length_penalty": penalty, "early_stopping": early}
            goldens.append(golden(model, prompt, ends, options, **searching, **how))
        for penalty in (2.0, -1.0):
            how = {"length_penalty": penalty, "early_stopping": "never"}
            goldens.append(golden(model, prompt, ends, {}, **searching, **how))
    return goldens


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(FAMILIES["llama"](format="f32"), Path(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = None  # the cases have their own
    goldens = plain_cases(model) + option_cases(model)
    GOLDEN.write_text(json.dumps(goldens, separators=(",", ":")).replace("},{", "},\n{") + "\n", "utf-8")


if __name__ == "__main__":
    main()
