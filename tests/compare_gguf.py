"""Compare tuili's logits of tiny GGUF files of every family with llama.cpp's own (package xllamacpp).

    python tests/compare_gguf.py [ARCHITECTURE …]

The files are those of tests/gguf_families.py, without cases that llama.cpp leaves alone, and of
test_gguf_t5.py, whose tied heads it does not scale as transformers does: they are before that. It
keeps keys and values in float16 and approximates GELU by a table: its logits are compared to 2 % of their
range. Exit status 1 if a family fails, or llama.cpp cannot load its file.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

import gguf_t5
import tuili
from architecture_files import token_ids
from gguf_families import FAMILIES, write
from oracle.llama_cpp import library
from oracle.table import Table
from seq2seq_models import source_ids, stored_tensors, target_ids
from test_gguf_t5 import CASES as T5
from test_gguf_t5 import PIECES
from tiny_core import run
from tuili.loading.model import load, plan_model

LIMIT = 0.02  # of the range of a position's logits
N_CONTEXT = 512  # llama.cpp opens that many; by it, not by the text, it takes longrope's factors


class _Params(ctypes.Structure):
    """llama_context_params, larger than any version of it."""

    _fields_ = [("bytes", ctypes.c_uint8 * 512)]


class _Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


def logits_of(path: Path, ids: list[int], n_vocab: int, source: Sequence[int] = ()) -> np.ndarray:
    """llama.cpp's logits, token by token, [n_tokens, n_vocab]. source: what an encoder reads before.

    raises  ValueError if it cannot load the file
    """
    api = library()
    api.llama_context_default_params.restype = _Params
    api.llama_init_from_model.restype = ctypes.c_void_p
    api.llama_init_from_model.argtypes = [ctypes.c_void_p, _Params]
    api.llama_batch_get_one.restype = _Batch
    api.llama_batch_get_one.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    api.llama_decode.argtypes = api.llama_encode.argtypes = [ctypes.c_void_p, _Batch]
    api.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    api.llama_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    context = api.llama_init_from_model(model, api.llama_context_default_params()) if model else None
    if not context:
        raise ValueError("llama.cpp cannot load it")
    read = (ctypes.c_int32 * len(source))(*source)
    if source and api.llama_encode(context, api.llama_batch_get_one(read, len(source))):
        raise ValueError("llama.cpp cannot encode")
    rows = []
    for token in ids:
        one = (ctypes.c_int32 * 1)(token)
        if api.llama_decode(context, api.llama_batch_get_one(one, 1)):
            raise ValueError("llama.cpp cannot run it")
        rows.append(np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (n_vocab,)).copy())
    return np.array(rows)


def compare_t5(table: Table, folder: Path) -> None:
    """A row for each case of test_gguf_t5.py."""
    for case in T5:
        path = gguf_t5.write(
            gguf.MODEL_ARCH.T5, case.config, stored_tensors(case), PIECES, folder / "t5.gguf"
        )
        source, ids = source_ids(), target_ids(case)
        with tuili.LLM(path, num_threads=1, compute="float32", packed_cache=False) as llm:
            ours = llm.logits(source, ids)
        theirs = logits_of(path, ids, ours.shape[1], source)
        if case.config.get("tie_word_embeddings", True):
            theirs *= case.config["d_model"] ** -0.5
        add_row(table, case.name, "T5", ours, theirs)


def add_row(table: Table, name: str, arch: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    error = (abs(ours - theirs).max(axis=1) / np.ptp(theirs, axis=1)).max()
    table.row([name, arch, f"{error:.1e}"], passed=bool(error <= LIMIT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", metavar="ARCHITECTURE", help="all where none is named")
    wanted = parser.parse_args().architectures
    table = Table(architecture=26, file=12, error=10)
    with tempfile.TemporaryDirectory() as folder:
        if not wanted or "T5ForConditionalGeneration" in wanted:
            compare_t5(table, Path(folder))
        for family in FAMILIES:
            if wanted and family.architecture not in wanted:
                continue
            for number, case in enumerate(family.cases()):
                if number in family.alone:
                    continue
                path = write(family, case, Path(folder) / "model.gguf")
                ids = token_ids()
                model = load(plan_model(path, compute="float32", max_model_len=N_CONTEXT)).model
                ours = run(model, np.array(ids, np.int32)).logits()
                try:
                    theirs = logits_of(path, ids, ours.shape[1])
                except ValueError as error:
                    table.row([case.name, family.arch.name, error], passed=False)
                    continue
                add_row(table, case.name, family.arch.name, ours, theirs)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
