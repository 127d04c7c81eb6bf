"""One file a framework that runs models."""
