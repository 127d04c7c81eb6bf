"""Fewer channels, heads and recurrent units, and the fit that mends."""
