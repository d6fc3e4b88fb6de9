"""Warnings for images unlike those a classifier of frontal radiographs was trained on.

Five rules, each with the figure it goes by. None replaces a look at the image: what raises no warning can still be
unlike the training cohort, and an answer to an image that does raise one should not be used.

- *little contrast*: the standard deviation of the gray values is below 6 of 255.
- *colour*: more than a twentieth of the pixels differ by over 24 of 255 between their strongest and weakest channel.
- *odd shape*: the image is more than 1.8 times as high as wide, or the reverse.
- *lateral*: a DICOM file says so itself.
- *inverted*, *not an upright frontal projection*: the correlation r of a 16 x 16 thumbnail with the average
  radiograph is below -0.1, or below 0.1. Inverting an image changes the sign of r.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.images.dicom import dicom_facts
from cxr_data.images.header import BrokenImage, inspect, read_content

LEAST_CONTRAST = 6.0
COLOURED, SPREAD = 0.05, 24
LONGEST = 1.8
UNLIKE = 0.1
LATERAL_PROJECTIONS = frozenset({"LL", "RL", "LATERAL", "LAT"})

_LEFT_HALF = np.array(
    [
        (47, 59, 65, 69, 81, 107, 139, 158),
        (59, 78, 89, 98, 106, 120, 139, 155),
        (77, 99, 115, 125, 127, 124, 133, 152),
        (88, 110, 128, 135, 124, 112, 125, 153),
        (90, 111, 132, 133, 111, 99, 121, 157),
        (87, 109, 133, 129, 103, 98, 125, 163),
        (81, 106, 134, 123, 101, 105, 136, 171),
        (74, 103, 133, 119, 102, 116, 148, 178),
        (66, 100, 130, 116, 110, 130, 159, 184),
        (60, 99, 127, 117, 120, 142, 166, 189),
        (56, 98, 124, 120, 131, 150, 171, 192),
        (52, 96, 122, 127, 143, 159, 176, 195),
        (49, 93, 124, 141, 160, 173, 184, 198),
        (46, 93, 134, 158, 177, 187, 192, 202),
        (45, 95, 143, 170, 186, 194, 198, 205),
        (48, 99, 150, 176, 189, 196, 200, 205),
    ],
    np.float64,
)
AVERAGE = np.hstack([_LEFT_HALF, _LEFT_HALF[:, ::-1]])
"""The average frontal radiograph at 16 x 16, made symmetric: the mean of 795 adults of ChestX-ray14 (NIH Clinical
Center; Wang et al. 2017) and the mean of 700 children (Kermany et al. 2018, CC BY 4.0), in equal parts."""


def warnings(path: str | Path, stored: NDArray[np.uint8]) -> list[str]:
    """What is unusual about a file that could be read; empty for a common frontal radiograph.

    Args:
        path: The file.
        stored: (P, P) its pixels as the classifier takes them.
    """
    return [*of_file(Path(path)), *of_pixels(stored)]


def of_pixels(stored: NDArray[np.uint8]) -> list[str]:
    """Warnings that the gray values alone give: little contrast, inverted, not an upright frontal projection."""
    if float(stored.std()) < LEAST_CONTRAST:
        return ["little contrast: nearly blank"]
    likeness = resemblance(stored)
    if likeness < -UNLIKE:
        return ["looks inverted: air should be dark"]
    return ["does not look like an upright frontal chest radiograph"] if likeness < UNLIKE else []


def resemblance(stored: NDArray[np.uint8]) -> float:
    """Pearson correlation of an image's 16 x 16 thumbnail with :data:`AVERAGE`, in [-1, 1]; 0 for a blank one."""
    small = cv2.resize(stored, AVERAGE.shape, interpolation=cv2.INTER_AREA).astype(np.float64)
    ours, average = small - small.mean(), AVERAGE - AVERAGE.mean()
    norm = np.linalg.norm(ours) * np.linalg.norm(average)
    return float((ours * average).sum() / norm) if norm > 0 else 0.0


def of_file(path: Path) -> list[str]:
    """Warnings that take the file itself: colour, odd shape, a lateral projection by its DICOM header."""
    try:
        data = read_content(path)
        header = inspect(data)
    except BrokenImage:
        return []  # whoever decodes it says what is wrong
    if header.kind == "DICOM":
        projection = dicom_facts(path, b"")["projection"]
        return [f"a lateral projection by its header ({projection})"] if projection in LATERAL_PROJECTIONS else []
    unusual = []
    if max(header.width, header.height) > LONGEST * min(header.width, header.height):
        unusual.append(f"an odd shape for a chest radiograph ({header.width} x {header.height})")
    if _may_have_colour(data, header.kind) and is_coloured(data):
        unusual.append("a colour image")
    return unusual


def is_coloured(data: bytes) -> bool:
    """Whether an image file shows colour, looked at with a quarter of its width."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_4)
    if image is None:
        return False
    spread = image.max(axis=2).astype(np.int16) - image.min(axis=2)
    return float((spread > SPREAD).mean()) > COLOURED


def _may_have_colour(data: bytes, kind: str) -> bool:
    """False where the header says that there is one channel only: most radiographs, and decoding takes time."""
    if kind == "PNG":
        return data[25] not in (0, 4)  # 0: gray, 4: gray and alpha
    if kind == "JPEG":
        at = 2
        while data[at + 1] not in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
            at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        return data[at + 9] > 1  # components of the frame
    return True
