"""What a tokenizer's class makes of tokenizer.json: its settings go before what that file says, as in
transformers 4 and 5, which both set them anew when they load one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuili.loading.tokenizers.parts import Parts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_OF_WORDS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
_OF_BYTES = (
    *("RobertaTokenizer", "BartTokenizer", "LEDTokenizer", "MvpTokenizer", "LongformerTokenizer"),
    *("DebertaTokenizer", "GPT2Tokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer"),
)


def settle(backend: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Set what the class that tokenizer_config.json names has settings of its own for, or defaults.

    raises  TokenizerError for a setting of another type
    """
    from tokenizers import normalizers, pre_tokenizers

    name = str(settings.get("tokenizer_class")).removesuffix("Fast")
    flag = Parts(settings, {}).flag
    if name in _OF_WORDS and isinstance(backend.normalizer, normalizers.BertNormalizer):
        strip = settings.get("strip_accents")
        backend.normalizer.lowercase = flag("do_lower_case", True)
        backend.normalizer.strip_accents = None if strip is None else flag("strip_accents", True)
        backend.normalizer.handle_chinese_chars = flag("tokenize_chinese_chars", True)
    if name in _OF_BYTES and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        space = flag("add_prefix_space", False)
        backend.pre_tokenizer.add_prefix_space = space
        if hasattr(backend.post_processor, "add_prefix_space"):  # whose offsets know of the space
            backend.post_processor.add_prefix_space = space
