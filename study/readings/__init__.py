"""One file a kind of task, or a few kinds that are read alike."""
