import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cxr_common.dataset import CohortDataset
from cxr_data import open_cohort
from cxr_data.augment import whole
from cxr_data.errors import BadInput


def test_items_are_the_images_and_labels_of_a_split():
    cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    test = CohortDataset(cohort, "test")
    rows = cohort.rows("test")
    assert len(test) == len(rows)
    for item, row in enumerate(rows):
        image, target = test[item]
        assert torch.equal(image, torch.from_numpy(np.array(cohort.pixels[row]))[None])
        np.testing.assert_array_equal(target.numpy(), cohort.targets[row])
    assert torch.equal(test[-1][0], test[len(test) - 1][0])
    with pytest.raises(IndexError):
        test[len(test)]


def test_a_loader_reads_batches_in_any_order():
    cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    loader = DataLoader(CohortDataset(cohort, "train", size=24), batch_size=5)
    images, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    rows = cohort.rows("train")
    np.testing.assert_array_equal(images[:, 0].numpy(), whole(cohort.pixels[rows], 24))
    np.testing.assert_array_equal(targets.numpy(), cohort.targets[rows])


def test_a_transform_changes_every_image():
    cohort = open_cohort("phantom:40", pixel_size=32, show=False)
    negative = CohortDataset(cohort, "val", transform=lambda image: 255 - image)
    assert torch.equal(negative[0][0], 255 - CohortDataset(cohort, "val")[0][0])
    with pytest.raises(BadInput, match="did you mean test"):
        CohortDataset(cohort, "tset")
