"""One file a model format, and the sniffer that picks it; what is refused, and why."""
