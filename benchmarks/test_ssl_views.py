"""Speed of what feeds pretraining: ratios to the plain lightly recipe, both in one process, taken in turns.

    uv run pytest benchmarks/test_ssl_views.py -m benchmark -n 0 -s

Run it on an idle machine. The plain recipe is lightly's ``SwaVTransform`` on PIL RGB images, one after the other, and
for files a ``DataLoader`` over them as in its example.
"""

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from lightly.transforms.swav_transform import SwaVTransform
from PIL import Image

from cxr_data import Cohort
from cxr_ssl.config import Crops
from cxr_ssl.crops import crop_batches, crop_specs

TITLE = "Views and loader of pretraining"
WANTED = {(224, 96): 10.0, (64, 32): 8.0}
"""Least ratio of views a second on one core, by edges of the global and the local views."""
WANTED_LOADER = 25.0


class Engine:
    """What the loader needs of an accelerator."""

    process_index, num_processes, device = 0, 1, torch.device("cpu")


def radiographs(n: int, edge: int) -> np.ndarray:
    """Smooth gray images with some noise, (n, edge, edge) uint8: they compress as radiographs do."""
    random = np.random.default_rng(0)
    coarse = random.uniform(30, 220, (n, 12, 12)).astype(np.float32)
    smooth = np.stack([cv2.resize(image, (edge, edge), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(smooth + random.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def cohort_of(pixels: np.ndarray) -> Cohort:
    names = [str(i) for i in range(len(pixels))]
    table = pl.DataFrame({"image": names, "patient": names, "split": ["train"] * len(names)})
    return Cohort("bench", None, (), table, pixels, {}, "bench", "0")


def our_epoch(cohort: Cohort, sizes: tuple[int, int], batch: int, epoch: int) -> None:
    specs = crop_specs(sizes[0], Crops(), sizes[1])
    rows = np.arange(len(cohort.pixels))
    engine: Any = Engine()
    options = {"seed": 0, "epoch": epoch, "first_step": 0, "global_batch": batch, "accelerator": engine, "workers": 1}
    for views in crop_batches(cohort, rows, specs, **options):
        assert views[0].shape[:2] == (2, batch)


@pytest.fixture(autouse=True)
def _one_core() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.mark.benchmark
@pytest.mark.parametrize("sizes", WANTED)
def test_views_of_256_pixel_images_on_one_core(sizes, medians, record) -> None:
    pixels = radiographs(32, 256)
    transform = SwaVTransform(crop_sizes=sizes)
    pictures = [Image.fromarray(image).convert("RGB") for image in pixels]
    cohort = cohort_of(pixels)
    epoch = itertools.count()

    def plain() -> None:
        for picture in pictures:
            assert len(transform(picture)) == 8

    seconds = medians({"lightly": plain, "ours": lambda: our_epoch(cohort, sizes, 16, next(epoch))}, rounds=5)
    record(
        f"2 views of {sizes[0]} px and 6 of {sizes[1]} px of images of 256 px, one core",
        seconds["lightly"] / seconds["ours"],
        "x",
        peer="lightly's SwaVTransform on PIL images",
        least=WANTED[sizes],
        detail=", ".join(f"{name} {len(pixels) * 8 / value:.0f} views/s" for name, value in seconds.items()),
    )


@pytest.mark.benchmark
def test_loader_from_1024_pixel_png_once_prepared(tmp_path: Path, medians, record) -> None:
    """The recipe decodes every file in every epoch; a prepared cohort has decoded each once."""
    files = []
    for number, image in enumerate(radiographs(32, 1024)):
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), image)
    gray = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in files]
    small = [cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA) for image in gray]
    np.save(tmp_path / "pixels.npy", np.stack(small))
    cohort = cohort_of(np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    transform = SwaVTransform(crop_sizes=(64, 32))

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, place: int) -> list[torch.Tensor]:
            return transform(Image.open(files[place]).convert("RGB"))  # type: ignore[return-value] - tensors by default

    loader = torch.utils.data.DataLoader(Files(), batch_size=16, shuffle=True, drop_last=True)

    epoch = itertools.count()

    def plain() -> None:
        for views in loader:
            assert len(views) == 8

    seconds = medians({"lightly": plain, "ours": lambda: our_epoch(cohort, (64, 32), 16, next(epoch))}, rounds=3)
    record(
        "The loader of a run on 64/32 px views, images prepared once from PNG of 1024 px",
        seconds["lightly"] / seconds["ours"],
        "x",
        peer="a DataLoader of lightly's SwaVTransform over the files",
        least=WANTED_LOADER,
        detail=", ".join(f"{name} {len(files) / value:.1f} images/s" for name, value in seconds.items()),
    )
