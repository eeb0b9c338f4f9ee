"""What transformers' classes set anew in a tokenizer that they read from tokenizer.json."""

from __future__ import annotations

import pytest

from hostile.tokenizers import DOCUMENTS
from tiny_tokenizers import of_document
from tuili.errors import TokenizerError
from tuili.tokenization.tokenizer import Tokenizer

BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}


def words(settings: dict[str, object], *, lowercase: bool) -> Tokenizer:
    document = DOCUMENTS["word piece"]()
    document["normalizer"] = BERT | {"lowercase": lowercase}
    return of_document(document, config=settings)


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "MPNetTokenizer"])
@pytest.mark.parametrize("of_file", [True, False])
def test_a_class_of_words_goes_before_the_file(name, of_file):
    def normalized(text: str, **settings: object) -> str:
        made = words({"tokenizer_class": name} | settings, lowercase=of_file)
        return str(made.loaded.backend.normalizer.normalize_str(text))

    assert normalized("CAFÉ 京") == "cafe  京 "
    assert normalized("CAFÉ 京", do_lower_case=False) == "CAFÉ  京 "
    assert normalized("CAFÉ", do_lower_case=False, strip_accents=True) == "CAFE"
    assert normalized("CAFÉ", strip_accents=False) == "café"
    assert normalized("京京", tokenize_chinese_chars=False) == "京京"


@pytest.mark.parametrize("of_file", [True, False])
def test_a_class_of_bytes_goes_before_the_file(of_file):
    def pieces(**settings: object) -> list[str]:
        document = DOCUMENTS["byte level"]()
        document["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": of_file, "trim_offsets": True}
        backend = of_document(document, config=settings).loaded.backend
        return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("ab")]

    for name in ("RobertaTokenizer", "GPT2TokenizerFast"):
        assert pieces(tokenizer_class=name) == ["ab"]
        assert pieces(tokenizer_class=name, add_prefix_space=True) == ["Ġab"]
    assert pieces(tokenizer_class="PreTrainedTokenizerFast", add_prefix_space=not of_file) == (
        ["Ġab"] if of_file else ["ab"]
    )


def test_no_other_class_does_and_a_wrong_setting_is_an_error():
    plain = words({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, lowercase=True)
    assert plain.loaded.backend.normalizer.normalize_str("A") == "a"
    for settings in ({"do_lower_case": "no"}, {"strip_accents": 1}, {"tokenize_chinese_chars": []}):
        with pytest.raises(TokenizerError, match=next(iter(settings))):
            words({"tokenizer_class": "BertTokenizer"} | settings, lowercase=True)


def test_lines_become_spaces_as_version_5_writes_it_for_pegasus():
    document = DOCUMENTS["unigram"]()
    steps = [{"type": "Replace", "pattern": {"Regex": x}, "content": " "} for x in (r"\n", " {2,}")]
    document["normalizer"] = {"type": "Sequence", "normalizers": steps}
    backend = of_document(document).loaded.backend
    assert backend.normalizer.normalize_str("a\n\nb") == "a b"
