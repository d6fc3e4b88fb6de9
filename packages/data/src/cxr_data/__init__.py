"""Chest radiographs as prepared cohorts: read, checked, split by patient, decoded once; without torch.

>>> from cxr_data import open_cohort
>>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
>>> cohort.task, cohort.pixels.dtype.name, cohort.pixels.shape  # gray, one channel
('multilabel', 'uint8', (40, 32, 32))
>>> sorted(set(cohort.table["split"]))
['test', 'train', 'val']
"""

import os
from typing import TYPE_CHECKING

from cxr_data.lazy import importing

# ONNX Runtime would report its use, with a number of this machine that it keeps in the home folder, to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from cxr_data.auditing import audit
    from cxr_data.cohorts.cohort import Cohort, is_prepared, load, save
    from cxr_data.cohorts.joined import join
    from cxr_data.errors import BadInput
    from cxr_data.images.header import BrokenImage
    from cxr_data.images.read import read_image
    from cxr_data.preparation.prepare import prepare
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.preparation.splits import kfold, label_fraction
    from cxr_data.sources import open_cohort

__all__ = [
    "BadInput",
    "BrokenImage",
    "Cohort",
    "audit",
    "is_prepared",
    "join",
    "kfold",
    "label_fraction",
    "load",
    "open_cohort",
    "pixel_size_for",
    "prepare",
    "read_image",
    "save",
]

_HOMES = {
    **dict.fromkeys(("Cohort", "is_prepared", "load", "save"), "cohorts.cohort"),
    **dict.fromkeys(("kfold", "label_fraction"), "preparation.splits"),
    "BadInput": "errors",
    "BrokenImage": "images.header",
    "audit": "auditing",
    "join": "cohorts.joined",
    "open_cohort": "sources",
    "pixel_size_for": "preparation.sizes",
    "prepare": "preparation.prepare",
    "read_image": "images.read",
}
__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
