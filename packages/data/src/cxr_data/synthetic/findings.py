"""What disease adds to a synthetic chest radiograph: five findings, each with the mask of what it changed.

`draw_disease` decides once a patient where each finding would lie and how large it would be. Each drawing function
takes the thickness maps of a chest, alters them in place and returns the mask, bool (edge, edge), never empty.
"""

from dataclasses import dataclass

import numpy as np

from cxr_data.synthetic.body import Layers, Patient, cage, lung
from cxr_data.synthetic.drawing import Frame, band, blur, clouds, ellipse, fill, paint, rounded, smoothstep

FINDINGS = ("consolidation", "effusion", "cardiomegaly", "pneumothorax", "nodule")


@dataclass(frozen=True)
class Disease:
    """Where the findings of one patient lie, should an image have them. Body coordinates unless said otherwise.

    Attributes:
        heart_ratio: cardiothoracic ratio of the enlarged heart.
        consolidation: x (signed), y, radius, share of air lost at its heart, and the seed of its texture.
        effusions: for each fluid collection its side (-1 or 1) and the height of its lateral rim.
        pneumothorax: side, retraction of the lung as a share of its width, 1 = only around the apex.
        nodule: x (signed), y, diameter in units of the image edge, density in water (calcified: above 1).
    """

    heart_ratio: float
    consolidation: tuple[float, float, float, float, int]
    effusions: tuple[tuple[int, float], ...]
    pneumothorax: tuple[int, float, float]
    nodule: tuple[float, float, float, float]


def draw_disease(rng: np.random.Generator) -> Disease:
    """Draw place and extent of every finding a patient may have."""
    side = 1 if rng.random() < 0.45 else -1
    y = float(rng.choice([0.24, 0.5, 0.72], p=[0.3, 0.25, 0.45]) + rng.uniform(-0.07, 0.07))
    inner = 0.34 if side < 0 or y < 0.45 else 0.58
    x = inner + rng.uniform(0.05, 0.8) * (float(cage(y)) - 0.1 - inner)
    consolidation = (side * x, y, rng.uniform(0.26, 0.5), rng.uniform(0.45, 0.9), int(rng.integers(2**31)))

    first = 1 if rng.random() < 0.5 else -1
    heights = 0.14 + rng.beta(1.0, 2.2, 2) * 0.46
    effusions = ((first, float(heights.max())), (-first, float(heights.min())))
    effusions = effusions[: 2 if rng.random() < 0.25 else 1]

    side = 1 if rng.random() < 0.45 else -1
    pneumothorax = (side, 0.2 + 0.4 * float(rng.beta(1.2, 2.2)), float(rng.uniform(0, 1)))

    side = 1 if rng.random() < 0.5 else -1
    y = rng.uniform(0.16, 0.78)
    inner = 0.44 if side < 0 or y < 0.45 else 0.66
    x = inner + rng.uniform(0, 1) * (float(cage(y)) - 0.14 - inner)
    nodule = (side * x, float(y), 0.09 - 0.03 * rng.random() ** 1.5, rng.uniform(2.2, 3.2))
    return Disease(0.53 + 0.14 * float(rng.beta(1.2, 3.0)), consolidation, effusions, pneumothorax, nodule)


def visible(layers: Layers) -> np.ndarray:
    """Where lung is seen clear of heart, mediastinum and diaphragm: bool (edge, edge)."""
    return (layers.lungs > 0.5) & (layers.centre < 0.5)


def consolidation(layers: Layers, frame: Frame, disease: Disease, extent: float) -> np.ndarray:
    """Patchy, ill-defined opacity in one lobe: air spaces filled, vessels no longer outlined."""
    x, y, radius, density, seed = disease.consolidation
    bx, by = frame.grid
    tall = float(np.linalg.norm(frame.matrix[:, 1]) / np.linalg.norm(frame.matrix[:, 0]))
    away = np.sqrt((bx - x) ** 2 + ((by - y) * tall) ** 2) * (1 / (radius * extent))
    rng = np.random.default_rng(seed)
    uneven = clouds(rng, frame.edge, 8, 15)
    uneven -= uneven[away < 1].mean()
    patch = smoothstep(1.15 - away + 0.38 * uneven, 0.0, 1.0)
    patch *= (away < 2) * np.clip(0.85 + 0.2 * clouds(rng, frame.edge, 34), 0.3, 1.2)
    patch = blur(patch, 0.006) * smoothstep(bx if x > 0 else -bx, 0.0, 0.12)
    added = np.minimum(patch * density, 0.9)
    layers.fill = np.maximum(layers.fill, added)
    return _never_empty((patch > 0.4) & visible(layers), patch * visible(layers))


def effusion(layers: Layers, frame: Frame, patient: Patient, disease: Disease, extent: float) -> np.ndarray:
    """Fluid at the lung base with a meniscus that climbs the lateral wall and blunts the costophrenic angle."""
    bx, by = frame.grid
    fluid = np.zeros_like(layers.fill)
    for side, height in disease.effusions:
        lateral = np.clip((side * bx - 0.1) * (1 / 0.9), 0, 1)
        surface = 1.02 + patient.recess - height * extent * (0.5 + 0.15 * lateral**2 + 0.35 * lateral**6)
        fluid = np.maximum(fluid, smoothstep(by - surface, -0.03, 0.05) * (side * bx > 0.02))
    layers.fill = np.maximum(layers.fill, fluid * 0.82)
    layers.soft = layers.soft + fluid * layers.lungs * 0.4
    return _never_empty((fluid > 0.5) & visible(layers), fluid * layers.lungs)


def pneumothorax(layers: Layers, frame: Frame, patient: Patient, disease: Disease, extent: float) -> np.ndarray:
    """Free gas around a retracted lung: no vessels beyond the thin line of the visceral pleura."""
    side, depth, apical = disease.pneumothorax
    outline = lung(side, patient)
    x, y = outline[:, 0] * side, outline[:, 1]
    lateral = np.clip((x - 0.12) / 0.35, 0, 1)
    reach = np.clip((0.92 - 0.35 * apical - y) / 0.35, 0, 1)
    pull = (lateral * reach * depth * extent)[:, None]
    retracted = outline + pull * (np.array([0.25 * side, 0.5]) - outline) * (1, 0.75)
    inside = fill(frame, retracted) * np.float32(1 / 255)
    own = fill(frame, outline) * np.float32(1 / 255)
    gas = np.clip(own - inside, 0, 1)
    layers.gas = np.maximum(layers.gas, 0.45 * gas)
    layers.vessels = layers.vessels * (1 - gas)
    layers.fill = np.maximum(layers.fill, inside * 0.28 * depth)

    line = np.zeros((frame.edge, frame.edge), np.uint8)
    edge = np.flatnonzero(pull[:, 0] > 0.03)
    run = np.roll(edge, -int(np.argmax(np.diff(edge))) - 1) if np.any(np.diff(edge) > 1) else edge
    paint(line, band(frame.place(retracted[run]), 0.0022 * frame.edge), 255)
    layers.soft = layers.soft + blur(line, 0.0018) * layers.lungs * np.float32(0.6 / 255)
    return _never_empty((gas > 0.5) & visible(layers), gas * layers.lungs)


def nodule(layers: Layers, frame: Frame, patient: Patient, disease: Disease, extent: float) -> np.ndarray:
    """Small round density within a lung: the chord of a slightly lobed ball."""
    x, y, diameter, density = disease.nodule
    radius = 0.5 * diameter * extent
    lobes = 1 + 0.06 * np.sin(0.3 * np.pi * np.arange(20) + 40 * x)[:, None]
    ball = ellipse(0, 0, radius / patient.half_width, radius / patient.height, 20) * lobes
    cover = fill(frame, np.add(ball, (x, y)))
    thickness = (40 * 2 * radius * density) * rounded(cover, radius)
    layers.soft = layers.soft + blur(thickness, 0.003)
    return _never_empty(cover > 127, cover)


def _never_empty(mask: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """The mask, or the single strongest pixel where none passed the threshold (tiny pictures)."""
    return mask if mask.any() else strength == strength.max()
