"""Maximum-likelihood slopes and shifts for Platt's calibration: convex problems, solved by Newton's method."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fit_sigmoid(z: Array, wanted: Array) -> tuple[float, float]:
    """Slope and shift of σ(a z + b) of the least mean cross-entropy to ``wanted``."""
    x = np.stack([z, np.ones(len(z))])

    def derivatives(theta: Array) -> tuple[float, Array, Array]:
        scaled = theta @ x
        p = 0.5 * (1 + np.tanh(0.5 * scaled))  # the sigmoid
        loss = float(np.mean(np.logaddexp(0, scaled) - wanted * scaled))
        return loss, x @ (p - wanted) / len(z), (x * p * (1 - p)) @ x.T / len(z)

    a, b = _minimise_with_slope(derivatives, 1)
    return float(a), float(b)


def fit_softmax(z: Array, target: Array) -> tuple[float, Array]:
    """Slope and shifts (mean 0) of softmax(a z + b) of the least mean cross-entropy."""
    classes = z.shape[1]
    # One made-up image, uniform in all, keeps the shifts finite and fixes their sum.
    x = np.concatenate([z, np.zeros((1, classes))])
    wanted = np.concatenate([target, np.full((1, classes), 1 / classes)])

    def derivatives(theta: Array) -> tuple[float, Array, Array]:
        scaled = theta[0] * x + theta[1:]
        top = scaled.max(axis=1, keepdims=True)
        log_p = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        error = p - wanted
        gradient = np.concatenate([[np.sum(error * x)], error.sum(axis=0)])
        hessian = np.empty((classes + 1, classes + 1))
        mean = (p * x).sum(axis=1, keepdims=True)
        hessian[0, 0] = np.sum(p * (x - mean) ** 2)
        hessian[0, 1:] = hessian[1:, 0] = (p * (x - mean)).sum(axis=0)
        hessian[1:, 1:] = np.diag(p.sum(axis=0)) - p.T @ p + 1  # + 1: adding one number to all shifts is no change
        return -float(np.sum(wanted * log_p)) / len(x), gradient / len(x), hessian / len(x)

    slope, *shift = _minimise_with_slope(derivatives, classes)
    centred = np.asarray(shift, np.float64) - float(np.mean(shift))
    return float(slope), centred


def _minimise_with_slope(derivatives: Callable[[Array], tuple[float, Array, Array]], shifts: int) -> Array:
    """Minimise a convex loss of (slope, shifts) by Newton's method; a slope out of [0.05, 20] is held at the bound."""
    theta = _newton(derivatives, np.concatenate([[1.0], np.zeros(shifts)]), np.arange(shifts + 1))
    if not 0.05 <= theta[0] <= 20:
        theta[0] = np.clip(theta[0], 0.05, 20)
        theta = _newton(derivatives, theta, np.arange(1, shifts + 1))
    return theta


def _newton(derivatives: Callable[[Array], tuple[float, Array, Array]], theta: Array, free: NDArray[np.int64]) -> Array:
    """Damped Newton's method on the free ones of some parameters."""
    loss, gradient, hessian = derivatives(theta)
    for _ in range(100):
        step = np.zeros_like(theta)
        step[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=None)[0]
        length = 1.0
        while length > 1e-8:
            trial = derivatives(theta - length * step)
            if trial[0] <= loss:
                break
            length /= 2
        else:
            return theta
        theta, improved = theta - length * step, loss - trial[0]
        loss, gradient, hessian = trial
        if improved < 1e-14 and np.abs(length * step).max() < 1e-8:
            break
    return theta
