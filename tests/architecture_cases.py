"""What a tiny model of `architecture_table.py` is: its settings, and the sizes that they have in common."""

from __future__ import annotations

import dataclasses
from typing import Any

N_VOCAB = 300
WINDOW = 8
COLUMNS = list(range(0, N_VOCAB, 37))  # of the logits, kept in the golden file

_SIZES: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model: the settings of its config.json, and what they try, in words.

    leave_out  regular expression of names, where the architecture's table has two for one tensor
    verified   whose logits it must have: "transformers", or "reference", tests/reference.py
    """

    architecture: str
    tries: str
    config: dict[str, Any]
    leave_out: str = "$."
    verified: str = "transformers"

    @property
    def name(self) -> str:
        """For test ids and golden files."""
        return f"{self.architecture}: {self.tries}"


def cases_of(
    architecture: str, model_type: str, common: dict[str, Any], **tried: dict[str, Any]
) -> list[Case]:
    """A case for each of `tried`, whose settings come on top of `common`, without those in `absent`."""
    fixed = {"architectures": [architecture], "model_type": model_type}
    cases = []
    for tries, settings in tried.items():
        config = fixed | ({} if "n_embd" in common else _SIZES) | common | settings
        for key in config.pop("absent", ()):
            del config[key]
        leave_out, verified = config.pop("leave_out", "$."), config.pop("verified", "transformers")
        cases.append(Case(architecture, tries.replace("_", " "), config, leave_out, verified))
    return cases
