"""Keys of GGUF files that change what a model computes, where nobody has read them."""

from __future__ import annotations

from tuili.errors import ModelUnsupportedError
from tuili.loading.files import shown
from tuili.loading.gguf_metadata import Metadata

# Keys behind "<architecture>." -> the values that change nothing, or the keys whose value says the same.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "activation_sparsity_scale": (),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.key_length_swa": ("attention.key_length",),
    "attention.max_alibi_bias": (0.0,),
    "attention.output_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.sliding_window_pattern": (2,),  # what those have that do not read it
    "attention.temperature_scale": (0.0,),
    "attention.value_length_swa": ("attention.value_length",),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_group_scale": (0.0, 1.0),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.dimension_count_swa": ("rope.dimension_count",),
    "rope.freq_base_swa": ("rope.freq_base",),
    "rope.scaling.alpha": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "router_logit_softcapping": (0.0,),
    "swiglu_clamp_exp": (),
    "swiglu_clamp_shexp": (),
    "swin_norm": (False,),
}


def refuse_unread(metadata: Metadata) -> None:
    """To be called when an architecture has read its settings.

    raises  ModelUnsupportedError (config_unsupported) naming a key that would have changed the result
    """
    prefix = metadata.get_str("general.architecture")
    values = {key: value for key, (_, value) in metadata.values().items()}
    for key, neutral in _NEUTRAL.items():
        name = f"{prefix}.{key}"
        value = values.get(name)
        if value is None or metadata.was_read(name) or value in neutral:
            continue
        if any(value == values.get(f"{prefix}.{other}") for other in neutral if isinstance(other, str)):
            continue
        if key == "attention.sliding_window" and _reaches(value, values.get(f"{prefix}.context_length")):
            continue
        raise ModelUnsupportedError(
            f"{metadata.what}: {name} is {shown(value)}, which is not supported for this architecture",
            code="config_unsupported",
        )


def _reaches(window: object, n_positions: object) -> bool:
    """Whether a window is none, as texts end before it does."""
    return isinstance(window, int) and isinstance(n_positions, int) and window >= n_positions
