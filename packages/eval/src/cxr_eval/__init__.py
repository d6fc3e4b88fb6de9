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

from typing import TYPE_CHECKING, Any

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
    **dict.fromkeys(("Evaluation", "Figure", "compare", "delong", "evaluate"), "cxr_eval.arrays"),
    **dict.fromkeys(("Report", "read_report"), "cxr_eval.document"),
    **dict.fromkeys(("METRICS", "Metric"), "cxr_eval.metrics.records"),
    **dict.fromkeys(("Interval", "bootstrap"), "cxr_eval.statistics.bootstrap"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: ``evaluate --help`` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
