"""Where rows come from: one file a source, and the sniffer that picks it."""
