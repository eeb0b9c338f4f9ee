"""BART: post-norm layers, learned positions from row 2 on, normed embeddings; mBART: norms before, and one at
each end."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.seq2seq import COPIES, LEARNED_POSITIONS, SOURCES, fairseq, fairseq_names
from tuili.loading.config import Config
from tuili.loading.layout import Names

IGNORED_TENSORS = (COPIES, SOURCES)


def tensor_names(config: Config) -> Names:
    """Their names -> ours."""
    return {**fairseq_names(config), **LEARNED_POSITIONS}


def spec(config: Config) -> ModelSpec:
    """BartForConditionalGeneration, MBartForConditionalGeneration; BartForCausalLM, MBartForCausalLM."""
    before = str(config.values["architectures"][0]).startswith("MBart")
    return fairseq(config, placement="pre" if before else "post", offset=2, embedding_norm=True)


def constants(config: Config) -> dict[str, float]:
    """The bias of the logits, which files may leave out."""
    return {r"head\.bias": 0.0}
