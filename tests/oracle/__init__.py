"""The reference the acceptance scripts compare tuili with: transformers, PyTorch, float32, eager attention.

Nothing here imports tuili, and nothing reads weights through tuili's own loaders: GGUF files are
dequantized by the `gguf` package. Needs torch, transformers, gguf and sentencepiece; no network.
"""
