"""llama.cpp's own tokenizer, called in the shared library that the PyPI package xllamacpp carries.

The package has no Python function that tokenizes without a server, but it exports llama.h's C functions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path


class _ModelParams(ctypes.Structure):
    """llama_model_params, larger than any version of it: it is returned and passed by value, in memory."""

    _fields_ = [("bytes", ctypes.c_uint8 * 512)]


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_silent = _Log(lambda level, text, data: None)

# (text as UTF-8, add the special tokens around it?, read special tokens in it?) -> ids
Tokenize = Callable[[bytes, bool, bool], list[int]]


def library() -> ctypes.CDLL:
    import xllamacpp

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    library.llama_model_default_params.restype = _ModelParams
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _ModelParams]
    library.llama_model_get_vocab.restype = ctypes.c_void_p
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool,
        ctypes.c_bool,
    ]  # fmt: skip
    library.llama_backend_init()
    library.llama_log_set(_silent, None)
    return library


def load(path: Path) -> Tokenize:
    """The tokenizer of a GGUF file."""
    api = library()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if not model:
        raise ValueError(f"llama.cpp cannot load {path}")
    vocab = api.llama_model_get_vocab(model)

    def tokenize(text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        capacity = len(text) + 16
        ids = (ctypes.c_int32 * capacity)()
        n = api.llama_tokenize(vocab, text, len(text), ids, capacity, add_special, parse_special)
        return ids[:n]

    return tokenize
