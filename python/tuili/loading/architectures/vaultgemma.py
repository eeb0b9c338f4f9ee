"""VaultGemma: Gemma 2 without the norms behind each half."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures.gemma import SANDWICH_NAMES
from tuili.loading.architectures.gemma2 import IGNORED_TENSORS as IGNORED_TENSORS
from tuili.loading.architectures.gemma2 import fold as fold
from tuili.loading.architectures.gemma2 import gemma2
from tuili.loading.config import Config

TENSOR_NAMES = {theirs: ours for theirs, ours in SANDWICH_NAMES.items() if ".post_" not in theirs}


def spec(config: Config) -> ModelSpec:
    """VaultGemmaForCausalLM."""
    return gemma2(config, "pre")
