"""Chest radiographs as prepared cohorts: read, checked, split by patient, decoded once; without torch.

>>> from cxr_data import open_cohort
>>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
>>> cohort.task, cohort.pixels.dtype.name, cohort.pixels.shape  # gray, one channel
('multilabel', 'uint8', (40, 32, 32))
>>> sorted(set(cohort.table["split"]))
['test', 'train', 'val']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_data.auditing import audit
    from cxr_data.cohort import Cohort, is_prepared, load, save
    from cxr_data.images.header import BrokenImage
    from cxr_data.images.read import read_image
    from cxr_data.joined import join
    from cxr_data.preparation import prepare
    from cxr_data.sizes import pixel_size_for
    from cxr_data.sources import open_cohort
    from cxr_data.splits import kfold, label_fraction

__all__ = [
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

_MODULES = {
    "BrokenImage": "images.header",
    "Cohort": "cohort",
    "audit": "auditing",
    "is_prepared": "cohort",
    "join": "joined",
    "kfold": "splits",
    "label_fraction": "splits",
    "load": "cohort",
    "open_cohort": "sources",
    "pixel_size_for": "sizes",
    "prepare": "preparation",
    "read_image": "images.read",
    "save": "cohort",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a command that only prints its help needs neither NumPy nor Polars.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cxr_data.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
