"""The second file of a language model, which writes with a key/value cache."""
