"""Formats of GGUF files that become wider ones: the values that the gguf package reads, bit for bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from tiny_files import _llama_tokenizer_metadata
from tuili.loading.checkpoint import FOREIGN_FORMATS, FORMATS, Checkpoint, TensorInfo
from tuili.loading.foreign_blocks import widen_tensors
from tuili.loading.gguf import open_gguf

WIDE = {"mxfp4": Type.Q5_0, "iq4_nl": Type.Q8_0, "q3_k": Type.Q6_K}


def random_blocks(format: str, n: int) -> np.ndarray:
    """Blocks of any bytes, with scales that float16 has."""
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (n, FOREIGN_FORMATS[format].n_bytes), np.uint8)
    if format == "mxfp4":
        blocks[:, 0] = rng.integers(104, 144, n)
        return blocks
    at = {"iq4_nl": 0, "q3_k": 108}[format]
    blocks[:, at : at + 2] = rng.uniform(-2, 2, (n, 1)).astype(np.float16).view(np.uint8)
    return blocks


@pytest.mark.parametrize("format", FOREIGN_FORMATS)
def test_the_values_stay(format: str) -> None:
    blocks = random_blocks(format, 96)
    n_values = FOREIGN_FORMATS[format].n_values
    stored = TensorInfo("w", format, (24, 4 * n_values), 0, blocks.nbytes)

    class One(Checkpoint):
        def read_stored(self, tensor: TensorInfo, begin: int, n_bytes: int) -> np.ndarray:
            return blocks.reshape(-1)[begin : begin + n_bytes]

    checkpoint = One(tensors={"w": stored})
    widen_tensors(checkpoint)
    info, wide = checkpoint.tensors["w"], WIDE[format]
    assert info.format == wide.name.lower() and info.shape == stored.shape
    wanted = dequantize(blocks.reshape(24, -1), Type[format.upper()])
    found = dequantize(checkpoint.read("w").reshape(24, -1), wide)
    assert (found == wanted).all()
    size = FORMATS[info.format].n_bytes
    part = checkpoint.read("w", 8 * size, 4 * size).reshape(1, -1)
    assert (dequantize(part, wide) == wanted[2]).all()


@pytest.mark.parametrize("format", FOREIGN_FORMATS)
def test_large_tensors_are_made_piece_by_piece(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = random_blocks(format, 40_000)
    stored = TensorInfo("w", format, (len(blocks), FOREIGN_FORMATS[format].n_values), 0, blocks.nbytes)

    class One(Checkpoint):
        def read_stored(self, tensor: TensorInfo, begin: int, n_bytes: int) -> np.ndarray:
            return blocks.reshape(-1)[begin : begin + n_bytes]

    checkpoint = One(tensors={"w": stored})
    widen_tensors(checkpoint)
    tracemalloc.start()
    try:
        whole = checkpoint.read("w")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < whole.nbytes + (16 << 20)
    size = FORMATS[checkpoint.tensors["w"].format].n_bytes
    some = whole[size : 9 * size]
    monkeypatch.setattr("tuili.loading.foreign_blocks._PIECE_BYTES", 3 * size + 1)
    assert (checkpoint.read("w", size, 8 * size) == some).all()


@pytest.mark.parametrize("format", FOREIGN_FORMATS)
def test_a_file_may_hold_them(format: str, tmp_path: Path) -> None:
    blocks = random_blocks(format, 2).reshape(2, -1)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_token_list(_llama_tokenizer_metadata()["tokenizer.ggml.tokens"])
    writer.add_tensor("w", blocks, raw_dtype=Type[format.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _, checkpoint = open_gguf(tmp_path / "model.gguf")
    with checkpoint:
        widen_tensors(checkpoint)
        found = dequantize(checkpoint.read("w").reshape(2, -1), WIDE[format])
    assert (found == dequantize(blocks, Type[format.upper()])).all()
