"""The NumPy backend: says what is right."""
