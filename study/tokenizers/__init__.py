"""One file a kind of tokenizer."""
