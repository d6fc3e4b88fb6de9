"""Drawn radiographs with every fault an audit looks for."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from cxr_data.cohorts.cohort import Cohort
from cxr_data.synthetic.phantom import phantom

MakeCohort = Callable[..., Cohort]


@pytest.fixture(scope="session")
def drawn() -> np.ndarray:
    """160 radiographs of 64 x 64 pixels, each of another patient."""
    made = phantom(400, size=64, seed=8, task="multilabel")
    _, first = np.unique(made["patient"], return_index=True)
    return made["pixels"][first[:160]]


@pytest.fixture(scope="session")
def cohort_of() -> MakeCohort:
    """A cohort of two labels, every image a patient in train, from pixels and columns that differ."""

    def make(pixels: np.ndarray, **columns) -> Cohort:
        n = len(pixels)
        table = {
            "image": [f"{i:04d}.png" for i in range(n)],
            "patient": [f"p{i}" for i in range(n)],
            "split": ["train"] * n,
            "label:Mass": (np.arange(n) % 2).astype(np.float32),
            "label:Edema": (np.arange(n) % 3 == 0).astype(np.float32),
            **columns,
        }
        return Cohort("made", "multilabel", ("Mass", "Edema"), pl.DataFrame(table), pixels, {}, "here", "0" * 64)

    return make
