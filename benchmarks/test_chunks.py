"""Speed of a cohort in chunks whose cache is warm, against its memory map: ratios, both in one process, taken in turns.

    uv run pytest benchmarks/test_chunks.py -m benchmark -n 0 -s

Run it on an idle machine.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch

from cxr_common.training.loader import epoch_order
from cxr_data import Cohort, load, save
from cxr_data.augment import ViewSpec
from cxr_data.cohorts.chunk_cache import shuffle_window
from cxr_data.cohorts.chunks import load_chunks, upload
from cxr_ssl.config import Crops
from cxr_ssl.crops import crop_batches, crop_specs

TITLE = "Cohorts in chunks"
IMAGES, EDGE, BATCH = 1024, 256, 256
CHUNK = 2 * 10**6
"""Bytes: many chunks for so few images, each of which a batch opens."""


class Engine:
    """What the loader needs of an accelerator."""

    process_index, num_processes, device = 0, 1, torch.device("cpu")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cohort]]:
    """The same images as a memory map and in chunks; both were read once."""
    folder = tmp_path_factory.mktemp("chunks")
    names = [str(number) for number in range(IMAGES)]
    table = pl.DataFrame({"image": names, "patient": names, "split": ["train"] * IMAGES})
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, EDGE, EDGE), np.uint8)
    save(Cohort("noise", None, (), table, pixels, {}, "noise", "0"), folder / "map")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_CACHE", str(folder / "cache"))
        upload(load(folder / "map"), f"file://{folder}/remote", chunk_bytes=CHUNK)
        actual = {"memory map": load(folder / "map"), "chunks": load_chunks(f"file://{folder}/remote")}
        for cohort in actual.values():
            for start in range(0, IMAGES, BATCH):
                assert np.array_equal(cohort.pixels[start : start + BATCH], pixels[start : start + BATCH])
        yield actual


def epoch(cohort: Cohort, specs: list[Any], number: int) -> None:
    engine: Any = Engine()
    options = {"seed": 0, "epoch": number, "first_step": 0, "global_batch": BATCH, "accelerator": engine, "workers": 1}
    for views in crop_batches(cohort, np.arange(IMAGES), specs, **options):
        assert views[0].shape[1] == BATCH


VIEWS = {
    "pretraining, 2 views of 64 px and 6 of 32 px": crop_specs(64, Crops(), 32),
    "one view of 224 px": [ViewSpec(224, (0.3, 1.0), 1, blur=0.3)],
    "one view of 64 px": [ViewSpec(64, (0.3, 1.0), 1, blur=0.3)],
}


@pytest.mark.benchmark
@pytest.mark.parametrize("what", VIEWS)
def test_an_epoch_of_batches(what: str, both: dict[str, Cohort], medians, record) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    numbers = itertools.count()
    ways = {name: lambda cohort=cohort: epoch(cohort, VIEWS[what], next(numbers) // 2) for name, cohort in both.items()}
    seconds = medians(ways, rounds=25)
    record(
        f"Batches of {BATCH} images of {EDGE} px from chunks in the cache, {what}",
        100 * seconds["memory map"] / seconds["chunks"],
        "%",
        peer="the memory map",
        least=90,
        detail=", ".join(f"{name} {IMAGES / value:.0f} images/s" for name, value in seconds.items()),
    )


@pytest.mark.benchmark
def test_reading_alone(both: dict[str, Cohort], medians, record) -> None:
    """Without views: what chunks cost where nothing hides it."""
    rows = np.arange(IMAGES)
    order = np.sort(epoch_order(IMAGES, 0, 0, BATCH, shuffle_window(both["chunks"], rows)), axis=1)

    def read(cohort: Cohort) -> None:
        for batch in order:
            assert cohort.pixels[batch].shape[0] == BATCH

    seconds = medians({name: lambda cohort=cohort: read(cohort) for name, cohort in both.items()}, rounds=99)
    record(
        f"Reading batches of {BATCH} images of {EDGE} px from chunks in the cache, without views",
        100 * seconds["memory map"] / seconds["chunks"],
        "%",
        peer="the memory map",
        detail=", ".join(f"{name} {IMAGES / value:.0f} images/s" for name, value in seconds.items()),
    )
