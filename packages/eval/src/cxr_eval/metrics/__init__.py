"""Metrics of classifiers: how well they rank, decide and calibrate."""
