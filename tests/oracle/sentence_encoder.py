"""all-MiniLM-L6-v2 in transformers: BertModel in float32, mean pooling, L2 normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

MAX_TOKENS = 256  # max_seq_length of sentence_bert_config.json; it overrides the 128 of tokenizer.json


class SentenceEncoder:
    """The model of a Hugging Face folder, one sentence at a time, so that no padding is involved."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        transformers.utils.logging.disable_progress_bar()
        self._model = transformers.BertModel.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        ).eval()

    def encode(self, text: str) -> list[int]:
        """Token ids with [CLS] and [SEP]; ValueError beyond MAX_TOKENS."""
        ids = self.tokenizer.encode(text).ids
        if len(ids) > MAX_TOKENS:
            raise ValueError(f"a text of {len(ids)} tokens; the model takes {MAX_TOKENS}")
        return ids

    def embed(self, text: str) -> np.ndarray:
        """The unit vector of a text, float32 [d_model]."""
        with torch.inference_mode():
            hidden = self._model(torch.tensor([self.encode(text)])).last_hidden_state[0]
            return torch.nn.functional.normalize(hidden.mean(dim=0), dim=0).numpy()

    def passage(self, text: str, start: int, n_tokens: int) -> str:
        """The part of `text` that its tokens start … start + n_tokens - 1 cover, without special tokens."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return text[offsets[start][0] : offsets[start + n_tokens - 1][1]]
