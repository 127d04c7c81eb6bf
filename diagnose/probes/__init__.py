"""One file a probe: it runs the model and writes a named table."""
