"""Small folders of images for the cohort tests."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

OfficialTables = Callable[..., bytes]
WriteImages = Callable[[Path, Iterable[str]], Path]


@pytest.fixture
def write_images() -> WriteImages:
    """Write distinct gray images of 40 x 48 pixels at the given relative paths."""

    def write(root: Path, names: Iterable[str]) -> Path:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # The path is the seed: the same folder is the same bytes, two names are never the same image.
            seed = list(str(path.relative_to(root)).encode())
            pixels = np.random.default_rng(seed).integers(0, 256, (40, 48), np.uint8)
            assert cv2.imwrite(str(path), pixels)
        return root

    return write


@pytest.fixture
def two_classes(tmp_path: Path, write_images: WriteImages) -> Path:
    """A folder with 30 NORMAL and 30 COVID images, two images a patient, without a split."""
    names = [f"{c}/patient{n}_{i}.png" for c in ("NORMAL", "COVID") for n in _numbers(c) for i in (0, 1)]
    return write_images(tmp_path / "two classes", names)


def _numbers(label: str) -> range:
    return range(15) if label == "NORMAL" else range(15, 30)


@pytest.fixture
def official_tables() -> OfficialTables:
    """Bytes of an official label table as the torchxrayvision wheel carries it; skips where it is not installed."""
    from importlib.util import find_spec

    actual = find_spec("torchxrayvision")
    if actual is None or actual.origin is None:
        pytest.skip("torchxrayvision, which carries the official tables, is not installed")
    folder = Path(actual.origin).parent / "data"

    def table(name: str, unpack: bool = True) -> bytes:
        data = (folder / name).read_bytes()
        if unpack and name.endswith(".gz"):
            return gzip.decompress(data)
        if unpack and name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return archive.read(archive.namelist()[0])
        return data

    return table
