"""Write the small golden files of tests/test_real_models.py from the reference.

    cd tests && python -m oracle.make_goldens --smollm2 FILE.gguf --gemma3 FILE.gguf --minilm FOLDER

Run it again only when the texts below change: the models are pinned, so the answers are too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from . import gguf_decoder, gguf_tokenizer, model_files, texts
from .answers import answer
from .measures import log_softmax
from .sentence_encoder import SentenceEncoder

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
PROMPTS = ("capital", "recipe", "weather")
SENTENCES = slice(0, 40, 5)  # four English, four Chinese
N_GREEDY = 24
N_BEST = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model_files.add_arguments(parser, tuple(model_files.BUILT_IN))
    for model, path in model_files.chosen(parser.parse_args(), tuple(model_files.BUILT_IN)).items():
        golden = _sentences(path) if model == "minilm" else _decoder(path)
        name = "sentences" if model == "minilm" else "answers"
        text = json.dumps(golden, ensure_ascii=False, separators=(",", ":")).replace("},{", "},\n{")
        (GOLDENS / f"{model}_{name}.json").write_text(text + "\n", encoding="utf-8")


def _decoder(path: Path) -> list[dict]:
    """Per prompt: ids, best logits and range of every position, and the greedy continuation."""
    encode, _ = gguf_tokenizer.load(path)
    model = gguf_decoder.load(path)
    goldens = []
    for prompt in (prompt for prompt in texts.prompts() if prompt.name in PROMPTS):
        reference = answer(model, encode(prompt.text), N_GREEDY)
        best = np.argsort(-reference.logits, axis=1, kind="stable")[:, :N_BEST]
        log_sum = reference.logits[:, 0].astype(np.float64) - log_softmax(reference.logits)[:, 0]
        goldens.append(
            {
                "name": prompt.name,
                "text": prompt.text,
                "ids": reference.ids.tolist(),
                "best_ids": best.tolist(),
                "best_logits": _rounded(np.take_along_axis(reference.logits, best, axis=1)),
                "range": _rounded(np.ptp(reference.logits, axis=1)),
                "log_sum_exp": _rounded(log_sum),
                "greedy": reference.greedy.tolist(),
                "gaps": _rounded(reference.gaps),
            }
        )
    return goldens


def _sentences(folder: Path) -> list[dict]:
    """Per sentence: ids and unit vector."""
    encoder = SentenceEncoder(folder)
    return [
        {"text": text, "ids": encoder.encode(text), "vector": _rounded(encoder.embed(text))}
        for text in texts.sentences()[SENTENCES]
    ]


def _rounded(values: np.ndarray) -> list:
    """Nested lists with seven decimals: far below every tolerance of the tests."""
    return np.round(values.astype(np.float64), 7).tolist()


if __name__ == "__main__":
    main()
