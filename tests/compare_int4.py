"""What `quantization="int8"` and `"int4"` cost: perplexity, and how far a model is from its own floats.

    python tests/compare_int4.py [--smollm2 FILE.gguf] [--gemma3 FILE.gguf] [--only MODEL] [--tokens N]

The built-in models are quantized already, so a float32 file is made of each: its values, with uniform noise
of a 4-bit step so that they lie on no grid (the noisy model is the one that is compared with). Measured over
the first tokens of the English story with `compute="float32"`, so that the weights alone matter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from oracle import model_files, texts
from oracle.measures import kl_divergence
from oracle.table import Table

MODELS = ("smollm2", "gemma3")
MAX_KL = {"int8": 0.01, "int4": 0.3}  # nats


def write_floats(path: Path, to: Path) -> None:
    """The GGUF model at `path` in float32, its matrices off the grid."""
    reader, rng = gguf.GGUFReader(path), np.random.default_rng(0)
    writer = gguf.GGUFWriter(to, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        x = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if x.ndim == 2 and tensor.tensor_type >= gguf.GGMLQuantizationType.Q4_0:
            groups = x.reshape(-1, 32)
            steps = np.ptp(groups, axis=1, keepdims=True) / 15
            groups += steps * (rng.random(groups.shape, dtype=np.float32) - np.float32(0.5))
        writer.add_tensor(tensor.name, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare(table: Table, model: str, path: Path, n_tokens: int) -> None:
    import tuili

    exact = None
    for quantization in (None, "int8", "int4"):
        options = {"compute": "float32", "kv_cache_dtype": "float32", "packed_cache": False}
        with tuili.LLM(path, quantization=quantization, **options) as llm:
            ids = llm.tokenizer.encode(texts.story("en"))[:n_tokens]
            logits = llm.logits(ids)
            perplexity = np.exp(-llm.score(ids).mean())
            bytes_ = sum(llm.config["weight_bytes"].values())
        exact = logits if exact is None else exact
        kl = kl_divergence(exact, logits).mean()
        same = (logits.argmax(axis=1) == exact.argmax(axis=1)).mean()
        cells = [model, quantization or "float32", f"{bytes_ / 2**20:.0f}", len(ids), f"{perplexity:.3f}"]
        passed = quantization is None or bool(kl <= MAX_KL[quantization])
        table.row([*cells, f"{kl:.5f}", f"{same:.2%}"], passed=passed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model_files.add_arguments(parser, MODELS)
    parser.add_argument("--tokens", type=int, default=1_500)
    arguments = parser.parse_args()
    table = Table(model=8, weights=8, MiB=5, tokens=7, perplexity=10, mean_KL=9, same_top_1=10)
    for model, path in model_files.chosen(arguments, MODELS).items():
        with tempfile.TemporaryDirectory() as folder:
            floats = Path(folder) / "floats.gguf"
            write_floats(path, floats)
            compare(table, model, floats, arguments.tokens)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
