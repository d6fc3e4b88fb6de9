"""Draw heat maps over radiographs."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.files import whole_file

OPACITY = 0.45
"""Share of the colour where the heat is 1; where it is 0 the radiograph is untouched."""
EDGE = 384
"""Smallest edge of a picture, pixels."""


def shown_labels(called: NDArray[np.bool_], task: str, *, uncalled: bool = False) -> list[int]:
    """Labels that get a picture: what is called.

    Args:
        called: (L,) decisions.
        task: "multilabel" or "multiclass".
        uncalled: Also labels that are not called, whose evidence did not suffice.

    Returns:
        Numbers of labels; of two classes at most the positive one, whose map is the other's with its sign changed.
    """
    binary = task == "multiclass" and len(called) == 2
    return [label for label in np.flatnonzero(called | uncalled).tolist() if not binary or label == 1]


def draw(gray: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A radiograph with heat over it.

    Args:
        gray: (P, P) the radiograph.
        heat: (S, S) in [0, 1].

    Returns:
        (E, E, 3) BGR, E the larger of P and :data:`EDGE`.
    """
    edge = max(EDGE, gray.shape[0])
    under = cv2.resize(gray, (edge, edge), interpolation=cv2.INTER_CUBIC)
    strength = cv2.resize(heat, (edge, edge), interpolation=cv2.INTER_LINEAR)
    return _blend(under, strength)


def _blend(gray: NDArray[Any], strength: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) gray with the colour of a strength in [0, 1] over it: (H, W, 3) BGR."""
    colour = cv2.applyColorMap(np.rint(strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    weight = OPACITY * strength[..., None]
    return np.rint(gray[..., None] * (1 - weight) + colour * weight).astype(np.uint8)


def with_legend(picture: NDArray[np.uint8], answer: str, cells: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture over its legend: the answer, the colours, how coarse the map is, and what it is not.

    Args:
        picture: (E, E, 3) BGR, from :func:`draw`.
        answer: Label and probability.
        cells: Height and width of the map before it was enlarged.

    Returns:
        (E + 92, E, 3) BGR.
    """
    from PIL import Image, ImageDraw, ImageFont

    edge, height = picture.shape[1], 92
    legend = Image.new("RGB", (edge, height), "white")
    pen, small = ImageDraw.Draw(legend), ImageFont.load_default(12)
    while pen.textlength(answer, font := ImageFont.load_default(15)) > edge - 16 and len(answer) > 8:
        answer = answer[: len(answer) // 2 - 2] + "…" + answer[len(answer) // 2 + 1 :]
    pen.text((8, 4), answer, "black", font)
    gray, ramp = np.full((12, edge - 152), 128, np.uint8), np.linspace(0, 1, edge - 152, dtype=np.float32)
    bar = _blend(gray, np.broadcast_to(ramp, gray.shape))
    pen.text((8, 27), "no evidence", "black", small)
    legend.paste(Image.fromarray(bar[..., ::-1]), (80, 30))
    pen.text((edge - 64, 27), "strongest", "black", small)
    pen.text((8, 48), f"Evidence within this image, on {cells[0]} x {cells[1]} cells, enlarged.", "black", small)
    pen.text((8, 66), "Not the outline of a finding. Research only, no diagnosis.", "black", small)
    return np.concatenate([picture, np.asarray(legend)[..., ::-1]])


def write(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (E, E, 3) BGR as PNG, whole or not at all."""
    with whole_file(path) as file:
        file.write(cv2.imencode(".png", picture)[1].tobytes())
