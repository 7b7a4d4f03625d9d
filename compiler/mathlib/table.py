"""Which function expands which composite."""

EXPANSIONS = {}
