"""What GGUF files say of Apertus: the numbers of its activation in arrays, and frequencies as Llama's."""

from __future__ import annotations

from tuili.loading.architectures import without
from tuili.loading.architectures.apertus_xielu import PARTS, checked_eps, checked_factor
from tuili.loading.architectures.from_gguf import DECODER_GGUF_NAMES, GGUF_QK_NORMS, decoder_config
from tuili.loading.architectures.llama import take_divisors
from tuili.loading.checkpoint import Checkpoint
from tuili.loading.config import MAX_LAYERS, Config
from tuili.loading.gguf_metadata import Metadata

GGUF_TENSOR_NAMES = without(DECODER_GGUF_NAMES, "ffn_gate") | GGUF_QK_NORMS
GGUF_IGNORED_TENSORS = (r"rope_freqs\.weight",)


def config_from_gguf(metadata: Metadata, checkpoint: Checkpoint) -> Config:
    """The settings of a GGUF file of architecture "apertus". It says all of its frequencies: the class's own
    scaling is not filled in."""
    config = decoder_config(metadata, checkpoint)
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)

    def numbers(part: str) -> list[float]:
        return [float(x) for x in metadata.get_f32_array(f"xielu.{part}", n_layers)]

    for eps in numbers("eps"):
        checked_eps(eps, "xielu.eps")
    parts = [[checked_factor(x, f"xielu.{part}") for x in numbers(part)] for part in PARTS]
    scaling = config.values["rope_scaling"] or {"rope_type": "default"}
    config.update(xielu=[list(layer) for layer in zip(*parts, strict=True)], rope_parameters=scaling)
    return take_divisors(config, checkpoint)
