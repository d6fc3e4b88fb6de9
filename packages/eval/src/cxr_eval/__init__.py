"""Evaluation of chest radiograph classifiers: metrics, uncertainty, speed, one report.

On plain arrays, with rows of one patient as one cluster:

>>> from cxr_eval import compare, delong, evaluate
>>> figures = evaluate(targets, good / 1.5, groups=patients, metrics=["auroc"])
>>> figures.overall["auroc"].low > 0.8
True
>>> test = delong(targets, better, good, groups=patients)
>>> bool(test.difference > 0), bool(test.p < 0.01)
(True, True)
"""

from typing import TYPE_CHECKING

from cxr_data.lazy import importing

if TYPE_CHECKING:
    from cxr_eval.arrays import Evaluation, Figure, compare, delong, evaluate
    from cxr_eval.document import Report, read_report
    from cxr_eval.metrics.records import METRICS, Metric
    from cxr_eval.statistics.bootstrap import Interval, bootstrap

__all__ = [
    "METRICS",
    "Evaluation",
    "Figure",
    "Interval",
    "Metric",
    "Report",
    "bootstrap",
    "compare",
    "delong",
    "evaluate",
    "read_report",
]

_HOMES = {
    **dict.fromkeys(("Evaluation", "Figure", "compare", "delong", "evaluate"), "arrays"),
    **dict.fromkeys(("Report", "read_report"), "document"),
    **dict.fromkeys(("METRICS", "Metric"), "metrics.records"),
    **dict.fromkeys(("Interval", "bootstrap"), "statistics.bootstrap"),
}
__getattr__ = importing(__name__, _HOMES)
