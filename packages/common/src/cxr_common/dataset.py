"""A cohort as a torch data set, for training loops of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxr_data.augment import whole
from cxr_data.cohorts.cohort import Cohort


class CohortDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels of one split of a cohort.

    An item is (image, target): image (1, S, S) uint8 in 0..255, as networks of `cxr_common.models.zoo` take it (they
    normalise by themselves), target (L,) float32 in {0, 1, NaN}, NaN where a label is unknown. Pixels are read from the
    cohort's memory map when asked for; a DataLoader fetches whole batches at once.

    Args:
        cohort: The cohort.
        split: "train", "val", "test" or "all".
        size: Edge S that images are reduced to; None keeps the stored one.
        transform: Applied to every image (1, S, S), for augmentation of one's own; None leaves it.

    Raises:
        BadInput: No such split.

    >>> from torch.utils.data import DataLoader
    >>> from cxr_data import open_cohort
    >>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    >>> train = CohortDataset(cohort, "train", size=28)
    >>> images, targets = next(iter(DataLoader(train, batch_size=4, shuffle=True)))
    >>> images.shape, images.dtype, targets.shape == (4, len(cohort.labels))
    (torch.Size([4, 1, 28, 28]), torch.uint8, True)
    """

    def __init__(
        self,
        cohort: Cohort,
        split: str = "train",
        *,
        size: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        self.cohort, self.size, self.transform = cohort, size or cohort.pixel_size, transform
        self.rows: NDArray[np.int64] = cohort.rows(split)
        """(M,) rows of the cohort, in the order of the items."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Several items, read from disk at once."""
        rows = self.rows[np.asarray(indices, np.int64)]
        pixels: Any = np.asarray(self.cohort.pixels[rows])
        images = torch.from_numpy(np.ascontiguousarray(whole(pixels, self.size))).unsqueeze(1)
        targets = torch.from_numpy(self.cohort.targets[rows])
        shown = images if self.transform is None else [self.transform(image) for image in images]
        return list(zip(shown, targets, strict=True))
