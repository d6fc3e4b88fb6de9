"""Drawing on square canvases in units that do not depend on their size: curves, fills, blurs, smooth noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np

SHIFT = 4  # fractional bits of the coordinates given to OpenCV: edges lie where they belong, at any picture size


@dataclass(frozen=True)
class Frame:
    """Where body coordinates fall on a canvas of edge x edge pixels.

    Attributes:
        edge: canvas edge in pixels.
        matrix: float64 (2, 3), from body coordinates to units of the image edge.
        taper: how much the body widens downwards: x grows by this share for each unit of y.
    """

    edge: int
    matrix: np.ndarray
    taper: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Body coordinates (..., 2) to canvas pixels (..., 2)."""
        if self.taper:
            points = np.stack([points[..., 0] * (1 + self.taper * (points[..., 1] - 0.6)), points[..., 1]], axis=-1)
        return (points @ self.matrix[:, :2].T + self.matrix[:, 2]) * self.edge - 0.5

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Body coordinates x and y of every pixel, each float32 (edge, edge)."""
        inverse = np.linalg.inv(self.matrix[:, :2]).astype(np.float32)
        axis = (np.arange(self.edge, dtype=np.float32) + 0.5) / self.edge
        u, v = axis[None, :] - np.float32(self.matrix[0, 2]), axis[:, None] - np.float32(self.matrix[1, 2])
        y = inverse[1, 0] * u + inverse[1, 1] * v
        return (inverse[0, 0] * u + inverse[0, 1] * v) / (1 + self.taper * (y - 0.6)), y


@cache
def _spline_matrix(points: int, closed: bool, steps: int) -> np.ndarray:
    """Matrix of a uniform Catmull-Rom spline: control points to samples."""
    spans = points if closed else points - 1
    t = np.arange(steps) / steps
    weights = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    )
    matrix = np.zeros((spans * steps + (not closed), points))
    for span in range(spans):
        for k in range(4):
            index = (span + k - 1) % points if closed else min(max(span + k - 1, 0), points - 1)
            matrix[span * steps : (span + 1) * steps, index] += weights[:, k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def curve(control: Sequence | np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """Smooth curves through control points (..., P, 2); a point given twice makes a corner."""
    control = np.asarray(control, dtype=np.float64)
    return _spline_matrix(control.shape[-2], closed, steps) @ control


def paint(canvas: np.ndarray, pixels: np.ndarray, value: float) -> None:
    """Fill one polygon (P, 2) or several that do not overlap (K, P, 2), in canvas pixels; canvas is uint8."""
    points = np.rint(pixels * 2**SHIFT).astype(np.int32)
    cv2.fillPoly(canvas, list(points) if points.ndim == 3 else [points], value, cv2.LINE_AA, SHIFT)


def fill(frame: Frame, *polygons: np.ndarray) -> np.ndarray:
    """Coverage uint8 (edge, edge), 0 to 255, of closed polygons in body coordinates."""
    canvas = np.zeros((frame.edge, frame.edge), np.uint8)
    for polygon in polygons:
        paint(canvas, frame.place(polygon), 255)
    return canvas


def band(pixels: np.ndarray, half_width: float | np.ndarray) -> np.ndarray:
    """Outlines (..., 2P, 2) of bands around centre lines (..., P, 2); half_width in pixels, a number or (P,)."""
    along = np.empty_like(pixels)
    along[..., 1:-1, :] = pixels[..., 2:, :] - pixels[..., :-2, :]
    along[..., 0, :] = pixels[..., 1, :] - pixels[..., 0, :]
    along[..., -1, :] = pixels[..., -1, :] - pixels[..., -2, :]
    scale = half_width / (np.sqrt(along[..., 0] ** 2 + along[..., 1] ** 2) + 1e-9)
    offset = along[..., ::-1] * (scale[..., None] * (-1, 1))
    return np.concatenate([pixels + offset, (pixels - offset)[..., ::-1, :]], axis=-2)


@cache
def _circle(points: int) -> np.ndarray:
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float, points: int = 24) -> np.ndarray:
    """Ellipse (points, 2) about (x, y)."""
    return _circle(points) * (rx, ry) + (x, y)


def pair(polygon: np.ndarray) -> np.ndarray:
    """A polygon (P, 2) of the patient's left side and its mirror image: (2, P, 2)."""
    return np.stack([polygon, polygon * (-1, 1)])


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, float32; sigma in units of the image edge. Wide ones are computed on a reduced copy."""
    image = image if image.dtype == np.float32 else image.astype(np.float32)
    pixels = sigma * image.shape[0]
    step = max(1, int(pixels / 2.5))
    if step == 1:
        return cv2.GaussianBlur(image, (0, 0), max(pixels, 0.3))
    edge = max(8, image.shape[0] // step)
    small = cv2.resize(image, (edge, edge), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma * edge, 0.3))
    return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_CUBIC)


def rounded(coverage: np.ndarray, reach: float) -> np.ndarray:
    """Chord in [0, 1] through a body of this outline (uint8) whose sides curve over `reach` (image edges)."""
    inside = cv2.distanceTransform((coverage > 127).astype(np.uint8), cv2.DIST_L2, 3)
    depth = np.minimum(inside * (1 / (reach * coverage.shape[0])), 1)
    return np.sqrt(depth * (2 - depth))


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((value - low) * (1 / (high - low)), 0, 1)
    return t * t * (3 - 2 * t)


def clouds(rng: np.random.Generator, edge: int, *cells: int) -> np.ndarray:
    """Smooth noise float32 (edge, edge), about standard normal, the mean of one octave for each number of cells."""
    total = np.zeros((edge, edge), np.float32)
    for count in cells:
        grid = rng.standard_normal((count, count), dtype=np.float32)
        total += cv2.resize(grid, (edge, edge), interpolation=cv2.INTER_CUBIC)
    return total * (1.3 / len(cells) ** 0.5)
