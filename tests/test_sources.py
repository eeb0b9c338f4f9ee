"""How long the texts may be that an encoder-decoder reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuili
from seq2seq_models import by_name, source_ids, write
from tuili import PromptTooLongError


@pytest.mark.parametrize("asked, n", [(None, 80), (64, 64), (48, 48)])
def test_an_encoder_may_read_more_than_is_written(asked: int | None, n: int, tmp_path: Path) -> None:
    """LED's reads 80 tokens, its decoder writes 64; max_model_len bounds both where it is given."""
    folder = write(by_name("LEDFor"), tmp_path)
    with tuili.LLM(folder, packed_cache=False, num_threads=1, max_num_seqs=2, max_model_len=asked) as llm:
        assert llm.config["max_source_len"] == n and llm.config["max_model_len"] == (asked or 64)
        assert len(llm.generate(source_ids(n), max_tokens=3, ignore_eos=True).outputs[0].token_ids) == 3
        with pytest.raises(PromptTooLongError, match=f"max_source_len is {n}"):
            llm.generate(source_ids(n + 1))
