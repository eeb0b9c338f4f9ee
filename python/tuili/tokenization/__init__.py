"""Text to token ids and back: `tokenizer`; the other files make that fast for long texts and for many."""
