"""What transformers' pipelines give for tests/pipeline_cases.py: tests/goldens/pipelines.json.

python tests/oracle/pipeline_goldens.py      (needs torch and transformers)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from encoder_models import CASES, write_folder
from pipeline_cases import CALLS, DOCUMENT, QUESTION, QUESTIONS

GOLDENS = Path(__file__).parents[1] / "goldens" / "pipelines.json"


def plain(value: Any) -> Any:
    """Numbers as Python's, floats to 7 digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.7g}")
    return value.item() if isinstance(value, np.generic) else value


def answer(model: Any, tokenizer: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Version 4's question answering: every span of every window, all scores in one table."""
    import torch

    top_k, longest = options.get("top_k", 1), options.get("max_answer_len", 15)
    length = options.get("max_seq_len", 40)
    windows = tokenizer(
        QUESTION, DOCUMENT, truncation="only_second", max_length=length,
        stride=options.get("doc_stride", min(length // 2, 128)), return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    aligned = options.get("align_to_words", True)
    found, none = [], 1e6
    for i, ids in enumerate(windows["input_ids"]):
        encoding = windows.encodings[i]
        with torch.no_grad():
            got = model(
                input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([windows["token_type_ids"][i]])
            )
        inside = np.array([part == 1 for part in encoding.sequence_ids])
        probabilities = []
        for logits in (got.start_logits[0].double().numpy(), got.end_logits[0].double().numpy()):
            hidden = np.where(inside | (np.arange(len(ids)) == 0), logits, -10000.0)
            exps = np.exp(hidden - hidden.max())
            probabilities.append(exps / exps.sum())
        start, end = probabilities
        none = min(none, start[0] * end[0])
        start[0] = end[0] = 0
        table = np.tril(np.triu(np.outer(start, end)), longest - 1)
        for flat in np.argsort(-table, axis=None, kind="stable")[: 2 * top_k + 10 if aligned else top_k]:
            first, last = np.unravel_index(flat, table.shape)
            if not (inside[first] and inside[last]):
                continue
            if aligned:
                a = encoding.word_to_chars(encoding.token_to_word(int(first)), 1)[0]
                b = encoding.word_to_chars(encoding.token_to_word(int(last)), 1)[1]
            else:
                a, b = encoding.offsets[first][0], encoding.offsets[last][1]
            text = DOCUMENT[a:b]
            same = [other for other in found if other["answer"].lower() == text.lower()]
            if same:
                same[0]["score"] += table[first, last]
            else:
                found.append({"score": table[first, last], "start": a, "end": b, "answer": text})
    if options.get("handle_impossible_answer"):
        found.append({"score": none, "start": 0, "end": 0, "answer": ""})
    return sorted(found, key=lambda item: -item["score"])[:top_k]


def main() -> None:
    import transformers

    made: dict[str, tuple[Any, Any]] = {}

    def of(name: str) -> tuple[Any, Any]:
        if name not in made:
            with tempfile.TemporaryDirectory() as folder:
                path = write_folder(CASES[name], Path(folder))
                tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path, model_max_length=40)
                if CASES[name].types is not None:
                    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
                model = getattr(transformers, name).from_pretrained(path)
                made[name] = model.eval(), tokenizer
        return made[name]

    results = []
    for name, task, args, kwargs in CALLS:
        model, tokenizer = of(name)
        pipe = transformers.pipeline(task, model=model, tokenizer=tokenizer)
        results.append(plain(pipe(*args, **kwargs)))
    model, tokenizer = of("BertForQuestionAnswering")
    answers = [plain(answer(model, tokenizer, options)) for options in QUESTIONS]
    both = {"calls": results, "questions": answers}
    GOLDENS.write_text(json.dumps(both, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(results)} calls, {len(answers)} questions, {GOLDENS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
