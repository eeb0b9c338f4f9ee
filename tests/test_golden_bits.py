"""Bits pinned across machines, tables and versions: sha256 of the logits of every tiny model and format.

Changing one needs a line in the CHANGELOG. `--regenerate-goldens` writes the file anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from reference_formats import BLOCKS, FLOAT_FORMATS, QUANTIZED_FORMATS
from tiny_core import How, built, encode, run, some_ids

PATH = Path(__file__).parent / "goldens" / "bits.json"
IDS = some_ids(70, seed=2024)

DECODER_CASES = [
    *((family, format, "auto", "float32") for family in ("llama", "gemma3") for format in BLOCKS),
    *(
        (family, format, "float32", "float32")
        for family in ("llama", "gemma3")
        for format in QUANTIZED_FORMATS
    ),
    *(("llama", "f32", "auto", kv_type) for kv_type in ("float16", "bfloat16", "int8")),
    ("llama", "q8_0", "int8", "float32"),
]
ENCODER_FORMATS = (*FLOAT_FORMATS, "q8_0")


def decoder_hash(isa: str | None, family: str, format: str, compute: str, kv_type: str) -> str:
    logits = run(built(family, format, compute), IDS, How(isa=isa, kv_type=kv_type)).logits()
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()


def encoder_hash(isa: str | None, format: str) -> str:
    vectors, _ = encode(built("bert", format), [IDS[:1], IDS[1:20], IDS[:64]], "mean", True, How(isa=isa))
    return hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


def all_hashes() -> dict[str, str]:
    hashes = {f"{' '.join(case)}": decoder_hash(None, *case) for case in DECODER_CASES}
    return hashes | {f"bert {format}": encoder_hash(None, format) for format in ENCODER_FORMATS}


@pytest.fixture(scope="module")
def goldens(request) -> dict[str, str]:
    if request.config.getoption("--regenerate-goldens"):
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(json.dumps(all_hashes(), indent=1) + "\n", encoding="utf-8")
    return json.loads(PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", DECODER_CASES, ids=" ".join)
def test_decoder_logits_are_the_pinned_bits(goldens, isa, case):
    assert decoder_hash(isa, *case) == goldens[" ".join(case)]


@pytest.mark.parametrize("format", ENCODER_FORMATS)
def test_encoder_vectors_are_the_pinned_bits(goldens, isa, format):
    assert encoder_hash(isa, format) == goldens[f"bert {format}"]
