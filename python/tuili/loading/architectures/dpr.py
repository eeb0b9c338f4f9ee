"""DPR: BERT whose vector of a text, a question's or a passage's, is that of its first token."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import bert, expect_only
from tuili.loading.config import Config

POOLING = "cls"
TENSOR_NAMES = {
    f"{before}_encoder.bert_model.{theirs}": ours
    for before in ("ctx", "question")
    for theirs, ours in bert.BODY_NAMES.items()
}
IGNORED_TENSORS = (r"\w+_encoder\.bert_model\.(pooler\..*|embeddings\.position_ids)",)


def spec(config: Config) -> ModelSpec:
    """DPRContextEncoder, DPRQuestionEncoder."""
    expect_only(config, "projection_dim", 0)
    return bert.spec(config)
