"""OpenAI's privacy filter: GPT-OSS whose tokens see a window on both sides, for labels of tokens."""

from __future__ import annotations

from tuili._core import ModelSpec
from tuili.loading.architectures import LOCAL, gpt_oss
from tuili.loading.architectures.encoders import head_names, task_head
from tuili.loading.config import MAX_LAYERS, MAX_POSITIONS, Config
from tuili.loading.layout import Names, Parts

IGNORED_TENSORS = (r"score\..*",)
_KINDS = (
    *("account_number", "private_address", "private_date", "private_email", "private_person"),
    *("private_phone", "private_url", "secret"),
)
_LABELS = ("O", *(f"{place}-{kind}" for kind in _KINDS for place in "BIES"))  # where the file names none


def tensor_names(config: Config) -> Names:
    """GPT-OSS's names, of which gate and up lie one after another; and the head's."""
    names = {
        theirs: ours._replace(order="rows") if isinstance(ours, Parts) else ours
        for theirs, ours in gpt_oss.TENSOR_NAMES.items()
    }
    return names | head_names(config, {"tokens": {"score": "out"}})


def spec(config: Config) -> ModelSpec:
    """OpenAIPrivacyFilterModel and OpenAIPrivacyFilterForTokenClassification."""
    n_layers = config.integer("num_hidden_layers", 1, MAX_LAYERS)
    # transformers' window of both sides reaches one token further.
    length = config.integer("sliding_window", 1, MAX_POSITIONS, 128) + 1
    own = {"layer_types": [LOCAL] * n_layers, "sliding_window": length}
    if "id2label" not in config and config.values.get("num_labels") in (None, len(_LABELS)):
        own["id2label"] = {str(i): label for i, label in enumerate(_LABELS)}
    config.values = {**config.values, **own}
    decoder = gpt_oss.spec(config, interleaved=True)
    return decoder.without_words(task_head(config, {"tokens": {}}), causal=False)
