"""From files on disk to a model in memory: every byte is checked before anything large is allocated.

`files` opens and reads, `safetensors_file` and `gguf` parse the two formats, `checkpoint` shows both as named
tensors, `config` reads settings strictly, `architectures` turn settings into a ModelSpec, `model` plans and
loads, `store` finds and pulls models by name, `tokenizers` builds tokenizers.
"""
