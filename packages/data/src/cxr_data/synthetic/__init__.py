"""Synthetic radiographs with known findings."""
