"""One file an attribution method."""
