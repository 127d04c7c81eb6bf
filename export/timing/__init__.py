"""How fast: races, and what can be said of them."""
