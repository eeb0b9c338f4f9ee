"""An encoder-decoder under a task head: the encoder reads a text, and the decoder reads it once more, shifted
by a token, so that each token's row has seen all of it."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures.encoders import head_names, task_head
from tuili.loading.config import MAX_MODEL, MAX_VOCAB, Config
from tuili.loading.heads import AnswerRow

_WORDS = "ForConditionalGeneration"
# A class -> the one with a head for words.
STEMS = ("Bart", "MBart", "Mvp", "T5", "MT5", "UMT5")
ENDS = ("ForSequenceClassification", "ForQuestionAnswering")
ALONE = (*STEMS, "Pegasus", "M2M100", "Marian", "PLBart", "Blenderbot", "LongT5", "LED")  # with Model
CLASSES = {f"{stem}{end}": f"{stem}{_WORDS}" for stem in STEMS for end in ENDS}
CLASSES |= {f"PLBart{ENDS[0]}": f"PLBart{_WORDS}", f"LED{ENDS[1]}": f"LED{_WORDS}"}
CLASSES |= {f"{stem}Model": f"{stem}{_WORDS}" for stem in ALONE} | {"MarianModel": "MarianMTModel"}
_HEADS = {
    "sequence": {"classification_head.dense": "dense", "classification_head.out_proj": "out"},
    "spans": {"qa_outputs": "out"},
}
_PREFIX = re.compile(r"(model|transformer|led)\.")  # of names, in some classes


class HeadedSeq2seq:
    """What the loader asks of an architecture's file, answered by an encoder-decoder's file."""

    def __init__(self, both: ModuleType, name: str) -> None:
        self._both, self._name = both, name
        known = (re.sub(r"^(model|led)\\\.", "", pattern) for pattern in both.IGNORED_TENSORS)
        self.IGNORED_TENSORS = (
            *(f"(model|transformer|led)?\\.?({pattern})" for pattern in known),
            r"lm_head\..*",
            r"final_logits_bias",
        )
        # With decoder_start_token_id; mBART's and PLBart's begin with their own last token.
        self.BEGINS_TEXTS = not name.startswith(("MBart", "PLBart"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._both, name)

    def spec(self, config: Config) -> ModelSpec:
        """The decoder's, without its words."""
        if self.BEGINS_TEXTS:
            config.integer("decoder_start_token_id", 0, MAX_VOCAB)
        width = config.integer("d_model", 1, MAX_MODEL)
        shapes: dict[str, Any] = {"sequence": {"d_inner": width, "activation": "tanh"}, "spans": {}}
        if not config.flag("share_encoder_decoder_embeddings", True):
            raise ModelUnsupportedError(
                f"{config.what}: share_encoder_decoder_embeddings is false: a decoder with words of its own "
                "cannot read the encoder's text once more",
                code="config_unsupported",
            )
        both: ModelSpec = self._both.spec(self._as_writer(config))
        return both.without_words(task_head(config, shapes))

    def answer_row(self, config: Config) -> AnswerRow:
        """That of a text's last end."""
        ids = config.token_ids("eos_token_id", MAX_VOCAB)
        if not ids:
            raise config.wrong("eos_token_id", "the token that ends a text, whose row the head reads")
        return AnswerRow("end", ids)

    def tensor_names(self, config: Config) -> dict[str, Any]:
        """The encoder-decoder's names with any prefix or none; and the head's."""
        theirs = self._both.tensor_names(self._as_writer(config))
        bare = {_PREFIX.sub("", name, count=1): ours for name, ours in theirs.items()}
        names = {
            before + name: ours
            for before in ("", "model.", "transformer.", "led.")
            for name, ours in bare.items()
        }
        return names | head_names(config, _HEADS)

    def _as_writer(self, config: Config) -> Config:
        """The configuration of the same layers with a head for words, whose tensors have its prefix."""
        before = "" if "T5" in self._name else "model."
        writer = Config({**config.values, "architectures": [self._name]}, config.what, config.names)
        writer.defaults = config.defaults
        writer.tensors = {before + _PREFIX.sub("", name, count=1) for name in config.tensors}
        return writer
