"""Radiograph augmentation: OpenCV on gray uint8, whole batches, replayable.

The parameters of every view of an epoch are drawn at once from ``(seed, epoch)``, so the view an image
gets depends on neither batch, worker nor process; a teacher can be shown the very same views later.
Crop, zoom, flip, rotation and resize are one affine warp; brightness, contrast and gamma are one 256-entry
table; noise is cut from one tile. No hue, saturation or elastic distortion: they mean nothing on a radiograph.
"""

import functools
from dataclasses import dataclass, fields
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.errors import BadInput, require_known, unknown_name

Views = dict[str, NDArray[np.float32]]
"""Parameters of n images x count views: name -> (n, count) array."""

# Samples along each axis of an output pixel, from these factors of shrinking on. Few suffice, and more would blur.
_SHRINK, _SAMPLES = (1.25, 1.75, 2.25, 3.5), np.array([1, 3, 2, 3, 4])
_NOISE_SEED = 0x5EED
NOISE_STEPS = 32.0  # gray levels of the noise tile to one standard deviation
_NOISE_EDGES, _NOISE_PLACES = 4, 32  # the tile is 4 views wide, and a view's noise begins at a multiple of its 32nd
LAST_NOISE_PLACE = (_NOISE_EDGES - 1) * _NOISE_PLACES
"""Last value of ``noise_x`` and ``noise_y``, which begin at 0."""


@dataclass(frozen=True)
class ViewSpec:
    """What a view may look like.

    Attributes:
        size: Edge of the square output, pixels.
        scale: Smallest and largest share of the image's area that is shown, in (0, 1]. Without effect where
            ``zoom`` is given.
        count: Views of each image.
        aspect: Largest stretch of the crop, >= 1: width / height lies in [1 / aspect, aspect].
        rotation: Largest rotation either way, degrees.
        flip: Probability of mirroring left and right, in [0, 1].
        brightness: Largest shift either way, as a share of full range.
        contrast: Smallest and largest change of slope: the factor lies in [1 + low, 1 + high].
        gamma: Largest change of log gamma either way.
        blur: Probability of a Gaussian blur, in [0, 1].
        blur_sigma: Smallest and largest standard deviation of the blur as a share of ``size``.
        zoom: Smallest and largest magnification about the centre, in place of a crop; below 1 the image is shown
            smaller, its border pixels continued. None takes crops of ``scale``.
        shift: Largest shift of a zoomed image either way, along each axis, as a share of its edge.
        noise: Probability of added noise, in [0, 1].
        noise_sigma: Largest standard deviation of the noise, as a share of full range.
    """

    size: int
    scale: tuple[float, float] = (0.7, 1.0)
    count: int = 1
    aspect: float = 1.15
    rotation: float = 10.0
    flip: float = 0.5
    brightness: float = 0.15
    contrast: tuple[float, float] = (-0.4, 0.4)
    gamma: float = 0.4
    blur: float = 0.2
    blur_sigma: tuple[float, float] = (0.002, 0.02)
    zoom: tuple[float, float] | None = None
    shift: float = 0.0
    noise: float = 0.0
    noise_sigma: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise BadInput("a scale 0 < low <= high <= 1", str(self.scale), where="scale of a view")
        if self.size < 8 or self.count < 1:
            raise BadInput("a view of at least 8 pixels and a count of at least 1", f"{self.size} and {self.count}")
        zoom, (darker, stronger), (finest, widest) = self.zoom or (1.0, 1.0), self.contrast, self.blur_sigma
        for name, good, expected in (
            ("zoom", 0.1 <= zoom[0] <= zoom[1] <= 10, "a zoom .1 <= low <= high <= 10"),
            ("contrast", -1 < darker <= stronger, "a change of contrast -1 < low <= high"),
            ("blur_sigma", 0 < finest <= widest, "standard deviations 0 < low <= high"),
            ("aspect", self.aspect >= 1, "an aspect of at least 1"),
            ("rotation", 0 <= self.rotation <= 180, "a rotation of 0 to 180 degrees"),
            *((name, 0 <= getattr(self, name) <= 1, "a number in [0, 1]") for name in _SHARES),
            ("gamma", 0 <= self.gamma <= 5, "a change of log gamma in [0, 5]"),
        ):
            if not good:
                raise BadInput(expected, str(getattr(self, name)), where=f"{name} of a view")


_SHARES = ("flip", "brightness", "blur", "shift", "noise", "noise_sigma")

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "strong": {
        "zoom": (0.75, 1.1),
        "shift": 0.1,
        "rotation": 12.0,
        "aspect": 1.0,
        "flip": 0.0,
        "brightness": 0.15,
        "contrast": (-0.5, 0.4),
        "gamma": 0.5,
        "blur": 0.5,
        "blur_sigma": (0.2 / 128, 2 / 128),
        "noise": 0.5,
        "noise_sigma": 0.06,
    },
    "mild": {
        "zoom": (0.9, 1.1),
        "shift": 0.05,
        "rotation": 8.0,
        "aspect": 1.0,
        "flip": 0.0,
        "brightness": 0.2,
        "contrast": (-0.2, 0.2),
        "gamma": 0.0,
        "blur": 0.0,
    },
    "none": {
        "zoom": (1.0, 1.0),
        "rotation": 0.0,
        "aspect": 1.0,
        "flip": 0.0,
        "brightness": 0.0,
        "contrast": (0.0, 0.0),
        "gamma": 0.0,
        "blur": 0.0,
    },
}
"""Augmentation of training views by name, as fields of :class:`ViewSpec`."""


def training_views(augment: str, size: int) -> ViewSpec:
    """What the views look like that a classifier is trained on.

    Args:
        augment: A name in :data:`AUGMENTATIONS`, strengths that differ from it behind commas: "strong",
            "strong,flip=0.5,zoom=0.9:1.1", "none,rotation=5". Strengths alone change "strong".
        size: Edge of the square view, pixels.

    Raises:
        BadInput: A name or a strength that is not known, or a value it cannot have.
    """
    first, *changes = [part.strip() for part in augment.split(",")]
    if "=" in first:
        first, changes = "strong", [first, *changes]
    if first not in AUGMENTATIONS:
        raise unknown_name("augmentation", first, tuple(AUGMENTATIONS))
    chosen = dict(AUGMENTATIONS[first])
    known = [field.name for field in fields(ViewSpec) if field.name not in ("size", "scale", "count")]
    for change in changes:
        name, _, text = change.partition("=")
        require_known("strength of the augmentation", name, known)
        pair = name in ("zoom", "contrast", "blur_sigma")
        try:
            numbers = tuple(float(number) for number in text.split(":"))
            if len(numbers) != 1 + pair or not all(np.isfinite(numbers)):
                raise ValueError
        except ValueError as error:
            expected = f"{name}=LOW:HIGH" if pair else f"{name}=NUMBER"
            raise BadInput(expected, change, where="--augment") from error
        chosen[name] = numbers if pair else numbers[0]
    return ViewSpec(size, **chosen)


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
    x = width / 2 + rng.uniform(0, 1, shape) * (1 - width)
    y = height / 2 + rng.uniform(0, 1, shape) * (1 - height)
    drawn = {
        "width": width,
        "height": height,
        "x": x,
        "y": y,
        "angle": np.deg2rad(rng.uniform(-spec.rotation, spec.rotation, shape)),
        "mirror": np.where(rng.uniform(0, 1, shape) < spec.flip, -1.0, 1.0),
        "brightness": rng.uniform(-spec.brightness, spec.brightness, shape),
        "contrast": 1 + rng.uniform(*spec.contrast, shape),
        "gamma": np.exp(rng.uniform(-spec.gamma, spec.gamma, shape)),
        "sigma": np.where(rng.uniform(0, 1, shape) < spec.blur, rng.uniform(*spec.blur_sigma, shape), 0.0),
    }
    if spec.zoom is not None:
        shown = 1 / rng.uniform(*spec.zoom, shape)
        drawn |= {"width": np.minimum(shown * stretch, 16.0), "height": np.minimum(shown / stretch, 16.0)}
        drawn |= {axis: 0.5 + rng.uniform(-spec.shift, spec.shift, shape) for axis in ("x", "y")}
    if spec.noise and spec.noise_sigma:
        noisy = rng.uniform(0, 1, shape) < spec.noise
        drawn["noise"] = np.where(noisy, rng.uniform(0, spec.noise_sigma, shape), 0.0)
        drawn |= {axis: rng.integers(0, LAST_NOISE_PLACE, shape, endpoint=True) for axis in ("noise_x", "noise_y")}
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
    size = spec.size
    out = np.empty((count, batch, size, size), np.uint8)
    levels, samples, matrices = warps(views, pixels.shape[1], size)
    tables = exposures(views)
    noise = noise_tile(size) if "noise" in views else None
    for i in range(batch):
        pyramid = [np.ascontiguousarray(pixels[i])]
        for v in range(count):
            while len(pyramid) <= levels[i, v]:
                small = pyramid[-1].shape[0] // 2
                pyramid.append(cv2.resize(pyramid[-1], (small, small), interpolation=cv2.INTER_AREA))
            view = _warped(pyramid[levels[i, v]], matrices[i, v], size, int(samples[i, v]))
            sigma = float(views["sigma"][i, v]) * size
            if sigma > 0:
                view = cv2.GaussianBlur(view, (0, 0), sigma)
            cv2.LUT(view, tables[i, v], dst=out[v, i])
            if noise is not None and (strength := float(views["noise"][i, v])) > 0:
                x, y = (int(noise_place(views[axis][i, v], size)) for axis in ("noise_x", "noise_y"))
                weight = strength * 255 / NOISE_STEPS
                part = noise[y : y + size, x : x + size]
                cv2.addWeighted(out[v, i], 1.0, part, weight, -128 * weight, dst=out[v, i])
    return out


def _warped(source: NDArray[np.uint8], matrix: NDArray[np.float64], size: int, samples: int) -> NDArray[np.uint8]:
    """A view (size, size) without its photometric changes, of one level of the pyramid (E, E); see `warps`."""
    flags = (cv2.INTER_LINEAR if samples == 1 else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    edge = size * samples
    view = cv2.warpAffine(source, matrix, (edge, edge), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    view = view if samples == 1 else cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA)
    return cast(NDArray[np.uint8], view)


@functools.lru_cache(maxsize=8)
def noise_tile(size: int) -> NDArray[np.uint8]:
    """(4 size, 4 size) standard normal noise as 128 + 32 z, the same picture at every size.

    White at each size, and at a coarser one the average of what it is at a finer one: views of one image at the
    sizes of teacher and student share their noise as they share everything else.
    """
    edge, common = _NOISE_EDGES * size, 1024
    drawn = np.random.default_rng(_NOISE_SEED).standard_normal((common, common), np.float32)
    if edge > common:  # each pixel of the common picture is divided, with new noise around its mean
        parts = -(-edge // common)
        block = np.ones((parts, parts), np.float32)
        new = np.random.default_rng([_NOISE_SEED, parts]).standard_normal((common * parts,) * 2, np.float32)
        new -= np.kron(cv2.resize(new, (common, common), interpolation=cv2.INTER_AREA), block)
        drawn = np.kron(drawn, block) / parts + new
    tile = drawn if len(drawn) == edge else cv2.resize(drawn, (edge, edge), interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(128 + NOISE_STEPS * tile / tile.std(), 0, 255)).astype(np.uint8)


def noise_place(drawn: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Where the noise of views begins on the tile of their size, along an axis, pixels; of any shape."""
    return np.asarray(drawn, np.int64) * size // _NOISE_PLACES


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


def warps(views: Views, edge: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The affine warp of each view, and what it reads.

    A view is bilinear, or the average of samples² nearest pixels for each of its own. The average is what `whole` takes
    when it shrinks an image, so that training and evaluation see equally sharp pictures.

    Args:
        views: The drawn parameters, name -> (B, count).
        edge: Edge of the images, pixels.
        size: Edge of the views.

    Returns:
        Level of the image pyramid (B, count), of which level k has 1 / 2^k of the resolution; samples along each axis
        of a pixel (B, count); and maps (B, count, 2, 3) from pixels of the view, as many as are sampled, to those of
        the level.
    """
    shrink = np.maximum(views["width"], views["height"]) * edge / size
    # What the level leaves of the shrinking is averaged in the warp.
    levels = np.ceil(np.log2(np.maximum(shrink / 4, 1.0)) - 1e-6).astype(int)
    samples = _SAMPLES[np.searchsorted(_SHRINK, shrink / 2.0**levels + 1e-6, side="right")]
    scale_x = views["mirror"] * views["width"] * edge / size
    scale_y = views["height"] * edge / size
    cos, sin = np.cos(views["angle"]), np.sin(views["angle"])
    linear = np.empty((*views["x"].shape, 2, 2), np.float64)
    linear[..., 0, 0], linear[..., 0, 1] = cos * scale_x, -sin * scale_y
    linear[..., 1, 0], linear[..., 1, 1] = sin * scale_x, cos * scale_y
    centre = np.stack([views["x"], views["y"]], -1) * edge - 0.5
    offset = centre - (size - 1) / 2 * linear.sum(-1)
    # Both grids keep pixel centres at +0.5: first to the level, then to the finer output.
    ratio = np.array([(edge >> level) / edge for level in range(levels.max(initial=0) + 1)])[levels][..., None]
    parts = samples[..., None]
    offset = offset * ratio + (0.5 * ratio - 0.5) + linear.sum(-1) * (0.5 / parts - 0.5) * ratio
    return levels, samples, np.concatenate([linear * (ratio / parts)[..., None], offset[..., None]], -1)


def exposures(views: Views) -> NDArray[np.uint8]:
    """(B, count, 256) lookup tables of brightness, contrast and gamma."""
    level = np.linspace(0, 1, 256, dtype=np.float32)
    curve = level ** views["gamma"][..., None]
    curve = (curve - 0.5) * views["contrast"][..., None] + 0.5 + views["brightness"][..., None]
    return np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)
