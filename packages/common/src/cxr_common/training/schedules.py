"""Values that change with the step."""

import math


def warmup_cosine(
    step: int, *, steps: int, warmup_steps: int = 0, peak: float = 1.0, start: float = 0.0, end: float = 0.0
) -> float:
    """Linear warm-up from ``start`` to ``peak``, then a cosine to ``end`` (Loshchilov & Hutter 2017, eq. 5).

    Args:
        step: Optimiser step, from 0.
        steps: Steps in all; later ones get ``end``.
        warmup_steps: Steps of the warm-up; ``peak`` is reached at this step.
        peak: Value after the warm-up.
        start: Value at step 0 when there is a warm-up.
        end: Value at the last step.

    Returns:
        The value at ``step``.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    progress = min((step - warmup_steps) / max(steps - warmup_steps, 1), 1.0)
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2
