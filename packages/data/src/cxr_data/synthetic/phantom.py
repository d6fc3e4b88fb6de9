"""Synthetic frontal chest radiographs with known findings and masks.

No patient, no download: a stand-in with which every command runs, and a test bed in which the truth is known to the
pixel. Thickness maps of a variable anatomy are summed, attenuated (Beer-Lambert), given scatter and quantum noise and
displayed like film. Nothing here is a substitute for clinical data.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from cxr_data.errors import BadInput, require_known
from cxr_data.machine import usable_cores
from cxr_data.synthetic import findings
from cxr_data.synthetic.body import Layers, Patient, draw_patient, layers
from cxr_data.synthetic.drawing import Frame, band, blur, curve, ellipse, paint
from cxr_data.synthetic.findings import FINDINGS, Disease, draw_disease

NORMAL = "normal"
CLASSES = (NORMAL, *FINDINGS)

IMAGES_PER_PATIENT = (0.4, 0.3, 0.2, 0.1)  # probabilities of 1, 2, 3 and 4 images: two on average
DISPOSED = (0.25, 0.23, 0.21, 0.17, 0.21)  # share of patients disposed to each finding ...
SHOWN, CHANCE = (0.82, 0.82, 0.95, 0.8, 0.85), (0.06, 0.06, 0.01, 0.03, 0.03)  # ... who show it, others who do
NORMAL_SHARE, STAYS = 0.34, 0.8  # multiclass: share of healthy patients, images that show the patient's own class

WATER = 0.2  # attenuation of water at diagnostic energies, 1/cm
AERATED = 0.76  # what a centimetre of healthy lung lacks in attenuation, in cm of water
DRAWN_EDGE = 160  # pictures smaller than this are drawn larger and averaged


def phantom(n: int, *, size: int, seed: int = 0, task: str = "multilabel") -> dict:
    """Draw synthetic chest radiographs with findings, masks and patients.

    Image i depends on the seed and on i alone: a larger n only appends images. Images of one patient follow each other
    (one to four, two on average), share their anatomy and, in part, their findings. The same seed gives the same
    chests at every size.

    Args:
        n: number of images, at least 1.
        size: edge of the square images in pixels, at least 16.
        seed: any non-negative integer.
        task: "multilabel" (five findings that may occur together; about a third of the images show none) or
            "multiclass" (those and "normal" as the first of six classes, exactly one an image).

    Returns:
        A dict with

        - `pixels`: uint8 (n, size, size), bone and soft tissue bright;
        - `masks`: uint8 (n, L, size, size), 1 where a finding is, empty exactly where its target is 0 and for
          "normal"; the mask of cardiomegaly is the heart;
        - `labels`: tuple of L names;
        - `targets`: float32 (n, L), 0 or 1;
        - `patient`: list of n patient names;
        - `extras`: dict of lists of length n: `projection` ("PA" or "AP"), `sex` ("F" or "M"), `age` (years, int).

    Raises:
        BadInput: n, size, seed or task out of range.
    """
    require_known("task", task, ("multilabel", "multiclass"))
    for name, value, least in (("n", n, 1), ("size", size, 16), ("seed", seed, 0)):
        if value < least:
            raise BadInput(f"{name} of at least {least}", str(value), where="phantom cohort")
    labels = FINDINGS if task == "multilabel" else CLASSES
    owner, turn = _owners(n, seed)
    pixels = np.empty((n, size, size), np.uint8)
    masks = np.zeros((n, len(labels), size, size), np.uint8)
    targets = np.zeros((n, len(labels)), np.float32)
    people: list[tuple[str, str, int]] = [("", "", 0)] * n

    def draw(number: int) -> None:
        rng = np.random.default_rng([seed, 1, number])
        patient, disease = draw_patient(rng), draw_disease(rng)
        own, disposed = _own_class(rng), _disposition(rng, patient)
        for i in range(*np.searchsorted(owner, (number, number + 1))):
            rng = np.random.default_rng([seed, 2, number, int(turn[i])])
            usual = np.random.default_rng([seed, 3, number])
            shown = _class_of_image(rng, own) if task == "multiclass" else _findings_of_image(rng, disposed)
            bedside = bool(rng.random() < 0.15 + 0.2 * min(int(shown.sum()), 2))
            pixels[i], lesions = _radiograph(usual, rng, patient, disease, shown, bedside, size)
            masks[i, -len(FINDINGS) :] = lesions
            targets[i, -len(FINDINGS) :] = shown
            people[i] = ("AP" if bedside else "PA", patient.sex, patient.age)

    # A large block freed once makes glibc keep freed canvases instead of handing each back to the system: 2x faster.
    np.empty(1 << 24, np.uint8)
    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        list(pool.map(draw, range(int(owner[-1]) + 1)))
    if task == "multiclass":
        targets[:, 0] = targets[:, 1:].sum(1) == 0
    projection, sex, age = (list(column) for column in zip(*people, strict=True))
    return {
        "pixels": pixels,
        "masks": masks,
        "labels": labels,
        "targets": targets,
        "patient": [f"phantom-{number:05d}" for number in owner],
        "extras": {"projection": projection, "sex": sex, "age": age},
    }


def _owners(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patient number of each image and its place among that patient's images: int64 (n,) each."""
    draws = np.random.default_rng([seed, 0]).random(n)
    counts = np.searchsorted(np.cumsum(IMAGES_PER_PATIENT)[:-1], draws, side="right") + 1
    owner = np.repeat(np.arange(n), counts)[:n]
    start = np.concatenate([[0], np.cumsum(counts)])
    return owner, np.arange(n) - start[owner]


def _disposition(rng: np.random.Generator, patient: Patient) -> np.ndarray:
    """Findings a patient is disposed to, bool (5,); failing hearts and effusions come with age and together."""
    share = np.array(DISPOSED)
    draws = rng.random(len(FINDINGS))
    share[2] *= 0.5 + 1.0 * (patient.age > 50)
    if draws[2] < share[2]:
        share[1] *= 1.5
    return draws < share


def _findings_of_image(rng: np.random.Generator, disposed: np.ndarray) -> np.ndarray:
    """Findings of one image, bool (5,)."""
    return rng.random(len(FINDINGS)) < np.where(disposed, SHOWN, CHANCE)


def _own_class(rng: np.random.Generator) -> int:
    """Class of a patient: 0 normal, else 1 + finding."""
    return 0 if rng.random() < NORMAL_SHARE else int(rng.integers(len(FINDINGS))) + 1


def _class_of_image(rng: np.random.Generator, own: int) -> np.ndarray:
    """At most one finding for one image of a patient of class `own`, bool (5,)."""
    stays = rng.random() < STAYS
    return np.arange(1, len(CLASSES)) == (own if stays else _own_class(rng))


def _radiograph(
    usual: np.random.Generator,
    rng: np.random.Generator,
    patient: Patient,
    disease: Disease,
    shown: np.ndarray,
    bedside: bool,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take one radiograph: uint8 (size, size), and the masks of its findings, uint8 (5, size, size).

    What `usual` decides (stance, equipment) is the same for every image of a patient; `rng` is for this image. How
    much is drawn from either does not depend on `shown`.
    """
    factor = max(1, round(DRAWN_EDGE / size))
    angle = usual.normal(0, 0.022) + rng.normal(0, 0.012)
    breath = 1 - (rng.uniform(0.04, 0.12) if bedside else rng.uniform(0, 0.05))
    scale = 1 + rng.normal(0, 0.015)
    width, height = patient.half_width * scale, patient.height * scale * breath
    middle = 0.5 + usual.normal(0, 0.012) + rng.normal(0, 0.008)
    top = 0.11 + (0.93 - 0.11 - height) * np.clip(usual.uniform(0.1, 0.6) + rng.normal(0, 0.1), 0, 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    frame = Frame(size * factor, np.column_stack([turn * (width, height), (middle, top)]), patient.taper)

    near = 0.03 if bedside else 0.0  # the heart lies farther from the film and looks larger
    ratio = min(patient.heart_ratio, 0.48) + near + rng.normal(0, 0.008)
    enlarged = max(disease.heart_ratio + rng.normal(0, 0.008), 0.5) + near
    ratio = enlarged if shown[2] else min(ratio, 0.485 + near)
    chest = layers(patient, frame, ratio, bedside, rng)
    extent = rng.uniform(0.85, 1.2, len(FINDINGS)).tolist()
    masks = np.zeros((len(FINDINGS), frame.edge, frame.edge), np.uint8)
    if shown[0]:
        masks[0] = findings.consolidation(chest, frame, disease, extent[0])
    if shown[4]:
        masks[4] = findings.nodule(chest, frame, patient, disease, extent[4])
    if shown[3]:
        masks[3] = findings.pneumothorax(chest, frame, patient, disease, extent[3])
    if shown[1]:
        masks[1] = findings.effusion(chest, frame, patient, disease, extent[1])
    if shown[2]:
        masks[2] = chest.heart > 127
    if (usual.random() < 0.45) & bedside:
        chest.bone = chest.bone + _leads(frame, rng)
    grain = np.random.default_rng(int(rng.integers(2**32)))  # its own, so that nothing else depends on the size
    density = _expose(chest, size, 0.2 if bedside else 0.12, grain)
    picture = _develop(density, bedside, usual, rng)
    margins = (top, 1 - top - 1.03 * height, middle - 1.08 * width, 1 - middle - 1.08 * width)
    return _overlay(picture, margins, usual, rng), _reduce(masks, size)


def _leads(frame: Frame, rng: np.random.Generator) -> np.ndarray:
    """Monitoring electrodes and their wires, cm of water that attenuate as much."""
    canvas = np.zeros((frame.edge, frame.edge), np.uint8)
    for side, y in ((-1, 0.12), (1, 0.12), (1, 0.85))[: int(rng.integers(1, 4))]:
        x, y = side * rng.uniform(0.5, 0.85), y + rng.uniform(-0.06, 0.08)
        wire = curve([(x, y), (x * 0.7, y + 0.2), (x * 1.1, y + 0.5), (x * rng.uniform(0.3, 1.8), 1.9)], steps=12)
        paint(canvas, band(frame.place(wire), 0.0028 * frame.edge), 110)
        paint(canvas, frame.place(ellipse(x, y, 0.045, 0.026)), 80)
        paint(canvas, frame.place(ellipse(x, y, 0.02, 0.012)), 255)
    return blur(canvas, 0.0015) * np.float32(4 / 255)


def _overlay(
    picture: np.ndarray,
    margins: tuple[float, float, float, float],
    usual: np.random.Generator,
    rng: np.random.Generator,
) -> np.ndarray:
    """Add what is not the patient: collimation border and side marker.

    Args:
        picture: uint8 (size, size).
        margins: free of lung at the top, bottom, left and right, in units of the image edge.
        usual: same for all images of a patient.
        rng: for this image.
    """
    size = len(picture)
    habit = usual.random(3)
    if habit[0] < 0.35:
        top, bottom, left, right = np.maximum(rng.uniform(-0.4, 0.55, 4), 0) * np.maximum(margins, 0) * size
        tilt = rng.normal(0, 0.006, 4) * size
        corners = [(left + tilt[0], top), (size - right + tilt[1], top + tilt[2])]
        corners += [(size - right, size - bottom), (left, size - bottom + tilt[3])]
        field = np.zeros_like(picture)
        paint(field, np.array(corners) - 0.5, 255)
        outside = 245 if rng.random() < 0.15 else 4
        picture = (picture * (field / 255) + outside * (1 - field / 255)).astype(np.uint8)
    if habit[1] < 0.65:
        edge = size * max(1, round(2 * DRAWN_EDGE / size))
        letter, x = ("L", rng.uniform(0.86, 0.93)) if habit[2] < 0.6 else ("R", rng.uniform(0.04, 0.1))
        ink, scale = np.zeros((edge, edge), np.uint8), edge / 400 * (0.8 + habit[2] * 0.5)
        place = (int(x * edge), int(rng.uniform(0.07, 0.16) * edge))
        cv2.putText(ink, letter, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, round(2.4 * scale)), cv2.LINE_AA)
        picture = np.maximum(picture, cv2.resize(ink, (size, size), interpolation=cv2.INTER_AREA))
    return picture


def _expose(chest: Layers, size: int, grid: float, grain: np.random.Generator) -> np.ndarray:
    """Logarithm of the loss behind the chest, float32 (size, size).

    Args:
        chest: thickness maps, at a whole multiple of the size.
        size: edge of the picture.
        grid: share of scattered radiation that reaches the detector.
        grain: for the quantum noise.
    """
    lost = AERATED * (1 - chest.fill) + (1 - AERATED) * chest.gas
    tissue = chest.trunk - chest.air * lost + chest.soft + chest.vessels * (1 - 0.7 * chest.fill)
    tissue = np.maximum(tissue, 0) * (chest.trunk > 0.3) + chest.bone
    primary = np.exp(-WATER * tissue)
    arriving = primary + 0.1 * grid + grid * blur(primary, 0.09)
    if len(arriving) > size:
        arriving = cv2.resize(arriving, (size, size), interpolation=cv2.INTER_AREA)
    noise = grain.standard_normal((size, size), dtype=np.float32) * (0.006 * (size / 96) ** 0.4)
    return noise / np.sqrt(arriving) - np.log(arriving)


def _develop(density: np.ndarray, bedside: bool, usual: np.random.Generator, rng: np.random.Generator) -> np.ndarray:
    """Film-like display uint8 (size, size): window on lungs and abdomen, toe and shoulder, gamma, edge enhancement.

    The system a patient is taken with is usually the same (`usual`); exposure differs a little each time (`rng`).
    """
    enhance, gamma, contrast, level = usual.uniform((0, 0.8, 0.75, -0.06), (0.9, 1.35, 1.05, 0.06)).tolist()
    gamma *= float(np.exp(rng.normal(0, 0.06)))
    contrast *= (0.88 if bedside else 1.0) * float(np.exp(rng.normal(0, 0.03)))
    density = density + enhance * (density - blur(density, 0.05))
    shade = cv2.resize(density, (48, 48), interpolation=cv2.INTER_AREA)
    low, high = np.percentile(shade[shade > 1.0], (4, 96)).tolist()
    value = (density - low) * (1 / (high - low)) + (0.16 + level + rng.normal(0, 0.02))
    value = 0.5 * (value + np.sqrt(value * value + 0.015))
    rest = 1.18 - value
    value = np.clip(1 - 0.5 * (rest + np.sqrt(rest * rest + 0.03)), 0, 1)
    value = contrast * (value**gamma - 0.5) + 0.5 - 0.5 * (1 - min(contrast, 1)) * (value < 0)
    return np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)


def _reduce(masks: np.ndarray, size: int) -> np.ndarray:
    """Masks at the final size: more than half of a pixel, or the fullest pixel where none is half full."""
    if masks.shape[-1] == size:
        return masks
    small = np.zeros((len(masks), size, size), np.uint8)
    for k, mask in enumerate(masks):
        if mask.any():
            share = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
            small[k] = share >= min(0.5, float(share.max()))
    return small
