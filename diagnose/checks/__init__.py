"""One file a check: it reads tables and concludes; numpy and polars only."""
