"""Encoder-decoders with random weights, in Hugging Face's names: two configurations of each class.

Shapes and names come from the architecture's own file, turned round: transformers, which reads the same
folder for the goldens (oracle/seq2seq.py), finds out whether they are right.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from architecture_files import values
from tiny_files import _write_safetensors, build_tokenizer
from tiny_models import TinyModel, Weight
from tuili import _core
from tuili._core import ModelBuilder
from tuili.loading.config import Config
from tuili.loading.layout import Parts, constant
from tuili.loading.model import load, plan_model
from tuili.loading.registry import hf_architecture

N_VOCAB = 300
N_SOURCE, N_TARGET = 40, 20  # tokens of the text that every case is asked about
N_NEW = 12  # tokens that are generated at most
COLUMNS = np.arange(0, 280, 17)  # of the logits that the goldens keep

# How transformers is asked to generate, for the goldens.
SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 4, "length_penalty": 1.0},
    {
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 4,
    },
    {"num_beams": 2, "length_penalty": 0.6, "forced_bos_token_id": 17, "forced_eos_token_id": 5},
    {"num_beams": 1, "encoder_no_repeat_ngram_size": 1, "begin_suppress_tokens": [*range(3, 200)]},
    {
        "num_beams": 3,
        "bad_words_ids": [[i] for i in range(100, 150)],
        "suppress_tokens": [*range(200, 290)],
        "begin_suppress_tokens": [*range(3, 90)],
        "forced_bos_token_id": 7,
        "exponential_decay_length_penalty": [2, 1.2],
        "renormalize_logits": True,
    },
]


@dataclass(frozen=True)
class Case:
    """One configuration; tries: what it is about."""

    architecture: str
    tries: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.architecture}: {self.tries}"

    @property
    def n_target(self) -> int:
        """Size of the decoder's vocabulary."""
        return int(self.config.get("decoder_vocab_size", N_VOCAB))


_T5 = {
    "vocab_size": N_VOCAB,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_heads": 4,
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_FAIRSEQ = {
    "vocab_size": N_VOCAB,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_ffn_dim": 96,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 96,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_UNEVEN = {
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 128,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 8,
    "activation_function": "relu",
}


def _case(architecture: str, tries: str, model_type: str, base: dict[str, Any], **settings: Any) -> Case:
    own = {"architectures": [architecture], "model_type": model_type, "is_encoder_decoder": True}
    return Case(architecture, tries, base | own | settings)


_T5_NAME, _MT5, _UMT5, _LONG_T5 = (
    f"{name}ForConditionalGeneration" for name in ("T5", "MT5", "UMT5", "LongT5")
)
_BART, _MBART = "BartForConditionalGeneration", "MBartForConditionalGeneration"
_PLBART, _MVP, _BLENDERBOT, _SMALL, _LED = (
    f"{name}ForConditionalGeneration" for name in ("PLBart", "Mvp", "Blenderbot", "BlenderbotSmall", "LED")
)
_PEGASUS, _M2M100 = "PegasusForConditionalGeneration", "M2M100ForConditionalGeneration"
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_MARIAN = {"activation_function": "swish", "scale_embedding": True, "pad_token_id": 299, "eos_token_id": 0}
_MARIAN |= {"decoder_start_token_id": 299, "bos_token_id": None}
_LED_SIZES = {"max_encoder_position_embeddings": 80, "max_decoder_position_embeddings": 64}
_ONE = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "bos_token_id": None}

CASES = [
    _case(_T5_NAME, "plain", "t5", _T5, feed_forward_proj="relu"),
    _case(_T5_NAME, "gated untied uneven", "t5", _T5 | _GATED, num_decoder_layers=1, d_kv=24),
    _case(_MT5, "plain", "mt5", _T5 | _GATED),
    _case(_MT5, "relu tied uneven", "mt5", _T5, feed_forward_proj="relu", num_decoder_layers=1),
    _case(_UMT5, "plain", "umt5", _T5, feed_forward_proj="gated-gelu"),
    _case(
        _UMT5,
        "silu untied uneven",
        "umt5",
        _T5 | _GATED,
        feed_forward_proj="gated-silu",
        d_kv=8,
        relative_attention_max_distance=6,
    ),
    _case(_LONG_T5, "plain", "longt5", _T5 | _GATED, local_radius=5),
    _case(_LONG_T5, "wide tied uneven", "longt5", _T5, num_decoder_layers=1, local_radius=100),
    _case(_BART, "plain", "bart", _FAIRSEQ),
    _case(_BART, "scaled uneven", "bart", _FAIRSEQ | _UNEVEN, scale_embedding=True),
    _case(_MBART, "plain", "mbart", _FAIRSEQ, scale_embedding=True),
    _case(_MBART, "unscaled uneven untied", "mbart", _FAIRSEQ | _UNEVEN, tie_word_embeddings=False),
    _case(_PLBART, "plain", "plbart", _FAIRSEQ),
    _case(
        _PLBART,
        "unscaled uneven untied",
        "plbart",
        _FAIRSEQ | _UNEVEN,
        scale_embedding=False,
        tie_word_embeddings=False,
    ),
    _case(_MVP, "plain", "mvp", _FAIRSEQ),
    _case(_MVP, "scaled uneven", "mvp", _FAIRSEQ | _UNEVEN, scale_embedding=True),
    _case(_BLENDERBOT, "plain", "blenderbot", _FAIRSEQ, encoder_no_repeat_ngram_size=0),
    _case(
        _BLENDERBOT,
        "scaled uneven",
        "blenderbot",
        _FAIRSEQ | _UNEVEN,
        scale_embedding=True,
        encoder_no_repeat_ngram_size=0,
    ),
    _case(_SMALL, "plain", "blenderbot-small", _FAIRSEQ),
    _case(_SMALL, "scaled uneven", "blenderbot-small", _FAIRSEQ | _UNEVEN, scale_embedding=True),
    _case(_LED, "plain", "led", _FAIRSEQ | _LED_SIZES, attention_window=8),
    _case(_LED, "windows uneven", "led", _FAIRSEQ | _UNEVEN | _LED_SIZES, attention_window=[4, 16, 8]),
    _case(_PEGASUS, "plain", "pegasus", _FAIRSEQ | _ONE, scale_embedding=True, activation_function="relu"),
    _case(_PEGASUS, "unscaled uneven", "pegasus", _FAIRSEQ | _ONE | _UNEVEN),
    _case("MarianMTModel", "plain", "marian", _FAIRSEQ | _MARIAN),
    _case(
        "MarianMTModel",
        "two vocabularies uneven",
        "marian",
        _FAIRSEQ | _UNEVEN | _MARIAN,
        share_encoder_decoder_embeddings=False,
        decoder_vocab_size=310,
    ),
    _case(_M2M100, "plain", "m2m_100", _FAIRSEQ),
    _case(_M2M100, "unscaled uneven", "m2m_100", _FAIRSEQ | _UNEVEN, scale_embedding=False),
    _case(_M2M100, "begins with padding", "m2m_100", _FAIRSEQ, pad_token_id=0, decoder_start_token_id=0),
]


def by_name(text: str) -> Case:
    """The first case whose name begins so."""
    return next(case for case in CASES if case.name.startswith(text))


def source_ids(n: int = N_SOURCE, seed: int = 7) -> list[int]:
    """A source, without padding."""
    return np.random.Generator(np.random.Philox(seed)).integers(3, N_VOCAB - 2, n).tolist()


def target_ids(case: Case) -> list[int]:
    """What the decoder reads: its first token, then others."""
    drawn = np.random.Generator(np.random.Philox(8)).integers(3, N_VOCAB - 2, N_TARGET - 1)
    return [case.config["decoder_start_token_id"], *drawn.tolist()]


def stored_tensors(case: Case) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint by its stored name."""
    config = Config(dict(case.config), "config.json")
    if case.config.get("tie_word_embeddings") is False:
        embeddings = (f"model.{half}.embed_tokens.weight" for half in ("encoder", "decoder"))
        config.tensors = ("lm_head.weight", *embeddings)
    _, module = hf_architecture(config)
    expected = {name: tuple(shape) for name, shape in ModelBuilder(module.spec(config)).expected()}
    names = module.tensor_names(config) if hasattr(module, "tensor_names") else module.TENSOR_NAMES
    tensors, found = {}, set()
    for pattern, ours in names.items():
        (ours,), row = (ours.names, ours.row) if isinstance(ours, Parts) else ((ours,), False)
        for i in range(8) if "{i}" in pattern else [0]:
            name = ours.replace("{i}", str(i))
            if name.endswith("position_embedding") and constant(name, module, config) is not None:
                continue  # sinusoids, which files may leave out
            if name in expected and name not in found:
                theirs, shape = pattern.replace("{i}", str(i)), expected[name]
                tensors[theirs] = values(theirs, (1, *shape) if row else shape)
                found.add(name)
    missing = {name for name in expected if not name.endswith("position_embedding")} - found
    assert not missing, f"{case.name}: no name for {sorted(missing)}"
    return tensors


def write(
    case: Case,
    folder: Path,
    generation: dict[str, Any] | None = None,
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """A Hugging Face folder of the case; generation: its generation_config.json; more: tensors besides."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: Weight("f32", x.shape, x.reshape(x.shape[0], -1).view(np.uint8))
        for name, x in (stored_tensors(case) | more).items()
    }
    _write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(case.config | {"dtype": "float32"}), encoding="utf-8")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    build_tokenizer(TinyModel("", {"model_type": "llama"}, {}, {})).save(str(folder / "tokenizer.json"))
    return folder


@functools.cache
def core_model(name: str, format: str = "f32", device: str = "cpu") -> _core.Model:
    """The first case whose name begins so, in the core. format: of matrices, "f32", "bf16" or "int8"."""
    if device == "cuda":
        return core_model(name, format).upload()
    options = {"f32": {}, "bf16": {"dtype": "bfloat16"}, "int8": {"quantization": "int8"}}[format]
    with tempfile.TemporaryDirectory() as folder:
        return load(plan_model(write(by_name(name), Path(folder)), **options)).model
