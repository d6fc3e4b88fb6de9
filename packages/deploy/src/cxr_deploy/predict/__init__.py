"""Answers for new images: from a weights file or an exported one, with decisions, heat maps and warnings."""
