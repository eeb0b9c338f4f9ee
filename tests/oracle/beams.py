"""Write tests/goldens/beams.json: transformers' beam search on a tiny Llama with random weights.

    cd tests && PYTHONPATH=../python python -m oracle.beams

Needs torch and transformers. Ends of text are tokens that the search without them meets, so that they matter.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import torch
import transformers

from tiny_files import write_hf_folder
from tiny_models import FAMILIES

GOLDEN = Path(__file__).resolve().parent.parent / "goldens" / "beams.json"
PROMPTS = {n: [(7 * i + n) % 299 + 1 for i in range(n)] for n in (1, 16, 17, 45)}
WIDTHS, PENALTIES, LENGTHS = (2, 3, 4, 8), (1.0, 0.0, 2.5, -1.0), (1, 9, 24)


def search(model: transformers.PreTrainedModel, prompt: list[int], **options: object) -> tuple[list, list]:
    """Token ids without the prompt, and scores, best first."""
    ends = options.pop("eos_token_id")
    result = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        generation_config=transformers.GenerationConfig(
            **options,
            do_sample=False,
            num_return_sequences=options["num_beams"],
            eos_token_id=ends or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        ),
    )
    sequences = []
    for row in result.sequences[:, len(prompt) :].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        sequences.append(row[: end + 1])
    return sequences, [round(score, 7) for score in result.sequences_scores.tolist()]


def main() -> None:
    goldens = []
    with tempfile.TemporaryDirectory() as folder:
        write_hf_folder(FAMILIES["llama"](format="f32"), Path(folder))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = None  # the cases have their own
    cases = itertools.product(PROMPTS, WIDTHS, PENALTIES, LENGTHS, (False, True), (0, 1, 2))
    for i, (n_prompt, width, penalty, length, early, n_ends) in enumerate(cases):
        if i % 7:  # some of all combinations
            continue
        options = {"num_beams": width, "max_new_tokens": length}
        free, _ = search(model, PROMPTS[n_prompt], **options, eos_token_id=[])
        ends = [free[0][length // 2], free[-1][length // 3]][:n_ends]
        options |= {"length_penalty": penalty, "early_stopping": early, "eos_token_id": ends}
        sequences, scores = search(model, PROMPTS[n_prompt], **options)
        goldens.append({"prompt": PROMPTS[n_prompt], **options, "sequences": sequences, "scores": scores})
    GOLDEN.write_text(json.dumps(goldens, separators=(",", ":")).replace("},{", "},\n{") + "\n", "utf-8")


if __name__ == "__main__":
    main()
