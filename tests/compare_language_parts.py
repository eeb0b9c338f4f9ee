"""Compare tuili with transformers on models that also see or hear, when they read text alone.

    python tests/compare_language_parts.py [STEM …] [--runs N] [--seed N]

A row for each class of loading/language_part.py: how many of its runs agree to 1e-4 of the range of each
position's logits, of a whole prompt and token by token. The decoder's settings are drawn as those of
compare_random.py, with its tensors named as transformers writes them and as modules are called; what sees or
hears is not made. Settings that either refuses are counted. Exit status 1 if a run fails. Needs torch and
transformers.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from architecture_files import token_ids
from compare_architectures import LIMIT
from oracle.table import Table
from random_families import Values, drawn
from tiny_core import How, run
from tiny_files import build_tokenizer
from tiny_models import TinyModel
from tuili.errors import TuiliError
from tuili.loading.language_part import PARTS, STEMS
from tuili.loading.model import load, plan_model

_EYES: dict[str, Values] = {"AyaVision": {"vision_config": {"model_type": "siglip_vision_model"}}}


def drawn_whole(stem: str, seed: int) -> Values:
    """A config.json of the class, around a decoder that it has by itself in transformers."""
    import transformers

    draw = random.Random(f"{stem} {seed}")
    made = getattr(transformers, f"{stem}Config")
    kind = made(**_EYES.get(stem, {})).text_config.model_type
    kind = draw.choice(("llama", "qwen2", "qwen3", "mistral")) if kind == "llama" else kind
    name = PARTS[kind][0]
    inner = {**drawn(name, seed), "model_type": kind}
    for key in ("architectures", "tie_word_embeddings"):
        del inner[key]
    if kind == "glm4v_text":
        del inner["head_dim"]
        inner["rope_parameters"]["partial_rotary_factor"] = inner.pop("partial_rotary_factor")
    if "_vl" in kind or kind == "glm4v_text":
        rope = inner.setdefault("rope_parameters", {"rope_type": "default"})
        width = inner.get("head_dim") or inner["hidden_size"] // inner["num_attention_heads"]
        half = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
        rope["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
    whole: Values = {"architectures": [f"{stem}ForConditionalGeneration"], "model_type": made.model_type}
    tied = draw.choice((None, False, True))
    whole |= (
        _EYES.get(stem, {}) | {"text_config": inner} | ({} if tied is None else {"tie_word_embeddings": tied})
    )
    if draw.random() < 0.5 and stem in ("Qwen2VL", "Qwen2_5_VL"):
        inner.pop("model_type")
        whole |= whole.pop("text_config")
    return whole


def written(whole: Values, folder: Path, seed: int) -> Any:
    """Writes the folder; returns transformers' model, of which what sees or hears has no values."""
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    settings = transformers.AutoConfig.from_pretrained(folder)
    settings._attn_implementation = settings.text_config._attn_implementation = "eager"
    with torch.device("meta"):
        model = getattr(transformers, whole["architectures"][0])(settings)
    base = model.model
    place = "text_model" if hasattr(base, "text_model") else "language_model"
    text = type(getattr(base, place))(settings.text_config).float()
    setattr(base, place, text)
    for other, _ in [pair for pair in base.named_children() if pair[0] != place]:
        absent = torch.nn.Identity()
        absent.device = torch.device("cpu")
        setattr(base, other, absent)
    model.lm_head = torch.nn.Linear(
        settings.text_config.hidden_size, settings.text_config.vocab_size, bias=False
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in (*text.parameters(), *model.lm_head.parameters()):
            gain = parameter.ndim == 1 and float(parameter.mean()) > 0.5
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (1.0 if gain else 0.0))
    tied = getattr(settings, "tie_word_embeddings", False)
    if tied:
        model.lm_head.weight = text.embed_tokens.weight
    stored = {name: x.detach() for name, x in model.state_dict().items() if not x.is_meta}
    if tied:
        stored = {name: x for name, x in stored.items() if not name.startswith("lm_head.")}
    stored = stored if seed % 2 else revert_weight_conversion(model, stored)
    save_file({name: x.contiguous() for name, x in stored.items()}, folder / "model.safetensors")
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    return model.eval()


def error_of(whole: Values, seed: int) -> float | str:
    """The largest difference of logits, in shares of their range; or why either refuses the settings."""
    import torch

    ids = np.array(token_ids(), np.int32)
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            model = written(whole, folder, seed)
            with torch.no_grad():
                wanted = model(input_ids=torch.tensor([ids.tolist()]), use_cache=False).logits[0].numpy()
        except Exception as error:  # of any kind, for settings that do not go together
            return f"transformers: {type(error).__name__}: {error}"
        try:
            loaded = load(plan_model(folder, compute="float32")).model
        except TuiliError as error:
            return f"{type(error).__name__}: {error}"
        for how in (How(), How(chunk=1)):
            error = abs(run(loaded, ids, how).logits() - wanted).max(axis=1) / np.ptp(wanted, axis=1)
            worst = max(worst, float(error.max()))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stems", nargs="*", metavar="STEM")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = Table(model=30, agree=8, refused=8, worst_error=11)
    for stem in arguments.stems or STEMS:
        found: list[float] = []
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            error = error_of(whole := drawn_whole(stem, seed), seed)
            if isinstance(error, str):
                print(f"{stem}, seed {seed}: {error[:200]}", flush=True)
                continue
            found.append(error)
            if not error <= LIMIT:
                print(f"{stem}, seed {seed}: {error:.1e}: {json.dumps(whole)}", flush=True)
        n = sum(error <= LIMIT for error in found)
        worst = f"{max(found, default=float('nan')):.1e}"
        table.row([stem, n, arguments.runs - len(found), worst], passed=0 < n == len(found))
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
