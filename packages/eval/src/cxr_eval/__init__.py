"""Evaluation of chest radiograph classifiers: metrics, uncertainty, speed, one report.

Two models on the same images, with images of one patient as one cluster:

>>> from cxr_eval.statistics.delong import compare
>>> test = compare(targets, better, good, patients)
>>> bool(test.difference > 0), bool(test.p < 0.01)
(True, True)
"""
