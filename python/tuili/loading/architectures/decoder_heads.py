"""Any decoder's layers under a task head, or alone as an embedder: its own file, read as an encoder's."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tuili._core import ModelSpec
from tuili.errors import ModelUnsupportedError
from tuili.loading.architectures.encoders import head_names, task_head
from tuili.loading.config import MAX_VOCAB, Config
from tuili.loading.heads import AnswerRow

# What the name of a class may end in, in the place of a decoder's ForCausalLM or LMHeadModel.
ENDS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")
_HEADS = {
    "sequence": {"score": "out"},
    "tokens": {"score": "out", "classifier": "out"},
    "spans": {"qa_outputs": "out"},
}
# Heads of one label per text have no bias.
_SHAPES: dict[str, dict[str, Any]] = {"sequence": {"out_bias": False}, "tokens": {}, "spans": {}}


class HeadedDecoder:
    """What the loader asks of an architecture's file, answered by a decoder's file."""

    POOLING = "last"

    def __init__(self, decoder: ModuleType, name: str) -> None:
        self._decoder, self._name = decoder, name
        self.IGNORED_TENSORS = (*getattr(decoder, "IGNORED_TENSORS", ()), r"lm_head\..*")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def writer(self, config: Config) -> ModelSpec:
        """The decoder's own, with its words."""
        own = {**config.values, "architectures": [self._name]}
        spec: ModelSpec = self._decoder.spec(Config(own, config.what, config.names))
        return spec

    def spec(self, config: Config) -> ModelSpec:
        """The decoder's, without its words."""
        config.update(architectures=[self._name])
        decoder: ModelSpec = self._decoder.spec(config)
        shapes = self._decoder.head_shapes(config) if hasattr(self._decoder, "head_shapes") else _SHAPES
        if width := decoder.d_embedding:  # what the head reads is mapped to it
            if config.head is None:
                raise ModelUnsupportedError(
                    f"{config.what}: word_embed_proj_dim is not hidden_size = {decoder.d_model}, which goes "
                    "with a head alone",
                    code="config_unsupported",
                )
            shapes = {kind: {"d_inner": width, "dense_bias": False} | more for kind, more in _SHAPES.items()}
        gemma = self._name == "Gemma3ForCausalLM" and config.flag("use_bidirectional_attention", False)
        causal = _is_causal(config, decoder) and not gemma
        return decoder.without_words(task_head(config, shapes), causal=causal)

    def answer_row(self, config: Config) -> AnswerRow:
        """That of the last token, which has seen the whole text, or of the last before those that pad."""
        padding = config.integer("pad_token_id", -1, MAX_VOCAB, None)
        return AnswerRow("unpadded", () if padding is None else (padding,))

    def tensor_names(self, config: Config) -> dict[str, Any]:
        """The decoder's names, whose prefix is another one, or none, in some classes; and the head's."""
        prefixes = (getattr(self._decoder, "BASE_PREFIX", "") or "model.", "model.", "transformer.")
        names: dict[str, Any] = {}
        own = getattr(self._decoder, "tensor_names", None)
        for theirs, ours in (own(config) if own else self._decoder.TENSOR_NAMES).items():
            if not str(ours).startswith(("head", "task_head")):
                base = next((theirs.removeprefix(one) for one in prefixes if theirs.startswith(one)), theirs)
                ours = "task_head.dense" if ours == "embedding_out" else ours
                names |= {before + base: ours for before in ("", *prefixes)}
        return names | head_names(config, getattr(self._decoder, "HEADS", _HEADS))


def _is_causal(config: Config, decoder: ModelSpec) -> bool:
    """Whether no token sees those behind it, by is_causal.

    raises  ModelUnsupportedError if it is false in layers with windows or linear biases
    """
    causal = bool(config.flag("is_causal", True))
    if not causal and any(layer.sliding_window or layer.position_bias >= 0 for layer in decoder.layers):
        raise ModelUnsupportedError(
            f"{config.what}: is_causal is false, in layers with windows or linear biases",
            code="config_unsupported",
        )
    return causal
