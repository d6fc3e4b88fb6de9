"""Healthy anatomy of the synthetic frontal chest radiograph: shapes, and how thick they are along the ray.

Body coordinates: x from the midline in half thorax widths (positive towards the patient's left, which is the right
of the picture), y from the lung apices (0) to the costophrenic angles (1), downwards. A `Frame` lays them on a square
canvas. Thicknesses are centimetres of water: attenuation adds along a ray, so structures are simply summed.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from cxr_data.synthetic.drawing import (
    Frame,
    band,
    blur,
    clouds,
    curve,
    ellipse,
    fill,
    paint,
    pair,
    rounded,
    smoothstep,
)

RIBS = 11


@dataclass(frozen=True)
class Patient:
    """What stays the same in every image of one patient. Lengths are in body coordinates unless said otherwise."""

    sex: str
    age: int
    half_width: float  # of the thorax, in units of the image edge
    height: float  # of the lungs, in units of the image edge
    girth: float  # skin outside the thorax, in half thorax widths
    taper: float  # how much the body widens downwards
    depth: float  # of the trunk, cm
    heart_ratio: float  # cardiothoracic ratio of the healthy heart
    heart_right: float  # share of the heart right of the midline
    knob: float  # radius of the aortic knob
    hilum: float  # prominence of the hila
    dome: float  # how much higher the right diaphragm lies
    recess: float  # how deep the costophrenic angles reach below y = 1; shallow ones look like a little fluid
    rib_pitch: float
    rib_slope: float
    rib_width: float
    bone: float  # mineral content, 1 = average
    breast: float  # radius, 0 without breast shadow
    nipples: float  # cm
    bubble: float  # radius of the stomach bubble, 0 without
    cartilage: float  # calcification of the rib ends, cm
    skin_fold: bool
    fat_pad: float  # share of air missing beside the heart, on the diaphragm
    vessels: tuple[tuple[np.ndarray, float], ...]  # polylines (P, 4, 2) and their diameter in units of half_width
    bend: np.ndarray  # (RIBS, 2) irregularity of each rib


@dataclass
class Layers:
    """Thickness maps of one image, float32 (edge, edge) but for the heart.

    Findings alter `fill`, `gas`, `vessels` and `soft`.

    Attributes:
        trunk: soft tissue of the whole silhouette, cm.
        lungs: coverage of both lungs in [0, 1].
        air: aerated lung along the ray, cm.
        fill: share of that air replaced by fluid or cells, in [0, 1].
        gas: share of the lung replaced by free gas, in [0, 1].
        vessels: blood in the lungs, cm.
        soft: further soft tissue less further gas, cm.
        bone: mineral, in cm of water that attenuate as much.
        heart: coverage of the heart, uint8, 0 to 255.
        centre: coverage of heart and mediastinum in [0, 1].
    """

    trunk: np.ndarray
    lungs: np.ndarray
    air: np.ndarray
    fill: np.ndarray
    gas: np.ndarray
    vessels: np.ndarray
    soft: np.ndarray
    bone: np.ndarray
    heart: np.ndarray
    centre: np.ndarray


def cage(y: np.ndarray | float) -> np.ndarray:
    """Half width of the inner thorax at height y."""
    return 1.01 - 0.46 * np.exp(-np.maximum(y, -0.1) / 0.22)


def lung(side: int, patient: Patient) -> np.ndarray:
    """Outline of one lung; side -1 is the patient's right (left in the picture)."""
    drop = 0.0 if side < 0 else patient.dome
    corner = (1.0, 1.0 + patient.recess)
    points = [(0.42, 0.0), (0.6, 0.04), (0.765, 0.15), (0.88, 0.32), (0.945, 0.52), (0.985, 0.76)]
    points += [corner, corner, (0.9, 0.935 + 0.6 * (drop + patient.recess)), (0.72, 0.875 + drop), (0.5, 0.85 + drop)]
    points += [(0.3, 0.87 + drop), (0.12, 0.92 + drop), (0.12, 0.92 + drop)]
    points += [(0.1, 0.6), (0.12, 0.32), (0.17, 0.12), (0.26, 0.03)]
    return curve(points, closed=True) * (side, 1)


def heart(patient: Patient, ratio: float) -> np.ndarray:
    """Outline of the heart whose greatest width is `ratio` times that of the thorax."""
    right, left = -2 * ratio * patient.heart_right, 2 * ratio * (1 - patient.heart_right)
    top = 0.46 - 0.2 * (ratio - 0.4)
    points = [(-0.13, top), (0.74 * right, top + 0.12), (right, 0.72), (0.93 * right, 0.86), (0.5 * right, 0.95)]
    points += [(0, 0.985), (0.55 * left, 0.985), (0.92 * left, 0.95), (left, 0.86), (0.94 * left, 0.74)]
    points += [(0.72 * left, top + 0.13), (0.27, top - 0.01), (0.1, top - 0.06)]
    return curve(points, closed=True)


def mediastinum(patient: Patient) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of the central soft tissue and of the aortic knob."""
    tortuous = 0.5 * (patient.knob - 0.085)
    right = [(-0.3, -0.2), (-0.26, -0.04), (-0.19, 0.12), (-0.19 - tortuous, 0.3), (-0.2, 0.5), (-0.14, 1.1)]
    left = [(0.17, 1.1), (0.2, 0.62), (0.25, 0.47), (0.25, 0.38), (0.21, 0.28), (0.2, 0.1), (0.26, -0.04), (0.3, -0.2)]
    return curve(right + left, closed=True), ellipse(0.13 + tortuous, 0.25, patient.knob + 0.03, patient.knob * 0.72)


def trunk(patient: Patient) -> np.ndarray:
    """Outline of neck, shoulders, upper arms and trunk; runs out of the picture below and at the sides."""
    g = patient.girth
    half = [(0.36 + g / 2, -0.9), (0.37 + g / 2, -0.26), (0.6 + g / 2, -0.17), (1.05 + g, -0.1), (1.42 + g, -0.02)]
    half += [(1.68 + g, 0.2), (1.9 + g, 0.7), (2.1 + g, 1.1), (1.6 + g, 1.1), (1.38 + g, 0.6), (1.12 + g, 0.34)]
    half += [(1.06 + g, 0.48), (1.06 + g, 0.8), (1.09 + g, 1.1), (1.15 + g, 1.8)]
    half = np.array(half)
    return curve(np.concatenate([half, half[::-1] * (-1, 1)]), closed=True)


def ribs(patient: Patient) -> tuple[np.ndarray, np.ndarray]:
    """Centre lines of the posterior and anterior parts of the ribs on the left: (RIBS, P, 2) each."""
    number = np.arange(RIBS)
    start = -0.035 + number * patient.rib_pitch + 0.01 * patient.bend[:, 0]
    fall = (0.05 + 0.017 * number) * patient.rib_slope + 0.01 * patient.bend[:, 1]
    dip = 0.075 + 0.012 * number
    lateral = start + fall
    edge = cage(lateral) - 0.01
    back_x = [np.full(RIBS, 0.11), 0.3 * edge, 0.55 * edge, 0.8 * edge, 0.95 * edge, edge]
    back_y = [start, start - 0.022, start - 0.01, start + 0.3 * fall, start + 0.68 * fall, lateral]
    front_x = [edge, 0.97 * edge, 0.85 * edge, 0.68 * edge, 0.3 + 0.22 * edge]
    front_y = [lateral + share * dip for share in (0, 0.35, 0.8, 1.25, 1.6)]
    back, front = np.array([back_x, back_y]).T, np.array([front_x, front_y]).T
    return curve(back, steps=4), curve(front, steps=4)


def vessel_tree(rng: np.random.Generator, side: int, aspect: float) -> list[tuple[np.ndarray, float]]:
    """Pulmonary vessels of one lung: branches that halve, thin out and fade towards the periphery."""
    angle = np.linspace(-1.2, 1.35, 8) + rng.normal(0, 0.15, 8)
    root = np.array([0.25, 0.43 / aspect]) + np.stack([np.zeros(8), np.sin(angle) * 0.17], axis=1)
    bow = rng.normal(0, 0.25, 8) - 0.25 * np.sin(angle)
    length = 0.3 + 0.1 * np.abs(np.sin(angle)) + rng.uniform(-0.05, 0.05, 8)
    tree = []
    for diameter in (0.032, 0.021, 0.013, 0.008):
        turn = rng.normal(0, 0.2, len(angle)) + (bow if len(angle) == 8 else 0)
        middle = angle + turn / 2
        points = [root]
        for step, direction in zip((0.4, 0.3, 0.3), (angle, middle, angle + turn), strict=True):
            heading = np.stack([np.cos(direction), np.sin(direction)], axis=1)
            points.append(points[-1] + heading * (length * step)[:, None])
        tree.append((np.stack(points, axis=1) * (side, aspect), diameter))
        fork = rng.uniform(0.22, 0.5, len(angle))
        angle = np.concatenate([angle + turn + fork, angle + turn - rng.uniform(0.1, 0.45, len(angle))])
        root = np.concatenate([points[-1], points[-1]])
        length = np.concatenate([length, length]) * rng.uniform(0.5, 0.8, len(angle))
    return tree


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw the anatomy of one patient."""
    sex = "F" if rng.random() < 0.47 else "M"
    age = int(np.clip(rng.normal(54, 17), 18, 92))
    female, old = sex == "F", (age - 18) / 74
    half_width = rng.normal(0.352 if female else 0.368, 0.018)
    half_width = float(np.clip(half_width, 0.31, 0.41))
    height = float(np.clip(rng.normal(0.60 if female else 0.63, 0.03), 0.52, 0.69))
    aspect = half_width / height
    tree = [branch for side in (-1, 1) for branch in vessel_tree(rng, side, aspect)]
    girth = 0.04 + float(rng.gamma(3.0, 0.025))
    return Patient(
        sex=sex,
        age=age,
        half_width=half_width,
        height=height,
        girth=girth,
        taper=float(np.clip(rng.normal(0.02, 0.07), -0.13, 0.17)),
        depth=18.5 + 22 * girth + rng.normal(0, 0.8),
        heart_ratio=float(np.clip(rng.normal(0.45 + 0.025 * old, 0.022), 0.40, 0.48)),
        heart_right=rng.uniform(0.29, 0.37),
        knob=0.085 + 0.05 * old + rng.uniform(-0.015, 0.02),
        hilum=float(rng.gamma(6.0, 1 / 6)),
        dome=rng.uniform(0.015, 0.045),
        recess=rng.uniform(-0.075, 0.04),
        rib_pitch=rng.uniform(0.088, 0.106),
        rib_slope=rng.uniform(0.75, 1.35),
        rib_width=rng.uniform(0.026, 0.034),
        bone=(1.1 - 0.3 * old) * rng.uniform(0.8, 1.2),
        breast=rng.uniform(0.34, 0.5) if female else 0.0,
        nipples=rng.uniform(0.5, 1.1) if rng.random() < 0.12 else 0.0,
        bubble=rng.uniform(0.1, 0.24) if rng.random() < 0.55 else 0.0,
        cartilage=max(0.0, old * rng.normal(0.7, 0.5)) if old > 0.35 else 0.0,
        skin_fold=bool(rng.random() < 0.2),
        fat_pad=rng.uniform(0.3, 0.8) if rng.random() < 0.25 + 2 * girth else 0.0,
        vessels=tuple(tree),
        bend=rng.normal(0, 0.5, (RIBS, 2)),
    )


# ----------------------------------------------------------------------------------------------------------- layers


def _ribs(patient: Patient, frame: Frame) -> np.ndarray:
    """Mineral of the ribs, 0 to 1: tubes, brighter at their edges, the anterior parts fainter."""
    half = patient.rib_width * patient.half_width * frame.edge
    back, front = ribs(patient)
    total = np.zeros((frame.edge, frame.edge), np.float32)
    for lines, broad, weight in ((front[:8], 1.15, 0.55), (back, 1.0, 1.0)):
        canvas = np.zeros((frame.edge, frame.edge), np.uint8)
        lines = frame.place(np.concatenate([lines, lines * (-1, 1)]))
        paint(canvas, band(lines, half * broad), 255)
        paint(canvas, band(lines, half * 0.55), 145)
        total += canvas * np.float32(weight / 255)
    return total


def _shoulder_girdle(patient: Patient, frame: Frame, bedside: bool) -> np.ndarray:
    """Mineral of clavicles, scapulae and upper arms, 0 to 1. Bedside (AP) scapulae lie over the lungs."""
    unit = patient.half_width * frame.edge
    canvas = np.zeros((frame.edge, frame.edge), np.uint8)
    lift, inward = (-0.035, 0.13) if bedside else (0.0, 0.0)
    blade = [(1.16, 0.05), (1.02, 0.02), (0.84, 0.06), (0.86, 0.2), (0.93, 0.36), (0.99, 0.45), (1.06, 0.4)]
    blade = frame.place(pair(curve([*blade, (1.12, 0.2)], closed=True) - (inward, 0)))
    paint(canvas, blade, 70)
    paint(canvas, band(blade[:, 6:32], 0.014 * unit), 130)
    paint(canvas, frame.place(pair(ellipse(1.25, 0.045, 0.13, 0.075))), 150)
    arm = frame.place(pair(curve([(1.27, 0.06), (1.36, 0.25), (1.52, 0.6), (1.7, 1.0)])))
    paint(canvas, band(arm, 0.065 * unit), 190)
    collar = [(0.07, 0.135), (0.2, 0.1), (0.4, 0.065), (0.62, 0.05), (0.86, 0.03), (1.1, 0.015)]
    line = frame.place(pair(curve(np.add(collar, (0, lift)))))
    width = unit * np.interp(np.linspace(0, 1, line.shape[1]), [0, 0.12, 0.5, 1], [0.065, 0.042, 0.036, 0.05])
    paint(canvas, band(line, width), 215)
    paint(canvas, band(line, width * 0.5), 150)
    return canvas * np.float32(1 / 255)


@cache
def _vertebrae() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outlines of vertebral bodies, spinous processes and pedicles in body coordinates."""
    bodies, spines, pedicles = [], [], []
    for number in range(-10, 20):
        y, w = 0.005 + 0.078 * number, 0.095 + 0.0015 * max(number, -4)
        box = [(-w, y), (w, y), (w * 0.88, y + 0.03), (w, y + 0.062), (-w, y + 0.062), (-w * 0.88, y + 0.03)]
        bodies.append(np.array(box))
        spines.append(ellipse(0, y + 0.05, 0.025, 0.028, 12))
        pedicles.extend(pair(ellipse(0.06, y + 0.02, 0.02, 0.013, 10)))
    return np.stack(bodies), np.stack(spines), np.stack(pedicles)


def _spine(frame: Frame) -> np.ndarray:
    """Mineral of the vertebral column, 0 to 1."""
    canvas = np.zeros((frame.edge, frame.edge), np.uint8)
    for outlines, value in zip(_vertebrae(), (150, 220, 205), strict=True):
        paint(canvas, frame.place(outlines), value)
    return canvas * np.float32(1 / 255)


def _vessels(patient: Patient, frame: Frame) -> np.ndarray:
    """Blood in the pulmonary vessels, cm, before it is cut to the lungs."""
    canvas = np.zeros((frame.edge, frame.edge), np.uint8)
    unit = patient.half_width * frame.edge
    for lines, diameter in reversed(patient.vessels):
        width = diameter * unit
        shade = 255 * diameter / patient.vessels[0][1] * min(1.0, width)
        pixels = np.rint(frame.place(lines) * 16).astype(np.int32)
        cv2.polylines(canvas, list(pixels), False, shade, max(1, round(width)), cv2.LINE_AA, 4)
    return blur(canvas, 0.0025) * np.float32(1 / 255)


def _soft_parts(patient: Patient, frame: Frame) -> np.ndarray:
    """Breasts, nipples, a skin fold and calcified cartilage, less the gas of windpipe and stomach; cm."""
    unit, shape = patient.half_width, (frame.edge, frame.edge)
    airway = np.zeros(shape, np.uint8)
    trachea = curve([(0.0, -0.9), (0.0, 0.0), (-0.03, 0.2), (-0.035, 0.34)])
    paint(airway, band(frame.place(trachea), 0.06 * unit * frame.edge), 255)
    for bronchus in ([(-0.04, 0.32), (-0.14, 0.39), (-0.22, 0.46)], [(-0.02, 0.32), (0.12, 0.38), (0.24, 0.42)]):
        paint(airway, band(frame.place(curve(bronchus)), 0.042 * unit * frame.edge), 150)
    soft = airway * np.float32(-2.7 / 255)
    if patient.nipples:
        soft += fill(frame, pair(ellipse(0.6, 0.79, 0.032, 0.018))) * np.float32(patient.nipples / 255)
    if patient.bubble:
        gas = ellipse(0.45, 0.985 + patient.bubble * 0.3, patient.bubble, patient.bubble * 0.36)
        gas[:, 1] = np.minimum(gas[:, 1], 0.985 + patient.bubble * 0.45)
        soft -= fill(frame, gas) * np.float32(3.8 / 255)
    if patient.cartilage:
        ends = ribs(patient)[1][1:7, -1]
        spots = np.concatenate([pair(ellipse(x, y, 0.045, 0.012, 12)) for x, y in ends])
        soft += fill(frame, spots) * np.float32(patient.cartilage / 255)
    if patient.skin_fold:
        fold = curve([(0.62, 0.05), (0.7, 0.3), (0.76, 0.6), (0.74, 0.8)])
        edge = fill(frame, np.concatenate([fold, np.add(fold[::-1], (0.14, 0))]))
        soft += edge * smoothstep(-frame.grid[0], -0.9, -0.7) * np.float32(1.2 / 255)
    if patient.breast:
        outline = fill(frame, *pair(ellipse(0.56, 0.74, patient.breast, patient.breast * 0.6)))
        lower = smoothstep(frame.grid[1], 0.45, 0.95) * np.float32(7.5 * patient.breast)
        soft += rounded(outline, patient.breast * unit * 0.7) * lower
    return blur(soft, 0.004)


def layers(patient: Patient, frame: Frame, ratio: float, bedside: bool, rng: np.random.Generator) -> Layers:
    """Thickness maps of a healthy chest.

    Args:
        patient: anatomy.
        frame: position of the body on the canvas.
        ratio: cardiothoracic ratio to draw.
        bedside: AP projection of a lying or sitting patient instead of PA.
        rng: for fine texture.
    """
    unit, zero = patient.half_width, np.zeros((frame.edge, frame.edge), np.float32)
    x, y = frame.grid
    body = fill(frame, trunk(patient))
    thick = rounded(body, unit * (0.5 + patient.girth)) * (patient.depth + 3.5 * smoothstep(y, 0.8, 1.25))
    thick *= 1 - 0.35 * smoothstep(-y, -0.05, 0.25) - 0.5 * smoothstep(np.abs(x), 1.1, 1.5)

    lungs = fill(frame, lung(-1, patient), lung(1, patient))
    air = rounded(lungs, 0.5 * unit) * (lungs * np.float32(0.78 * patient.depth / 255))
    air = np.minimum(air, 0.85 * thick)
    lungs = lungs * np.float32(1 / 255)

    outline, knob = mediastinum(patient)
    heart_map = fill(frame, heart(patient, ratio))
    middle = np.maximum(fill(frame, outline), fill(frame, knob))
    muscle = rounded(heart_map, 0.35 * unit) * 0.35 + heart_map * np.float32(0.6 / 255)
    centre = np.maximum(muscle, blur(middle, 0.006) * np.float32(0.95 / 255))
    air *= 1 - blur(np.minimum(centre, 1), 0.003)
    if patient.fat_pad:
        pads = fill(frame, ellipse(0.62, 0.9, 0.2, 0.09), ellipse(-0.34, 0.9, 0.12, 0.07))
        air *= 1 - blur(pads, 0.012) * np.float32(patient.fat_pad / 255)

    hila = fill(frame, ellipse(-0.27, 0.45, 0.085, 0.085), ellipse(0.29, 0.41, 0.08, 0.07))
    hila = blur(hila, 0.018) * np.float32(3.0 * patient.hilum / 255)
    vessels = (_vessels(patient, frame) * (1.6 if not bedside else 1.8) + hila) * np.minimum(air * (1 / 4), 1)
    vessels += np.minimum(air * (1 / 6), 1) * 0.25 * clouds(rng, frame.edge, 14, 40)

    soft = (0.25 + 0.35 * smoothstep(y, 0.8, 1.1)) * clouds(rng, frame.edge, 4, 10) + _soft_parts(patient, frame)
    bone = _ribs(patient, frame) * 1.45 + _shoulder_girdle(patient, frame, bedside) * 3.6 + _spine(frame) * 2.6
    bone = blur(bone * patient.bone, 0.0025)
    return Layers(thick, lungs, air, zero, zero.copy(), vessels, soft, bone, heart_map, centre)
