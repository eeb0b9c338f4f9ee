"""What sentence-transformers gives for tests/sentence_folders.py: tests/goldens/sentences.json.

python tests/oracle/sentence_goldens.py      (needs sentence-transformers)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from sentence_folders import FOLDERS, STATIC, TEXTS, Sentences, write

GOLDENS = Path(__file__).parents[1] / "goldens" / "sentences.json"


def main() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util.quantization import quantize_embeddings

    results = {}
    for name, asked in (FOLDERS | dict.fromkeys(STATIC, Sentences({}))).items():
        options = dict(asked.options)
        with tempfile.TemporaryDirectory() as folder:
            model = SentenceTransformer(str(write(name, Path(folder))), device="cpu")
        vectors = model.encode(
            TEXTS, batch_size=1, truncate_dim=options.get("truncate_dim"),
            prompt_name=options.get("prompt_name"),
            normalize_embeddings=options.get("normalize", False),
        )  # fmt: skip
        results[name] = [[float(f"{x:.7g}") for x in row] for row in vectors]
    sample = np.array(results["cls"], np.float32)
    ranges = np.stack([sample.min(0), sample.max(0)])
    codes = {
        precision: quantize_embeddings(sample, precision=precision, ranges=ranges).tolist()
        for precision in ("int8", "uint8", "binary", "ubinary")
    }
    both = {"vectors": results, "codes": codes}
    GOLDENS.write_text(json.dumps(both, separators=(",", ":")) + "\n")
    print(len(results), GOLDENS.stat().st_size)


if __name__ == "__main__":
    main()
