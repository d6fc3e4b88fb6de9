"""Loops that ours are compared with, in a process each: ``python -m cxr_recipes.gpu_check.loops NAME OPTIONS``."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from cxr_common.models.zoo import build
from cxr_common.training.accelerator import has_bf16, uses_cuda
from cxr_data import open_cohort
from cxr_data.machine import usable_cores

WARM_UP = 5


def matmul(_options: dict[str, Any]) -> dict[str, float]:
    """Rate of a square product of random matrices, in bf16 where the device has it, else in float32: TFLOP/s."""
    cuda = uses_cuda()
    n, dtype = (8192 if cuda else 512), torch.bfloat16 if has_bf16(cuda) else torch.float32
    a, b = (torch.randn(n, n, device="cuda" if cuda else "cpu", dtype=dtype) for _ in range(2))
    rounds, best = 10, float("inf")
    for _ in range(4):
        _wait()
        began = time.perf_counter()
        for _ in range(rounds):
            torch.matmul(a, b)
        _wait()
        best = min(best, (time.perf_counter() - began) / rounds)
    return {"tflops": 2 * n**3 / best / 1e12}


def naive(options: dict[str, Any]) -> dict[str, float]:
    """A classifier as one writes it first: DataLoader, float32, AdamW, the loss read in every step."""
    import torch.utils.data
    from torchvision.transforms import v2

    from cxr_common.dataset import CohortDataset

    size, device = options["size"], "cuda" if uses_cuda() else "cpu"
    cohort = open_cohort(options["data"], pixel_size=options["pixel_size"], show=False)
    transform = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomRotation([-10, 10])])
    loader = _loader(CohortDataset(cohort, "train", transform=transform), options["batch"])
    network: Any = build(options["network"], len(cohort.labels), size=size)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step(batch: Any) -> int:
        images, targets = (part.to(device) for part in batch)
        loss = nn.functional.binary_cross_entropy_with_logits(network(images.float() / 255), targets.nan_to_num())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return len(images)

    return _timed(loader, step, options["seconds"])


def lightly(options: dict[str, Any]) -> dict[str, float]:
    """The SwAV example of lightly with its transform, head and loss; in float32 as there, or in bf16."""
    import torch.utils.data
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    from lightly.transforms.swav_transform import SwaVTransform
    from PIL import Image

    sizes, device = (options["size"], options["local_size"]), "cuda" if uses_cuda() else "cpu"
    cohort = open_cohort(options["data"], pixel_size=options["pixel_size"], show=False)
    rows, transform = cohort.rows("train"), SwaVTransform(crop_sizes=sizes)

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, place: int) -> Any:
            return transform(Image.fromarray(np.asarray(cohort.pixels[rows[place]])).convert("RGB"))

    class SwAV(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone: Any = build(options["network"], 0, size=sizes[0], channels=3)
            width = self.backbone.num_features
            self.projection_head = SwaVProjectionHead(width, width, 128)
            self.prototypes = SwaVPrototypes(128, n_prototypes=300)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.normalize(self.projection_head(self.backbone(x).flatten(start_dim=1)), dim=1)
            return self.prototypes(x)

    model, criterion = SwAV().to(device).train(), SwaVLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step(views: Any) -> int:
        views = [view.to(device) for view in views]
        model.prototypes.normalize()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options["bf16"]):
            scores = [model(view) for view in views]
        loss = criterion([score.float() for score in scores[:2]], [score.float() for score in scores[2:]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return len(views[0])

    return _timed(_loader(Pictures(), options["batch"]), step, options["seconds"])


def _loader(dataset: Any, batch: int) -> Any:
    workers = max(1, usable_cores() - 1)
    pin = uses_cuda()
    return torch.utils.data.DataLoader(
        dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers, pin_memory=pin
    )


def _timed(loader: Iterable[Any], step: Callable[[Any], int], seconds: float) -> dict[str, float]:
    """Images a second and share of the time spent waiting for the loader, after some steps to warm up."""
    images, waited, steps, began = 0, 0.0, 0, time.perf_counter()
    while True:
        batches, before = iter(loader), steps
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                if steps == before:
                    raise ValueError("fewer images than a batch has")
                break
            waited += time.perf_counter() - asked
            images += step(batch)
            steps += 1
            if steps == WARM_UP:
                _wait()
                images, waited, began = 0, 0.0, time.perf_counter()
            if steps > WARM_UP and time.perf_counter() - began > seconds:
                _wait()
                passed = time.perf_counter() - began
                peak = torch.cuda.max_memory_allocated() / 2**30 if uses_cuda() else 0.0
                rates = {"training_images_per_second": images / passed, "waiting_share": waited / passed}
                return {**rates, "peak_gpu_memory_gib": round(peak, 2)}


def _wait() -> None:
    if uses_cuda():
        torch.cuda.synchronize()


LOOPS = {"matmul": matmul, "naive": naive, "lightly": lightly}

if __name__ == "__main__":
    print("\n" + json.dumps(LOOPS[sys.argv[1]](json.loads(sys.argv[2]))))
