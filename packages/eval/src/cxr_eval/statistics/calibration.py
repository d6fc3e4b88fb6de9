"""Calibration metrics of every resample at once: all of them from sums over patients.

The Brier score is a sum of errors over images. The slope and intercept of the logistic recalibration
are one-step estimates: one Newton step of the resample's regression from the fit to all data, which needs
only the weighted sums of scores and information (Moulton & Zeger 1991, "Bootstrapping generalized linear
models").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_eval.metrics.calibration import Recalibration, fit_recalibration, logit, squared_error
from cxr_eval.metrics.classification import ratio

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]

NAMES = ("brier", "calibration_slope", "calibration_intercept")


def resample(
    targets: NDArray,
    probabilities: NDArray,
    patient: NDArray[np.int64],
    weights: Weights,
    names: Sequence[str] = NAMES,
) -> dict[str, Floats]:
    """Calibration metrics of every label in every resample.

    Args:
        targets: (N, L) in {0, 1, NaN}.
        probabilities: (N, L) in [0, 1].
        patient: (N,) patient number of each image, in [0, P).
        weights: (P, R) how often each patient is drawn.
        names: Which of ``NAMES`` are wanted.

    Returns:
        Name -> (R, L) float64; NaN without a known target, slope and intercept also without both classes.
    """
    labels = [
        _parts(target, probability, patient, len(weights), names)
        for target, probability in zip(targets.T, probabilities.T, strict=True)
    ]
    # All labels in one product: the weights are by far the largest matrix.
    sums = (weights.T @ np.concatenate([np.stack(list(part.values()), axis=1) for part, _ in labels], axis=1)).T
    figures: dict[str, list[Floats]] = {name: [] for name in names}
    start = 0
    for part, fit in labels:
        rows = sums[start : start + len(part)].astype(np.float64)
        start += len(part)
        for name, values in _figures(dict(zip(part, rows, strict=True)), fit, names).items():
            figures[name].append(values)
    return {name: np.stack(values, axis=1) for name, values in figures.items()}


def _parts(
    target: NDArray, probability: NDArray, patient: NDArray[np.int64], patients: int, names: Sequence[str]
) -> tuple[dict[str, NDArray[np.float32]], Recalibration | None]:
    """What is summed over the images of each patient, (P,) each, and the fit to all data."""
    known = ~np.isnan(target)
    t, p, number = target[known].astype(np.float64), probability[known].astype(np.float64), patient[known]

    def summed(values: NDArray) -> NDArray[np.float32]:
        return np.bincount(number, values, minlength=patients).astype(np.float32)

    parts = {"count": summed(np.ones_like(t)), "positive": summed(t)}
    if "brier" in names:
        parts["squared"] = summed(squared_error(t, p))
    if not {"calibration_slope", "calibration_intercept"} & set(names):
        return parts, None
    fit = fit_recalibration(t, p)
    z = logit(p)
    q = expit(z + fit.intercept)
    parts |= {"intercept score": summed(t - q), "intercept information": summed(q * (1 - q))}
    # Centred, so that the two coefficients hardly disturb each other.
    x = z - z.mean() if len(z) else z
    q = expit(fit.shift + fit.slope * z)
    information = q * (1 - q)
    parts |= {"score 0": summed(t - q), "score 1": summed((t - q) * x)}
    parts |= {f"information {k}": summed(information * x**k) for k in range(3)}
    return parts, fit


def _figures(sums: dict[str, Floats], fit: Recalibration | None, names: Sequence[str]) -> dict[str, Floats]:
    """The figures of one label from its weighted sums, (R,) each."""
    count = sums["count"]
    both = (sums["positive"] > 0) & (sums["positive"] < count)
    figures = {}
    if "brier" in names:
        figures["brier"] = ratio(sums["squared"], count)
    if fit is None:
        return figures
    if "calibration_intercept" in names:
        step = ratio(sums["intercept score"], sums["intercept information"])
        figures["calibration_intercept"] = np.where(both, fit.intercept + step, np.nan)
    if "calibration_slope" in names:
        h0, h1, h2 = (sums[f"information {k}"] for k in range(3))
        step = ratio(h0 * sums["score 1"] - h1 * sums["score 0"], h0 * h2 - h1**2)
        figures["calibration_slope"] = np.where(both, fit.slope + step, np.nan)
    return figures
