"""Adjustment of p values for several comparisons at once."""

from collections.abc import Sequence


def holm(p: Sequence[float | None]) -> list[float | None]:
    """P values adjusted for the number of tests made (Holm 1979), which holds for any dependence between them.

    With the m defined p values in ascending order: ``p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``.

    Args:
        p: p values in [0, 1]; None where a test could not be made, which counts for nothing.

    Returns:
        Adjusted p values in the same order; None stays None.
    """
    defined = [i for i, value in enumerate(p) if value is not None]
    order = sorted(defined, key=lambda i: p[i] or 0.0)
    adjusted: list[float | None] = [None] * len(p)
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * (p[i] or 0.0)))
        adjusted[i] = worst
    return adjusted
