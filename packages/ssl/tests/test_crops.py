from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cxr_data import Cohort
from cxr_data.augment import draw, render
from cxr_ssl.config import Crops
from cxr_ssl.crops import crop_batches, crop_specs


@pytest.mark.parametrize("on_device", [False, True])
def test_crops_of_an_image_stand_at_its_place_in_all_sizes(on_device) -> None:
    random = np.random.default_rng(0)
    names = [str(i) for i in range(12)]
    table = pl.DataFrame({"image": names, "patient": names, "split": ["train"] * 12})
    cohort = Cohort("noise", None, (), table, random.integers(0, 256, (12, 48, 48), np.uint8), {}, "noise", "0")
    specs, rows = crop_specs(32, Crops(local_count=3), 24), np.arange(2, 12)

    class Second:
        """The second of two processes."""

        process_index, num_processes, device = 1, 2, torch.device("cpu")

    options: dict[str, Any] = {"seed": 5, "epoch": 1, "global_batch": 4, "accelerator": Second()}
    actual = list(crop_batches(cohort, rows, specs, first_step=0, augment_on_device=on_device, **options))
    assert len(actual) == 2
    assert [tuple(stack.shape) for stack in actual[1]] == [(2, 2, 1, 32, 32), (3, 2, 1, 24, 24)]
    for stream, spec in enumerate(specs):
        of_all = render(cohort.pixels[rows], draw(spec, 10, 5, 1, stream), spec).astype(int)
        for crops in actual:
            ours = crops[stream][:, :, 0].numpy().astype(int)
            places = [np.abs(of_all - ours[:, [i]]).max((0, 2, 3)).argmin() for i in range(2)]
            assert places[0] < places[1]
            assert np.abs(of_all[:, places] - ours).max() <= int(on_device)
    (resumed,) = crop_batches(cohort, rows, specs, first_step=1, augment_on_device=on_device, **options)
    assert all(torch.equal(a, b) for a, b in zip(resumed, actual[1], strict=True))
