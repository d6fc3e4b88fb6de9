"""How fast and how lean cohorts are made and read.

    uv run pytest benchmarks/test_cohorts.py -m benchmark -n 0 -s

Run it on an idle machine. Memory is the peak of a process of its own, interpreter and libraries included. A ratio
compares medians of ways that alternate in one process, so that what slows the machine for a while slows both.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

TITLE = "Cohorts: reading tables, decoding, duplicates"
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

INDEX = """
import json, sys, time
from pathlib import Path
from cxr_data.readers import read, recognise
from cxr_data.preparation.selection import Selection, select
from cxr_data.preparation import splits
from cxr_data.cohorts.cohort import label_matrix
from cxr_data.machine import peak_memory
began = time.perf_counter()
root = Path(sys.argv[1])
listing, _ = select(read(root, recognise(root)), Selection(projection="all"), root)
seconds, busy = time.perf_counter() - began, time.process_time()
targets = label_matrix(listing.table, listing.labels)
groups = splits.join_groups(listing.table["patient"].to_list(), [None] * listing.table.height)
splits.assign(listing.table["split"].to_list(), groups, targets, 0)
print(json.dumps({
    "reader": listing.name,
    "images": listing.table.height,
    "patients": listing.table["patient"].n_unique(),
    "index_seconds": seconds,
    "cpu_seconds": busy,
    "with_split_seconds": time.perf_counter() - began,
    "peak_bytes": peak_memory(),
}))
"""


def record_index(record: Callable[..., None], of: str, actual: dict, seconds: float, gib: float) -> None:
    busy, split = actual["cpu_seconds"], actual["with_split_seconds"]
    shown = f"{busy:.1f} s of processor time; {split:.1f} s with a split by patient"
    what = f"From a folder to the list of images and labels, {of}"
    record(what, actual["index_seconds"], "s", most=seconds, detail=shown)
    record(f"Peak memory of that process, {of}", actual["peak_bytes"] / 2**30, "GiB", most=gib)


def touch(root: Path, names: list[str]) -> None:
    for folder in {os.path.dirname(name) for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))


def test_the_table_of_chestxray14_in_10_s_and_1_gb(
    shared_data: Path, tmp_path: Path, benchmark, own_process, record
) -> None:
    table = shared_data / "nih_1000_64" / "Data_Entry_2017_v2020.csv.gz"
    (tmp_path / table.name).write_bytes(table.read_bytes())
    images = pl.read_csv(table, infer_schema=False, truncate_ragged_lines=True, columns=[0])["Image Index"].to_list()
    touch(tmp_path, [f"images_{i % 12 + 1:03d}/images/{name}" for i, name in enumerate(images)])
    document = json.loads(benchmark.pedantic(own_process, args=(INDEX, str(tmp_path))))
    assert (document["reader"], document["images"], document["patients"]) == ("chestxray14", 112_120, 30_805)
    record_index(record, "ChestX-ray14, 112,120 images", document, 10, 1)


def test_a_table_of_377110_rows_in_60_s_and_3_gb(tmp_path: Path, benchmark, own_process, record) -> None:
    """MIMIC-CXR-JPG, simulated: its size, its four tables, its folders."""
    from cxr_data.readers.chexpert import LABELS

    rng = np.random.default_rng(0)
    images, studies, subjects = 377_110, 227_835, 65_379
    study = np.sort(np.r_[np.arange(studies), rng.integers(0, studies, images - studies)])
    subject = 10_000_000 + np.sort(np.r_[np.arange(subjects), rng.integers(0, subjects, studies - subjects)])[study]
    ids = pl.DataFrame(
        {
            "dicom_id": [f"{i:08x}-{i * 7919 % 2**32:08x}-00000000" for i in range(images)],
            "study_id": 50_000_000 + study,
            "subject_id": subject,
        }
    )
    views = ids.with_columns(pl.Series("ViewPosition", rng.choice(["AP", "PA", "LATERAL"], images)))
    views.write_csv(tmp_path / "mimic-cxr-2.0.0-metadata.csv")
    split = pl.Series("split", rng.choice(["train", "validate", "test"], subjects, p=[0.97, 0.01, 0.02]))
    ids.with_columns(split[(subject - 10_000_000).tolist()]).write_csv(tmp_path / "mimic-cxr-2.0.0-split.csv")
    values = {name: rng.choice(["1.0", "0.0", "-1.0", ""], studies, p=[0.15, 0.05, 0.03, 0.77]) for name in LABELS}
    labels = ids.select("subject_id", "study_id").unique(maintain_order=True).with_columns(**values)
    labels.write_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv")
    rows = ids.select("subject_id", "study_id", "dicom_id").iter_rows()
    touch(tmp_path, [f"files/p{str(p)[:2]}/p{p}/s{s}/{d}.jpg" for p, s, d in rows])
    document = json.loads(benchmark.pedantic(own_process, args=(INDEX, str(tmp_path))))
    assert (document["reader"], document["images"], document["patients"]) == ("mimic_cxr_jpg", images, subjects)
    record_index(record, "MIMIC-CXR-JPG simulated, 377,110 images", document, 60, 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Path]:
    """Forty radiographs of 2,000 x 2,000 pixels as gray JPEG: drawn chests with the grain of a detector."""
    from cxr_data.synthetic.phantom import phantom

    folder = tmp_path_factory.mktemp("jpeg")
    rng = np.random.default_rng(0)
    paths = []
    for i, small in enumerate(phantom(40, size=256, seed=0)["pixels"]):
        large = cv2.resize(small, (2000, 2000), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 4, large.shape).astype(np.float32)
        image = np.clip(large + cv2.GaussianBlur(grain, (0, 0), 1), 0, 255).astype(np.uint8)
        paths.append(folder / f"{i:02d}.jpg")
        cv2.imwrite(str(paths[-1]), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def pil(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [64, 224])
def test_decoding_is_3_times_pil_a_core(files: list[Path], size: int, medians, record) -> None:
    from cxr_data import pixel_size_for, read_image

    cv2.setNumThreads(1)
    stored = pixel_size_for(size)
    ways = {
        "PIL": lambda: [pil(path, size) for path in files],
        "ours": lambda: [read_image(path, stored) for path in files],
    }
    seconds = medians(ways, rounds=5)
    record(
        f"Decoding gray JPEG of 2,000 px for networks of {size} px (stored at {stored} px), one core",
        seconds["PIL"] / seconds["ours"],
        "x",
        peer="PIL: open, convert, resize",
        least=3,
        detail=", ".join(f"{name} {1e3 * value / len(files):.1f} ms an image" for name, value in seconds.items()),
    )


def test_an_epoch_from_the_memory_map_is_20_times_one_from_files(files: list[Path], medians, record) -> None:
    from cxr_data import prepare
    from cxr_data.augment import ViewSpec, draw, render

    cv2.setNumThreads(1)
    cohort = prepare(files[0].parent, pixel_size=256, show=False)
    spec = ViewSpec(size=224)
    order = np.random.default_rng(0).permutation(len(cohort))
    views = draw(spec, len(cohort), 0, 0)

    def epoch(read: Callable[[np.ndarray], np.ndarray]) -> None:
        for start in range(0, len(order), 8):
            rows = order[start : start + 8]
            render(read(rows), {name: value[rows] for name, value in views.items()}, spec)

    def from_files(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.ascontiguousarray(pil(files[row], 256)[..., 0]) for row in rows])

    ways = {"files": lambda: epoch(from_files), "ours": lambda: epoch(lambda rows: cohort.pixels[rows])}
    seconds = medians(ways, rounds=5)
    record(
        "An epoch of augmented views of 224 px from the prepared memory map",
        seconds["files"] / seconds["ours"],
        "x",
        peer="the same from JPEG files of 2,000 px, read with PIL",
        least=20,
        detail=", ".join(f"{name} {len(order) / value:.1f} images/s" for name, value in seconds.items()),
    )


def test_near_duplicates_among_112120_images_are_minutes(medians, record) -> None:
    """The pair search alone, on descriptors of random images, one image in a thousand a copy."""
    from cxr_data.auditing.duplicates import near_pairs
    from cxr_data.auditing.measures import THUMB

    rng = np.random.default_rng(0)
    thumbs = rng.integers(0, 256, (112_120, THUMB, THUMB), dtype=np.uint8)
    copies = np.arange(112)
    thumbs[-112:] = thumbs[copies] // 2 + 60
    digests = [row.to_bytes(4, "big") for row in range(len(thumbs))]
    actual = []
    seconds = medians({"ours": lambda: actual.append(near_pairs(thumbs, digests))}, rounds=1, warm_up=0)
    assert actual[0].rows.tolist() == [[row, len(thumbs) - 112 + row] for row in range(112)]
    record(
        "Near duplicates among 112,120 images, the search for pairs",
        seconds["ours"],
        "s",
        most=600,
        detail="random descriptors; the 112 pairs put in are found, and nothing else",
    )
