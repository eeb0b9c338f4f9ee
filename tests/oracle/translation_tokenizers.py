"""Makes tests/goldens/translation_tokenizers.json: what transformers makes of translation_folders.py.

cd tests && PYTHONPATH=../python python -m oracle.translation_tokenizers

Needs transformers and sentencepiece.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from slow_tokenizers import write
from translation_folders import FOLDERS, GOLDEN_FILE, OTHER, TEXTS


def main() -> None:
    from transformers import AutoTokenizer

    results = {}
    for name, slow in FOLDERS.items():
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = AutoTokenizer.from_pretrained(write(slow, Path(folder)))
        result = {
            "class": type(tokenizer).__name__,
            "texts": [tokenizer(text)["input_ids"] for text in TEXTS],
        }
        if name.startswith("marian"):
            result["targets"] = [tokenizer(text_target=text)["input_ids"] for text in TEXTS]
        if name in OTHER:
            tokenizer.src_lang = OTHER[name]
            result["other"] = tokenizer("The cat 你好")["input_ids"]
        ids = tokenizer("The cat sat, 你好 world!", add_special_tokens=False)["input_ids"]
        result["decoded"] = [ids, tokenizer.decode(ids, skip_special_tokens=True)]
        results[name] = result
    GOLDEN_FILE.write_text(
        json.dumps(results, ensure_ascii=False, separators=(",", ":")).replace("},", "},\n")
    )
    print({name: result["class"] for name, result in results.items()}, GOLDEN_FILE.stat().st_size)


if __name__ == "__main__":
    main()
