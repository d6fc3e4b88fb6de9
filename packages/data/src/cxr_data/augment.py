"""Radiograph augmentation: OpenCV on gray uint8, whole batches, replayable.

The parameters of every view of an epoch are drawn at once from ``(seed, epoch)``, so the view an image
gets depends on neither batch, worker nor process; a teacher can be shown the very same views later.
Crop, flip, rotation and resize are one affine warp; brightness, contrast and gamma are one 256-entry
table. No hue, saturation or strong distortion: they mean nothing on a radiograph.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput

Views = dict[str, NDArray[np.float32]]
"""Parameters of n images x count views: name -> (n, count) array."""


@dataclass(frozen=True)
class ViewSpec:
    """What a view may look like.

    Attributes:
        size: Edge of the square output, pixels.
        scale: Smallest and largest share of the image's area that is shown, in (0, 1].
        count: Views of each image.
        aspect: Largest stretch of the crop, >= 1: width / height lies in [1 / aspect, aspect].
        rotation: Largest rotation either way, degrees.
        flip: Probability of mirroring left and right, in [0, 1].
        brightness: Largest shift either way, as a share of full range.
        contrast: Largest change of slope either way: the factor lies in [1 - contrast, 1 + contrast].
        gamma: Largest change of log gamma either way.
        blur: Probability of a Gaussian blur, in [0, 1].
        blur_sigma: Smallest and largest standard deviation of the blur as a share of ``size``.
    """

    size: int
    scale: tuple[float, float] = (0.7, 1.0)
    count: int = 1
    aspect: float = 1.15
    rotation: float = 10.0
    flip: float = 0.5
    brightness: float = 0.15
    contrast: float = 0.4
    gamma: float = 0.4
    blur: float = 0.2
    blur_sigma: tuple[float, float] = (0.002, 0.02)

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise BadInput("a scale 0 < low <= high <= 1", str(self.scale), where="scale of a view")
        if self.size < 8 or self.count < 1:
            raise BadInput("a view of at least 8 pixels and a count of at least 1", f"{self.size} and {self.count}")


def draw(spec: ViewSpec, n: int, seed: int, epoch: int, stream: int = 0) -> Views:
    """Draw the parameters of every view of one epoch.

    Args:
        spec: What the views may look like.
        n: Number of images in the cohort (not in the batch).
        seed: Seed of the run.
        epoch: Epoch the views are for.
        stream: Tells apart several specs of one epoch (large and small crops).

    Returns:
        Name -> (n, spec.count) float32 array; take rows to get the views of a batch.
    """
    rng = np.random.default_rng([seed, epoch, stream])
    shape = (n, spec.count)
    area = rng.uniform(*spec.scale, shape)
    stretch = np.exp(rng.uniform(-1, 1, shape) * np.log(spec.aspect) / 2)
    width = np.minimum(np.sqrt(area) * stretch, 1.0)
    height = np.minimum(np.sqrt(area) / stretch, 1.0)
    drawn = {
        "width": width,
        "height": height,
        "x": width / 2 + rng.uniform(0, 1, shape) * (1 - width),
        "y": height / 2 + rng.uniform(0, 1, shape) * (1 - height),
        "angle": np.deg2rad(rng.uniform(-spec.rotation, spec.rotation, shape)),
        "mirror": np.where(rng.uniform(0, 1, shape) < spec.flip, -1.0, 1.0),
        "brightness": rng.uniform(-spec.brightness, spec.brightness, shape),
        "contrast": 1 + rng.uniform(-spec.contrast, spec.contrast, shape),
        "gamma": np.exp(rng.uniform(-spec.gamma, spec.gamma, shape)),
        "sigma": np.where(rng.uniform(0, 1, shape) < spec.blur, rng.uniform(*spec.blur_sigma, shape), 0.0),
    }
    return {name: values.astype(np.float32) for name, values in drawn.items()}


def render(pixels: NDArray[np.uint8], views: Views, spec: ViewSpec) -> NDArray[np.uint8]:
    """Render the drawn views of a batch.

    Args:
        pixels: (B, P, P) gray images.
        views: The rows of :func:`draw` that belong to these images, name -> (B, count).
        spec: The spec the views were drawn from.

    Returns:
        (count, B, size, size) gray images.
    """
    batch, count = views["x"].shape
    out = np.empty((count, batch, spec.size, spec.size), np.uint8)
    matrices = _matrices(views, pixels.shape[1], spec.size)
    tables = _tables(views)
    # Level k of the pyramid has 1 / 2^k of the resolution, so that the bilinear warp never skips pixels.
    shrink = np.maximum(views["width"], views["height"]) * pixels.shape[1] / spec.size
    levels = np.floor(np.log2(np.maximum(shrink, 1.0)) + 1e-6).astype(int)
    for i in range(batch):
        pyramid = [np.ascontiguousarray(pixels[i])]
        for v in range(count):
            level = levels[i, v]
            while len(pyramid) <= level:
                small = pyramid[-1].shape[0] // 2
                pyramid.append(cv2.resize(pyramid[-1], (small, small), interpolation=cv2.INTER_AREA))
            matrix = matrices[i, v]
            if level:
                # Source coordinates of the smaller level; both grids keep pixel centres at +0.5.
                ratio = pyramid[level].shape[0] / pixels.shape[1]
                matrix = matrix * ratio
                matrix[:, 2] += 0.5 * ratio - 0.5
            view = cv2.warpAffine(
                pyramid[level],
                matrix,
                (spec.size, spec.size),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            sigma = float(views["sigma"][i, v]) * spec.size
            if sigma > 0:
                view = cv2.GaussianBlur(view, (0, 0), sigma)
            cv2.LUT(view, tables[i, v], dst=out[v, i])
    return out


def whole(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The view used to evaluate: the whole image at the network's size.

    Args:
        pixels: (B, P, P) gray images.
        size: Edge of the output.

    Returns:
        (B, size, size) gray images; area-averaged when shrinking, bilinear when enlarging.
    """
    if pixels.shape[1] == size:
        return np.ascontiguousarray(pixels)
    method = cv2.INTER_AREA if pixels.shape[1] > size else cv2.INTER_LINEAR
    out = np.empty((len(pixels), size, size), np.uint8)
    for i, image in enumerate(pixels):
        cv2.resize(np.ascontiguousarray(image), (size, size), dst=out[i], interpolation=method)
    return out


def _matrices(views: Views, edge: int, size: int) -> NDArray[np.float64]:
    """(B, count, 2, 3) maps from output pixels to source pixels."""
    scale_x = views["mirror"] * views["width"] * edge / size
    scale_y = views["height"] * edge / size
    cos, sin = np.cos(views["angle"]), np.sin(views["angle"])
    matrix = np.empty((*views["x"].shape, 2, 3), np.float64)
    matrix[..., 0, 0], matrix[..., 0, 1] = cos * scale_x, -sin * scale_y
    matrix[..., 1, 0], matrix[..., 1, 1] = sin * scale_x, cos * scale_y
    middle = (size - 1) / 2
    centre = np.stack([views["x"], views["y"]], -1) * edge - 0.5
    matrix[..., 2] = centre - middle * (matrix[..., 0] + matrix[..., 1])
    return matrix


def _tables(views: Views) -> NDArray[np.uint8]:
    """(B, count, 256) lookup tables of brightness, contrast and gamma."""
    level = np.linspace(0, 1, 256, dtype=np.float32)
    curve = level ** views["gamma"][..., None]
    curve = (curve - 0.5) * views["contrast"][..., None] + 0.5 + views["brightness"][..., None]
    return np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)
