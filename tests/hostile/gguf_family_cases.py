"""Row GG-25 for settings that only some architectures have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuili.errors import ModelFormatError, ModelUnsupportedError

from .cases import (
    ARRAY,
    BOOL,
    F32,
    GGUF_KEYS,
    STRING,
    U32,
    Case,
    Tensor,
    Write,
    gguf,
    gguf_file,
    gguf_tensors,
)

F, U = ModelFormatError, ModelUnsupportedError


def of(arch: str, tensors: list[Tensor] | None = None, **changes: tuple[int, Any]) -> Write:
    """The valid file as another architecture's, with "<arch>.<key>" replaced; `__` stands for a dot."""
    keys = {name.replace("llama.", f"{arch}."): entry for name, entry in GGUF_KEYS.items()}
    keys |= {f"{arch}.{name.replace('__', '.')}": entry for name, entry in changes.items()}
    return gguf(gguf_file(keys | {"general.architecture": (STRING, arch)}, tensors))


def families() -> Iterator[Case]:
    def case(name: str, write: Write, error: Any, code: str) -> Case:
        return Case("GG-25", name, write, error, code)

    def without(*keys: str) -> dict[str, tuple[int, Any]]:
        settings = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 16}
        settings["expert_shared_feed_forward_length"] = 16
        return {key: (U32, number) for key, number in settings.items() if key not in keys}

    yield case("qwen2 with experts", of("qwen2", expert_count=(U32, 4)), U, "config_unsupported")
    for key in ("expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"):
        yield case(f"qwen2moe without {key}", of("qwen2moe", **without(key)), F, "config_key")
    yield case("qwen2moe of no experts", of("qwen2moe", expert_count=(U32, 0)), F, "config_value")
    yield case("qwen3moe without its tensors", of("qwen3moe", **without()), F, "tensor_missing")
    five = without() | {"expert_used_count": (U32, 5)}
    yield case("qwen3moe, five of four", of("qwen3moe", **five), F, "config_value")
    yield case("llama, five of four", of("llama", **five), F, "config_value")
    window = {"attention__sliding_window": (U32, 8)}
    yield case("olmo3 without its pattern", of("olmo2", **window), F, "key_missing")
    pattern = {"attention__sliding_window_pattern": (ARRAY, (BOOL, [True]))}
    yield case("olmo3, a pattern of one", of("olmo2", **window, **pattern), F, "array_length")
    yield case("exaone4, a pattern of one", of("exaone4", **window, **pattern), F, "array_length")
    yield case("mpt without slopes", of("mpt"), U, "config_unsupported")
    steep = {"attention__max_alibi_bias": (F32, 16.0)}
    yield case("mpt of steep slopes", of("mpt", **steep), U, "config_unsupported")
    yield case("olmo clips at 0", of("olmo", attention__clamp_kqv=(F32, 0.0)), F, "config_value")
    yield case("gemma2 caps at 0", of("gemma2", attn_logit_softcapping=(F32, 0.0)), F, "config_value")
    yield case(
        "stablelm turns 17 of 16", of("stablelm", rope__dimension_count=(U32, 17)), U, "config_unsupported"
    )
    yield case("glm4 turns none", of("glm4", rope__dimension_count=(U32, 0)), U, "config_unsupported")
    for dims, code in (([8], "config_value"), ([4], "tensor_shape")):
        factors = [Tensor(f"rope_factors_{kind}.weight", dims) for kind in ("short", "long")]
        yield case(f"phi3 divides by 0 {dims}", of("phi3", [*gguf_tensors(), *factors]), F, code)
    long = {"rope__scaling__type": (STRING, "longrope")}
    yield case("minicpm without divisors", of("minicpm", **long), F, "tensor_missing")
    yield case("llama of longrope", of("llama", **long), U, "rope_type")
    scored = {"expert_gating_func": (U32, 1)}
    yield case("glm4moe of softmax", of("glm4moe", **without(), **scored), U, "config_unsupported")
    yield case("minimax of softmax", of("minimax-m2", **without(), **scored), U, "config_unsupported")
    odd = without() | {"expert_shared_feed_forward_length": (U32, 17)}
    yield case("ernie shares one and a bit", of("ernie4_5-moe", **odd), F, "config_value")
    ahead = {"nextn_predict_layers": (U32, 1 << 20)}
    yield case("dots1 of guesses alone", of("dots1", **without(), **ahead), F, "config_value")
    yield case("hunyuan-moe without its tensors", of("hunyuan-moe", **without()), F, "tensor_missing")
    yield case("t5 without the size of its heads", of("t5"), F, "config_key")
    for name in ("t5", "t5encoder"):
        heads = {"attention__key_length": (U32, 16)}
        yield case(f"{name} without its tensors", of(name, **heads), F, "tensor_missing")
    for key, value in (("attention__scale", 0.5), ("rope__freq_base_swa", 7.0), ("embedding_scale", 3.0)):
        yield case(f"llama with {key}", of("llama", **{key: (F32, value)}), U, "config_unsupported")
    still = {"rope__scaling__finetuned": (BOOL, False)}
    yield case("granite without rotations", of("granite", **still), U, "config_unsupported")
    far = {"attention__relative_buckets_count": (U32, 0)}
    yield case("t5 of no buckets", of("t5", **far), F, "config_value")
    beyond = {"decoder_start_token_id": (U32, 1 << 20)}
    yield case("t5 begins beyond its words", of("t5", **beyond), F, "config_value")


def afmoe() -> Iterator[Case]:
    """Experts that are not weighed as its class weighs them, and no length of windows."""
    sizes = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 16}
    experts = {key: (U32, number) for key, number in sizes.items()}
    yield Case("GG-25", "afmoe of sums", of("afmoe", **experts), U, "config_unsupported")
    normal = experts | {"expert_weights_norm": (BOOL, True)}
    yield Case("GG-25", "afmoe without windows", of("afmoe", **normal), F, "key_missing")


def apertus() -> Iterator[Case]:
    """The numbers of its activation, in arrays."""
    yield Case("GG-25", "apertus without its numbers", of("apertus"), F, "key_missing")
    n = GGUF_KEYS["llama.block_count"][1]
    keys = {key.replace("llama.", "apertus."): entry for key, entry in GGUF_KEYS.items()}
    keys |= {"general.architecture": (STRING, "apertus")}
    for part, number, error, code in (
        ("alpha_n", float("nan"), F, "config_value"),
        ("eps", 1.0, U, "config_unsupported"),
    ):
        learned = {"alpha_p": 0.5, "alpha_n": 0.5, "beta": 0.5, "eps": -1e-6, part: number}
        arrays = {f"xielu.{key}": (ARRAY, (F32, [x] * n)) for key, x in learned.items()}
        yield Case("GG-25", f"apertus of {part} {number}", gguf(gguf_file(keys | arrays)), error, code)


CASES = [*families(), *afmoe(), *apertus()]
