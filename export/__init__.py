"""How small and fast can it get?"""
