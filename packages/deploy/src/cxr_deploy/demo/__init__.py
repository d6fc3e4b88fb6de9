"""The model that ships with the package, and a page on this computer that answers with it.

``model.int8.onnx``, ``card.md`` and ``record.json`` beside this file are written by ``tools/ship_demo.py`` from a run
of ``reproduce demo``; the record names the weights, their licences and the figures.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL, CARD, RECORD = FOLDER / "model.int8.onnx", FOLDER / "card.md", FOLDER / "record.json"
NOTICE = (
    "demonstration model: normal or pneumonia on radiographs of children aged 1 to 5, in 8 bits; for research only, "
    "not a medical device"
)
"""What every answer of the model is shown with."""
