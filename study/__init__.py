"""The nouns: what is studied, what runs it, and what was learnt."""
