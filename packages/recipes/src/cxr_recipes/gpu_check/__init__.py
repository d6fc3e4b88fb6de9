"""``reproduce gpu-check``: correctness and speed on a GPU lent for minutes, then a recipe for the rest."""
