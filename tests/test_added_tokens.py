"""Tokens that tokenizer_config.json and its kin add to a tokenizer.json."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from added_token_files import files, texts
from hostile.tokenizers import DOCUMENTS
from tiny_tokenizers import of_document
from tuili.errors import TokenizerError
from tuili.loading.model_source import _tokenizer_files
from tuili.loading.opening import from_files
from tuili.loading.tokenizers import added_tokens
from tuili.tokenization.tokenizer import Tokenizer

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "added_tokens.json").read_text("utf-8"))


def answer(seed: int) -> dict[str, Any]:
    """As oracle/added_tokens.py has transformers answer."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files(seed).items():
            (Path(folder) / name).write_text(json.dumps(content), "utf-8")
        loaded = from_files(_tokenizer_files(folder, None, "gpt2"))
    tokenizer = Tokenizer(loaded)
    roles = {role: getattr(loaded, f"{role}_id") for role in ("pad", "bos", "unk", "cls", "mask")}
    roles["eos"] = loaded.eos_ids[0] if loaded.eos_ids else None
    return {
        "texts": [tokenizer.encode(text) for text in texts(seed)],
        "vocabulary": [loaded.text_of(i) for i in range(loaded.n_vocab)],
        "special": sorted(loaded.special),
        "roles": {role: i for role, i in roles.items() if i is not None},
    }


@pytest.mark.parametrize("seed", range(len(GOLDENS)))
def test_files_beside_tokenizer_json_add_what_transformers_adds(seed: int) -> None:
    assert answer(seed) == GOLDENS[seed]


def test_an_added_token_without_a_row_of_the_model_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    document = DOCUMENTS["byte level"]()  # of 13 tokens
    config = {"pad_token": "<pad>", "eos_token": "</s>", "extra_special_tokens": ["<x>", "<y>"]}
    loaded = of_document(document, config=config, n_vocab=14).loaded
    assert (loaded.pad_id, loaded.n_vocab, loaded.eos_ids) == (13, 14, (1,))
    assert "no rows for added tokens, which are left out: <x>, <y>" in caplog.text
    loaded = of_document(document, config=config, n_vocab=13).loaded
    assert (loaded.pad_id, loaded.n_vocab, loaded.eos_ids) == (None, 13, (1,))


def test_another_id_than_the_listed_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    listed = {str(40 + i): {"content": f"<x{i}>"} for i in range(10)}
    config = {"added_tokens_decoder": listed}
    assert of_document(DOCUMENTS["byte level"](), config=config).encode("<x1>")[1:] == [14]
    (said,) = caplog.messages
    assert "<x0> has the id 13, not 40, <x1> has" in said and said.endswith("and 2 more")


def test_special_tokens_are_compared_once_each() -> None:
    """Not with one another: a file of a few MiB names hundreds of thousands."""

    class Counted(str):
        n = 0

        def __eq__(self, other: object) -> bool:
            Counted.n += 1
            return str(self) == other

        __hash__ = str.__hash__

    names = [Counted(f"<x{i}>") for i in range(500)]
    loaded = of_document(DOCUMENTS["byte level"](), config={"extra_special_tokens": names}).loaded
    assert loaded.n_vocab == 513 and Counted.n < 10 * len(names)


def test_an_added_token_takes_no_other_tokens_id() -> None:
    """The library gives it the number of tokens, which a vocabulary with gaps may have as an id."""
    document = DOCUMENTS["byte level"]()
    document["added_tokens"] = []
    vocab = document["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] = len(vocab)
    with pytest.raises(TokenizerError, match="another token claim id") as caught:
        of_document(document, config={"pad_token": "<pad>"})
    assert caught.value.code == "added_token_id"
    vocab[last] += 1
    assert of_document(document, config={"pad_token": "<pad>"}).loaded.pad_id == len(vocab)


def test_added_tokens_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added_tokens, "MAX_ADDED_TOKENS", 4)
    document = DOCUMENTS["byte level"]()
    n_more = 4 - len(document["added_tokens"])
    names = [f"<x{i}>" for i in range(n_more + 1)]
    of_document(document, config={"extra_special_tokens": names[:n_more]})
    with pytest.raises(TokenizerError) as caught:
        of_document(document, config={"extra_special_tokens": names})
    assert caught.value.code == "tokenizer_limit"


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "<x>"}}},
        {"added_tokens_decoder": {"13": "<x>"}},
        {"added_tokens_decoder": {"13": {"content": "<x>", "lstrip": 1}}},
        {"added_tokens_decoder": {"13": {"content": "x" * 5000}}},
        {"extra_special_tokens": "<x>"},
        {"extra_special_tokens": {"image": []}},
        {"additional_special_tokens": [3]},
        {"pad_token": {"content": "<x>", "normalized": None}},
    ],
)
def test_what_is_no_added_token_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError) as caught:
        of_document(DOCUMENTS["byte level"](), config=config)
    assert caught.value.code == "tokenizer_field"


@pytest.mark.parametrize("older", [[], {"<x>": "13"}, {"<x>": True}])
def test_an_added_tokens_file_of_something_else_is_refused(older: Any) -> None:
    with pytest.raises(TokenizerError) as caught:
        of_document(DOCUMENTS["byte level"](), older=older)
    assert caught.value.code == "tokenizer_field"
