"""Evaluation of chest radiograph classifiers: metrics, uncertainty, speed, and one report."""
