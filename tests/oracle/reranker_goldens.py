"""What sentence-transformers' CrossEncoder gives for tests/reranker_folders.py: tests/goldens/rerankers.json.

python tests/oracle/reranker_goldens.py      (needs sentence-transformers)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reranker_folders import DOCUMENTS, LONG, QUERY, RERANKERS, write

GOLDENS = Path(__file__).parents[1] / "goldens" / "rerankers.json"


def main() -> None:
    from sentence_transformers import CrossEncoder

    results = {}
    for name in RERANKERS:
        with tempfile.TemporaryDirectory() as folder:
            model = CrossEncoder(str(write(name, Path(folder))), device="cpu")
            scores = model.predict([(QUERY, text) for text in (*DOCUMENTS, LONG)], batch_size=1)
        results[name] = [float(f"{x:.7g}") for x in scores]
        print(name, results[name])
    GOLDENS.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
