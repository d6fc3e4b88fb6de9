"""Classify new images with a weights file or an exported one: decisions, heat maps and warnings."""
