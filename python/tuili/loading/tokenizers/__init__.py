"""Tokenizers of the `tokenizers` library from untrusted files.

`tokenizer` loads one. `tokenizer_json` checks the library's own format, which `documents` makes of older
files; `gguf_vocab` reads a GGUF file's vocabulary; `cache` keeps what was made. Every call of the library
goes through `calls`.
"""
