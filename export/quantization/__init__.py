"""Eight and four bits: ranges, what is taken, what is repaired, what really runs."""
