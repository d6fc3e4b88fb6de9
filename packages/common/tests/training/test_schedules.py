import itertools
import math

import pytest

from cxr_common.training.schedules import warmup_cosine


def test_values_of_the_formula() -> None:
    values = [warmup_cosine(s, steps=110, warmup_steps=10, peak=0.6, start=0.3, end=0.0006) for s in range(112)]
    assert values[0] == pytest.approx(0.3)
    assert values[5] == pytest.approx(0.45)
    assert values[10] == pytest.approx(0.6)
    assert values[60] == pytest.approx(0.0006 + (0.6 - 0.0006) * (1 + math.cos(math.pi / 2)) / 2)
    assert values[110] == values[111] == pytest.approx(0.0006)
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
