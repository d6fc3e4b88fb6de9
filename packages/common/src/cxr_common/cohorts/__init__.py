"""Cohorts: what a set of radiographs is, and every way to get one."""

from cxr_common.cohorts.cohort import Cohort, is_prepared, load, save
from cxr_common.cohorts.image_header import BrokenImage
from cxr_common.cohorts.images import read_image
from cxr_common.cohorts.joined import join
from cxr_common.cohorts.opening import open_cohort, pixel_size_for
from cxr_common.cohorts.prepare import prepare
from cxr_common.cohorts.splits import kfold, label_fraction

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
