"""Speed and memory of a pretraining step: ratios to the plain lightly recipe, both in one process, taken in turns.

    uv run pytest benchmarks/test_ssl_step.py -m benchmark -n 0 -s

Run it on an idle machine. The plain recipe is the loop of lightly's SwAV example (a forward for each view, float32,
NCHW, Adam) with the same network for one channel, the same views, batch, head and prototypes. ``fp32`` of ours runs in
the recipe's precision; ``auto`` in bf16 where the device has it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.transforms.swav_transform import SwaVTransform
from PIL import Image
from torch import nn

from cxr_common.models.zoo import build
from cxr_common.training.accelerator import has_bf16
from cxr_data import Cohort
from cxr_ssl.checkpointing import recompute_activations
from cxr_ssl.codes import sinkhorn
from cxr_ssl.config import Crops, PretrainConfig
from cxr_ssl.crops import crop_batches, crop_specs
from cxr_ssl.methods.swav import SwAVConfig
from cxr_ssl.plan import make_plan
from cxr_ssl.state import TrainState, make_optimizer, new_backbone
from cxr_ssl.step import train_step
from cxr_ssl.swav import swapped_prediction_loss

TITLE = "A pretraining step"
CASES = {"R18 64/32 batch 16": ("resnet18", (64, 32), 16), "R50 224/96 batch 4": ("resnet50", (224, 96), 4)}
WANTED = {
    "R18 64/32 batch 16": {"auto": 3.2 if has_bf16(cuda=False) else 2.0, "fp32": 2.0},
    "R50 224/96 batch 4": {"auto": 3.0 if has_bf16(cuda=False) else 1.6, "fp32": 1.6},
}
"""Least ratios by case and precision; where bf16 has no arithmetic of its own, ``auto`` is float32."""
WANTED_END_TO_END = {"png": 5.0, "jpg": 2.0}
WANTED_MEMORY = {"bf16": 0.7, "bf16 checkpointing": 0.5}
PROTOTYPES, EMBEDDING = 300, 64
RECIPE = "lightly's SwAV example, float32"
Views = list[torch.Tensor]


class Engine:
    """What a step needs of an accelerator: accelerate's own has one precision a process, and here two take turns."""

    process_index, num_processes, device, scaler = 0, 1, torch.device("cpu"), None

    def __init__(self, precision: str) -> None:
        self.low = precision == "bf16" or (precision == "auto" and has_bf16(cuda=False))

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts


class Plain(nn.Module):
    """The network of the example, for images of any number of channels."""

    def __init__(self, architecture: str, size: int, channels: int):
        super().__init__()
        self.backbone: Any = build(architecture, 0, size=size, channels=channels)
        width = self.backbone.num_features
        self.projection_head = SwaVProjectionHead(width, width, EMBEDDING)
        self.prototypes = SwaVPrototypes(EMBEDDING, PROTOTYPES)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.backbone(x).flatten(start_dim=1)
        return self.prototypes(nn.functional.normalize(self.projection_head(x), dim=1, p=2))


def plain_step(architecture: str, size: int, channels: int = 1) -> Callable[[Views], None]:
    model, criterion = Plain(architecture, size, channels).train(), SwaVLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step(views: Views) -> None:
        model.prototypes.normalize()
        multi_crop = [model(view) for view in views]
        loss = criterion(multi_crop[:2], multi_crop[2:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_state(architecture: str, sizes: tuple[int, int], batch: int, precision: str, **options: Any) -> TrainState:
    accelerator: Any = Engine(precision)
    backbone: Any = new_backbone(architecture, sizes[0], (0.5, 0.2), smallest_crop=sizes[1])
    plan = make_plan(PretrainConfig(batch_size=batch), batch * 10)
    config = SwAVConfig(prototypes=PROTOTYPES, embedding=EMBEDDING, queue=0, freeze=0)
    method = config.build(backbone, config.settings(batch * 10, plan), plan, coded_crops=2)
    if options.get("checkpointing"):
        recompute_activations(backbone.network)
    method.start(accelerator.device, batch)
    module: Any = method.module.train()
    optimizer = make_optimizer("adamw", module, lr=0.001, weight_decay=1e-4)
    return TrainState(
        network=module, model=module, optimizer=optimizer, accelerator=accelerator, method=method, plan=plan
    )


def our_step(state: TrainState) -> Callable[[Views], None]:
    def step(views: Views) -> None:
        train_step(state, views)

    return step


def random_views(sizes: tuple[int, int], batch: int) -> Views:
    random = torch.Generator().manual_seed(0)
    counts = zip((2, 6), sizes, strict=True)
    return [torch.randint(0, 256, (n, batch, 1, s, s), generator=random, dtype=torch.uint8) for n, s in counts]


@pytest.mark.benchmark
@pytest.mark.parametrize("case", CASES)
def test_a_training_step(case, medians, record) -> None:
    architecture, sizes, batch = CASES[case]
    views = random_views(sizes, batch)
    floats = [(view.float() / 255 - 0.5) / 0.2 for stack in views for view in stack]
    plain = plain_step(architecture, sizes[0])
    steps = {"lightly": lambda: plain(floats)}
    for precision in WANTED[case]:
        ours = our_step(our_state(architecture, sizes, batch, precision))
        steps[precision] = lambda ours=ours: ours(views)
    seconds = medians(steps, rounds=8, warm_up=2)
    for precision, least in WANTED[case].items():
        record(
            f"{case}, precision {precision}",
            seconds["lightly"] / seconds[precision],
            "x",
            peer=RECIPE,
            least=least,
            detail=f"lightly {1e3 * seconds['lightly']:.0f} ms, ours {1e3 * seconds[precision]:.0f} ms",
        )


@pytest.mark.benchmark
@pytest.mark.parametrize("case", CASES)
def test_loss_and_codes_are_a_hundredth_of_a_step(case, medians, record) -> None:
    architecture, sizes, batch = CASES[case]
    views = random_views(sizes, batch)
    ours = our_step(our_state(architecture, sizes, batch, "auto"))
    scores = torch.rand(8, batch, PROTOTYPES).requires_grad_()

    def loss_alone() -> None:
        codes = torch.stack([sinkhorn(view) for view in scores[:2].detach()])
        loss = swapped_prediction_loss(scores, codes)
        loss.backward()

    seconds = medians({"step": lambda: ours(views), "loss": loss_alone}, rounds=10, warm_up=2)
    record(
        f"{case}, share of loss and Sinkhorn",
        100 * seconds["loss"] / seconds["step"],
        "%",
        peer="the whole step",
        most=1,
        detail=f"step {1e3 * seconds['step']:.0f} ms, loss and Sinkhorn {1e3 * seconds['loss']:.1f} ms",
    )


@pytest.mark.benchmark
@pytest.mark.parametrize("kind", WANTED_END_TO_END)
def test_end_to_end_from_files(kind, tmp_path: Path, medians, record) -> None:
    """An epoch of R18 64/32: the recipe decodes in the loop, ours reads the prepared memory map."""
    edge, batch, images = {"png": 1024, "jpg": 256}[kind], 16, 64
    random = np.random.default_rng(0)
    files, small = [], []
    for number in range(images):
        coarse = random.uniform(30, 220, (12, 12)).astype(np.float32)
        image = cv2.resize(coarse, (edge, edge), interpolation=cv2.INTER_CUBIC) + random.normal(0, 3, (edge, edge))
        files.append(tmp_path / f"{number}.{kind}")
        cv2.imwrite(str(files[-1]), np.clip(image, 0, 255).astype(np.uint8))
        decoded: Any = cv2.imread(str(files[-1]), cv2.IMREAD_GRAYSCALE)
        small.append(cv2.resize(decoded, (96, 96), interpolation=cv2.INTER_AREA))
    names = [str(i) for i in range(images)]
    table = pl.DataFrame({"image": names, "patient": names, "split": ["train"] * images})
    np.save(tmp_path / "pixels.npy", np.stack(small))
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    cohort = Cohort("bench", None, (), table, pixels, {}, "bench", "0")
    transform = SwaVTransform(crop_sizes=(64, 32))

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return images

        def __getitem__(self, place: int) -> Views:
            return transform(Image.open(files[place]).convert("RGB"))  # type: ignore[return-value] - tensors by default

    loader = torch.utils.data.DataLoader(Files(), batch_size=batch, shuffle=True, drop_last=True)
    plain = plain_step("resnet18", 64, channels=3)
    state = our_state("resnet18", (64, 32), batch, "auto")
    ours = our_step(state)
    specs = crop_specs(64, Crops(), 32)
    rows = np.arange(images)

    def plain_epoch() -> None:
        for views in loader:
            plain(views)

    def our_epoch() -> None:
        options: dict[str, Any] = {"seed": 0, "epoch": 0, "first_step": 0, "global_batch": batch}
        for views in crop_batches(cohort, rows, specs, accelerator=state.accelerator, **options):
            ours(views)

    seconds = medians({"lightly": plain_epoch, "ours": our_epoch}, rounds=3, warm_up=2)
    record(
        f"An epoch of R18 64/32 batch {batch}, from {kind.upper()} of {edge} px, prepared once",
        seconds["lightly"] / seconds["ours"],
        "x",
        peer="lightly's SwAV example, which decodes in the loop",
        least=WANTED_END_TO_END[kind],
        detail=", ".join(f"{name} {images / value:.1f} images/s" for name, value in seconds.items()),
    )


def added_memory(own_process: Callable[[str], str], way: str) -> float:
    """GiB that two steps of R50 224/96 batch 4 add to a process of their own."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_ssl_step as t; t.tell({way!r})"
    return float(own_process(code).split()[-1])


def tell(way: str) -> None:
    """Print the peak that two steps add, in GiB; run in a process of its own."""
    from cxr_data.machine import peak_memory

    sizes, batch = (224, 96), 4
    views = random_views(sizes, batch)
    if way == "lightly":
        step: Callable[[Views], None] = plain_step("resnet50", sizes[0])
        given = [(view.float() / 255 - 0.5) / 0.2 for stack in views for view in stack]
    else:
        precision, _, saving = way.partition(" ")
        step = our_step(our_state("resnet50", sizes, batch, precision, checkpointing=bool(saving)))
        given = views
    before = peak_memory()
    step(given)
    step(given)
    print((peak_memory() - before) / 2**30)


@pytest.mark.benchmark
@pytest.mark.parametrize("way", WANTED_MEMORY)
def test_added_peak_memory(way, benchmark, own_process, record) -> None:
    plain, ours = benchmark.pedantic(lambda: [added_memory(own_process, one) for one in ("lightly", way)])
    record(
        f"Memory that two steps add at their peak, R50 224/96 batch 4, {way}",
        100 * ours / plain,
        "%",
        peer=f"of {RECIPE}",
        most=100 * WANTED_MEMORY[way],
        detail=f"lightly {plain:.2f} GiB, ours {ours:.2f} GiB",
    )
