import numpy as np
import polars as pl
import pytest

from cxr_data.cohorts.cohort import Cohort, Task, save
from cxr_data.cohorts.digests import fingerprint, pixel_digests


def toy(n: int = 96, *, task: Task = "multiclass", edge: int = 48, seed: int = 0) -> Cohort:
    """Noise with a bright square (label 1) or without; two images a patient."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) // 2 % 2
    pixels = rng.integers(0, 90, (n, edge, edge), dtype=np.uint8)
    for i in np.flatnonzero(positive):
        x, y = rng.integers(8, edge - 20, 2)
        pixels[i, y : y + 12, x : x + 12] += 120
    labels = ("NORMAL", "PNEUMONIA") if task == "multiclass" else ("square", "rare")
    targets = np.eye(2, dtype=np.float32)[positive]
    if task == "multilabel":
        targets = np.stack([positive, rng.random(n) < 0.3], 1).astype(np.float32)
        targets[::7, 1] = np.nan
    split = np.array(["train", "train", "train", "val", "test"])[np.arange(n) // 4 % 5]
    table = pl.DataFrame(
        {
            "image": [f"{i:03}.png" for i in range(n)],
            "patient": [f"p{i // 2}" for i in range(n)],
            "split": split.tolist(),
            **{f"label:{name}": targets[:, i] for i, name in enumerate(labels)},
        }
    )
    digest = fingerprint(labels, table, pixel_digests(pixels))
    return Cohort("toy", task, labels, table, pixels, {"aspect": "squash", "window": "full"}, "toy", digest)


@pytest.fixture(scope="session")
def make_toy():
    """``toy`` for fixtures that outlive a test."""
    return toy


@pytest.fixture
def toy_cohort() -> Cohort:
    return toy()


@pytest.fixture
def toy_folder(tmp_path) -> str:
    """A prepared cohort, as commands take it."""
    save(toy(), tmp_path / "cohort")
    return str(tmp_path / "cohort")


@pytest.fixture
def multilabel_cohort() -> Cohort:
    return toy(task="multilabel")
