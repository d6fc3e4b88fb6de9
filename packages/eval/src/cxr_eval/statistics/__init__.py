"""Uncertainty of metrics: bootstrap intervals, paired comparisons, DeLong's test."""
