"""How fast, how large and how reliable: measured, with the results kept in ``results/``."""
