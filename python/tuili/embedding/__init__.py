"""Texts and words as vectors: `encoder` runs a model over batches, `vectors` is what `LLM` offers of it."""
