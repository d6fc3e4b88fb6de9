"""Chest radiographs as prepared cohorts: read, checked, split by patient, decoded once; without torch.

>>> from cxr_data import open_cohort
>>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
>>> cohort.task, cohort.pixels.dtype.name, cohort.pixels.shape  # gray, one channel
('multilabel', 'uint8', (40, 32, 32))
>>> sorted(set(cohort.table["split"]))
['test', 'train', 'val']
"""

from cxr_data.cohort import Cohort, is_prepared, load, save
from cxr_data.images.header import BrokenImage
from cxr_data.images.read import read_image
from cxr_data.joined import join
from cxr_data.preparation import prepare
from cxr_data.sources import open_cohort, pixel_size_for
from cxr_data.splits import kfold, label_fraction

__all__ = [
    "BrokenImage",
    "Cohort",
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
