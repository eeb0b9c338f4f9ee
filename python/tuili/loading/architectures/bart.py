"""BART, PLBart and MVP: post-norm layers, learned positions from row 2 on, normed embeddings; mBART: norms
before, and one at each end; Blenderbot: norms before, and one at the end, positions from row 0 on; its small
one: BART's layers, but the decoder's positions come behind the norm of its embedding."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.encoders import refuse_flags
from tuili.loading.architectures.seq2seq import COPIES, LEARNED_POSITIONS, SOURCES, fairseq, fairseq_names
from tuili.loading.config import Config
from tuili.loading.layout import Names

IGNORED_TENSORS = (COPIES, SOURCES)


def tensor_names(config: Config) -> Names:
    """Their names -> ours."""
    return {**fairseq_names(config), **LEARNED_POSITIONS}


def spec(config: Config) -> ModelSpec:
    """BartForConditionalGeneration, MBart…, PLBart…, Mvp… and Blenderbot…, also the small one; each with
    ForCausalLM."""
    name = str(config.values["architectures"][0])
    if name.startswith("BlenderbotSmall"):
        late = {"norm_before_positions": True, "embedding_scale": 1.0}  # transformers scales the encoder's
        return fairseq(config, placement="post", decoder=late, embedding_norm=True)
    if name.startswith("Blenderbot"):
        return fairseq(config, placement="pre")
    if name.startswith("Mvp"):
        refuse_flags(config, "use_prompt")
    placement, scaled = "pre" if name.startswith("MBart") else "post", name.startswith("PLBart")
    return fairseq(config, placement=placement, offset=2, scaled=scaled, embedding_norm=True)


def constants(config: Config) -> dict[str, float]:
    """The bias of the logits, which files may leave out."""
    return {r"head\.bias": 0.0}
