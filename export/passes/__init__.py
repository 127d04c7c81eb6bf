"""One file a pass: a model in, a new model out."""
