"""Makes tests/goldens/added_tokens.json: what transformers makes of the files of added_token_files.py.

PYTHONPATH=python python tests/oracle/added_tokens.py [--runs N]     (needs transformers)

More runs than the golden's are compared with tuili's and not written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from added_token_files import files, texts

GOLDENS = Path(__file__).parents[1] / "goldens" / "added_tokens.json"
N_GOLDEN = 60


def golden(seed: int) -> dict[str, Any]:
    """ids of the texts, every token's text, the ids that are special, and those with a role."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files(seed).items():
            (Path(folder) / name).write_text(json.dumps(content), "utf-8")
        (Path(folder) / "config.json").write_text('{"model_type": "gpt2"}')
        found = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(found).__name__ == "TokenizersBackend", type(found)
    roles = {role: getattr(found, f"{role}_token_id") for role in ("bos", "eos", "pad", "unk", "cls", "mask")}
    everything = range(len(found.get_vocab()))
    return {
        "texts": [found(text)["input_ids"] for text in texts(seed)],
        "vocabulary": [found.convert_ids_to_tokens(i) for i in everything],
        "special": [i for i in everything if not found.backend_tokenizer.decode([i])],
        "roles": {role: i for role, i in roles.items() if i is not None},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=N_GOLDEN)
    runs = parser.parse_args().runs
    if runs <= N_GOLDEN:
        lines = ",\n".join(json.dumps(golden(seed), ensure_ascii=False) for seed in range(N_GOLDEN))
        GOLDENS.write_text(f"[\n{lines}\n]\n", "utf-8")
        return
    from test_added_tokens import answer

    different = [seed for seed in range(runs) if answer(seed) != golden(seed)]
    print(len(different), "of", runs, "differ:", different[:10])


if __name__ == "__main__":
    main()
