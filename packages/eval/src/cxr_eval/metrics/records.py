"""Every metric as one record: its name, how it is computed, and how its interval is made.

Tables, intervals, the report, model cards, the terminal and docs/metrics.md are made from ``METRICS``. To add a metric,
add a record: ``METRICS["youden"] = Metric("youden", "Youden's J", ...)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_data.models.metrics import auroc
from cxr_eval.metrics import calibration, classification
from cxr_eval.metrics.classification import OPERATING_LEVELS
from cxr_eval.statistics import calibration as resampled_calibration
from cxr_eval.statistics.ranking import ranking

Floats = NDArray[np.float64]
OfArrays = Callable[[NDArray, NDArray, NDArray], NDArray]
"""``(targets, scores, decisions)``, each (N, L), to (L,)."""
OfCounts = Callable[[NDArray, NDArray, NDArray, NDArray], NDArray]
"""``(tp, fp, fn, tn)`` of one shape to that shape; weighted counts are fine."""
Resampled = Callable[[NDArray, NDArray, NDArray, NDArray, Sequence[str]], Mapping[str, NDArray]]
"""``(targets, scores, patient, weights, names)`` to name -> (R, L), several metrics at once."""

_MISSING = {
    "positive": "no positive image",
    "negative": "no negative image",
    "called positive": "no image was called positive",
    "called negative": "no image was called negative",
}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Key in metrics.json.
        title: Heading of its column.
        about: What it is, for docs/metrics.md.
        better: "higher", "lower", or the value it should have.
        prevalence: Whether it changes with the share of positive images while each class is answered as before.
        of_arrays: Its value for every label, NaN where undefined; None for a metric of counts.
        of_counts: The same from confusion counts.
        resampled: Its value in many resamples at once; None computes each resample by itself.
        of_classes: With more than two exclusive classes, its value for the decided class from (..., K, K) confusion
            matrices; None takes one class against the rest.
        needs: What it is undefined without, of "positive", "negative", "called positive", "called negative".
        otherwise: Why it is undefined where it lacks none of these.
        interval: How its interval is made: "jackknife"; "bootstrap", for a figure that jumps when a patient is left
            out; or "none".
        no_interval: Why it has none.
        scale: Scale of the interval, see ``cxr_common.jackknife.interval``.
        degrees: The interval's degrees of freedom from those of the jackknife, chosen by simulated coverage
            (docs/metrics.md).
        images: For a proportion of images, (N, L) those in its denominator, from targets and decisions.
        family: "ranking" (the order of the scores decides), "decision" or "calibration".
        compared: Whether differences between models are reported.
        places: Where it is shown beside the full tables: "summary" (report and card), "terminal", "label" (card),
            "gap" (largest gaps between subgroups), "subgroup".
        hub: Name on the Hugging Face hub, where it has one.

    Examples:
        >>> from cxr_eval import METRICS
        >>> METRICS["recall"].title, METRICS["recall"].prevalence
        ('Sensitivity', False)
    """

    name: str
    title: str
    about: str
    family: Literal["ranking", "decision", "calibration"]
    better: Literal["higher", "lower"] | float = "higher"
    prevalence: bool = True
    of_arrays: OfArrays | None = None
    of_counts: OfCounts | None = None
    resampled: Resampled | None = None
    of_classes: Callable[[NDArray], NDArray] | None = None
    needs: tuple[str, ...] = ()
    otherwise: str = "undefined for these counts"
    interval: Literal["jackknife", "bootstrap", "none"] = "jackknife"
    no_interval: str = ""
    scale: str = "logit"
    degrees: Callable[[float], float] = float
    images: Callable[[NDArray, NDArray], NDArray] | None = None
    compared: bool = True
    places: frozenset[str] = frozenset()
    hub: str | None = None

    def __post_init__(self) -> None:
        if (self.of_arrays is None) == (self.of_counts is None):
            raise ValueError(f"metric {self.name}: give of_arrays or of_counts")

    def why_undefined(self, counts: Mapping[str, int]) -> str:
        """The reason in words for a NaN of one label, from its confusion counts."""
        present = {
            "positive": counts["tp"] + counts["fn"],
            "negative": counts["fp"] + counts["tn"],
            "called positive": counts["tp"] + counts["fp"],
            "called negative": counts["fn"] + counts["tn"],
        }
        if present["positive"] + present["negative"] == 0:
            return "no image has a known label"
        return next((_MISSING[need] for need in self.needs if not present[need]), self.otherwise)


_FEW_DECIDE = "a few positives decide the threshold, and no interval covers the true value as often as it says"


def _operating_levels() -> list[Metric]:
    records = []
    for one, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
        for level in OPERATING_LEVELS:
            name = f"{one}_at_{other}_{level}"
            records.append(
                Metric(
                    name,
                    f"{one.capitalize()} at {level} % {other}",
                    f"best attainable point of these images' ROC curve with at least {level} % {other}; describes the "
                    "ranking, nothing is decided with it",
                    "ranking",
                    prevalence=False,
                    of_arrays=lambda t, s, d, name=name: classification.operating_levels(t, s)[name],
                    resampled=ranking,
                    needs=("positive", "negative"),
                    interval="bootstrap" if one == "sensitivity" else "none",
                    no_interval="" if one == "sensitivity" else _FEW_DECIDE,
                    scale="proportion",
                    compared=one == "sensitivity",
                )
            )
    return records


_BOTH = ("positive", "negative")
_ECE = "absolute errors add up to too much in every sample; no interval covers the true value as often as it says"

RECORDS = (
    Metric(
        "auroc",
        "AUROC",
        "area under the ROC curve, ties count one half",
        "ranking",
        prevalence=False,
        of_arrays=lambda t, s, d: auroc(t, s),
        resampled=ranking,
        needs=_BOTH,
        places=frozenset({"summary", "terminal", "label", "gap", "subgroup"}),
        hub="roc_auc",
    ),
    Metric(
        "auprc",
        "AUPRC",
        "area under the precision-recall curve by steps (average precision)",
        "ranking",
        of_arrays=lambda t, s, d: classification.average_precision(t, s),
        resampled=ranking,
        needs=("positive",),
        degrees=lambda v: v - 2.5,
        places=frozenset({"summary", "terminal", "label", "subgroup"}),
    ),
    *_operating_levels(),
    Metric(
        "f1",
        "F1",
        "2 TP / (2 TP + FP + FN)",
        "decision",
        of_counts=classification.f1,
        otherwise="no positive image and none called positive",
        scale="proportion",
        degrees=lambda v: 4 * v,
        places=frozenset({"summary", "terminal", "label", "subgroup"}),
        hub="f1",
    ),
    Metric(
        "accuracy",
        "Accuracy",
        "share of images decided rightly",
        "decision",
        of_counts=classification.accuracy,
        of_classes=classification.classes_accuracy,
        scale="proportion",
        images=lambda t, d: ~np.isnan(t),
        places=frozenset({"summary", "terminal", "subgroup"}),
        hub="accuracy",
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean of sensitivity and specificity",
        "decision",
        prevalence=False,
        of_counts=classification.balanced_accuracy,
        of_classes=classification.classes_balanced_accuracy,
        needs=_BOTH,
        scale="proportion",
        places=frozenset({"subgroup"}),
    ),
    Metric(
        "precision",
        "Precision",
        "TP / (TP + FP), the positive predictive value",
        "decision",
        of_counts=classification.precision,
        needs=("called positive",),
        scale="proportion",
        images=lambda t, d: ~np.isnan(t) & d,
        places=frozenset({"card", "subgroup"}),
        hub="precision",
    ),
    Metric(
        "recall",
        "Sensitivity",
        "TP / (TP + FN)",
        "decision",
        prevalence=False,
        of_counts=classification.recall,
        needs=("positive",),
        scale="proportion",
        degrees=lambda v: 3 * v,
        images=lambda t, d: t == 1,
        places=frozenset({"summary", "terminal", "label", "gap", "subgroup"}),
        hub="recall",
    ),
    Metric(
        "specificity",
        "Specificity",
        "TN / (TN + FP)",
        "decision",
        prevalence=False,
        of_counts=classification.specificity,
        needs=("negative",),
        scale="proportion",
        images=lambda t, d: t == 0,
        places=frozenset({"summary", "terminal", "label", "gap", "subgroup"}),
    ),
    Metric(
        "npv",
        "NPV",
        "TN / (TN + FN), the negative predictive value",
        "decision",
        of_counts=classification.npv,
        needs=("called negative",),
        scale="proportion",
        degrees=lambda v: 3 * v,
        images=lambda t, d: ~np.isnan(t) & ~d,
        places=frozenset({"card", "subgroup"}),
    ),
    Metric(
        "mcc",
        "MCC",
        "Matthews' correlation coefficient",
        "decision",
        of_counts=classification.mcc,
        of_classes=classification.classes_mcc,
        needs=("positive", "negative", "called positive", "called negative"),
        scale="signed logit",
        places=frozenset({"subgroup"}),
    ),
    Metric(
        "brier",
        "Brier",
        "mean squared error of the probabilities",
        "calibration",
        better="lower",
        of_arrays=lambda t, s, d: calibration.brier(t, s),
        resampled=resampled_calibration.resample,
        places=frozenset({"summary", "subgroup"}),
    ),
    Metric(
        "ece",
        "ECE",
        "expected calibration error: mean distance between probability and frequency, in bins of equal mass",
        "calibration",
        better="lower",
        of_arrays=lambda t, s, d: calibration.expected_calibration_error(t, s),
        interval="none",
        no_interval=_ECE,
        compared=False,
        places=frozenset({"summary", "terminal"}),
    ),
    Metric(
        "calibration_slope",
        "Calibration slope",
        "slope of the logistic recalibration; below 1 the probabilities are too extreme",
        "calibration",
        better=1.0,
        of_arrays=lambda t, s, d: calibration.recalibration(t, s)[0],
        resampled=resampled_calibration.resample,
        needs=_BOTH,
        otherwise="the probabilities do not vary, or separate the classes without error",
        scale="identity",
        compared=False,
    ),
    Metric(
        "calibration_intercept",
        "Calibration intercept",
        "intercept of the recalibration with slope 1; below 0 the probabilities are too high",
        "calibration",
        better=0.0,
        of_arrays=lambda t, s, d: calibration.recalibration(t, s)[1],
        resampled=resampled_calibration.resample,
        needs=_BOTH,
        scale="identity",
        degrees=lambda v: 1.5 * v,
        compared=False,
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in RECORDS}
"""Every metric by name, in the order of the tables."""


def shown(place: str) -> list[str]:
    """Names of the metrics shown in a place, in order."""
    return [name for name, metric in METRICS.items() if place in metric.places]


def of_family(family: str) -> list[str]:
    """Names of the metrics of a family, in order."""
    return [name for name, metric in METRICS.items() if metric.family == family]


def compared() -> list[str]:
    """Names of the metrics whose differences between models are reported.

    A difference of two absolute calibration errors, or of two slopes around an ideal, says neither which is better nor
    by how much.
    """
    return [name for name, metric in METRICS.items() if metric.compared]


def best(name: str, values: Mapping[str, float]) -> set[str]:
    """Which of the named values are the best; none where no value is better than another or there is only one."""
    better = METRICS[name].better
    if len(values) < 2:
        return set()
    if isinstance(better, float):
        return set()
    extreme = (min if better == "lower" else max)(values.values())
    return {key for key, value in values.items() if value == extreme}
