"""Does it still compute the same, and where does it begin to differ?"""
