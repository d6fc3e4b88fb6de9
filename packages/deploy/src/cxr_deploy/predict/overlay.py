"""Pictures of where the evidence lies: the radiograph with heat over it."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.files import whole_file

OPACITY = 0.45
"""Share of the colour where the heat is 1; where it is 0 the radiograph is untouched."""
EDGE = 384
"""Smallest edge of a picture, pixels."""


def shown_labels(called: NDArray[np.bool_], probabilities: NDArray[np.float64], task: str) -> list[int]:
    """Labels that get a picture.

    Args:
        called: (L,) decisions.
        probabilities: (L,).
        task: "multilabel" or "multiclass".

    Returns:
        Of two classes the positive one; else what is called; where nothing is, the most probable label.
    """
    if task == "multiclass" and len(called) == 2:
        return [1]
    return np.flatnonzero(called).tolist() or [int(probabilities.argmax())]


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
    colour = cv2.applyColorMap(np.rint(strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    weight = OPACITY * strength[..., None]
    return np.rint(under[..., None] * (1 - weight) + colour * weight).astype(np.uint8)


def write(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture (E, E, 3) BGR as PNG, whole or not at all."""
    with whole_file(path) as file:
        file.write(cv2.imencode(".png", picture)[1].tobytes())
