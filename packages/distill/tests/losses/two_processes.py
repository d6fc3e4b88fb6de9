"""Run by test_processes.py in each of two processes: losses of a batch, alone and shared with the other process."""

import os
import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cxr_distill.losses import FEATURES, LEVELS, LOSSES, Interface, Loss, Outputs, build_adapters, each_loss, task_loss
from cxr_distill.losses.processes import gather_batch

Computed = Callable[[Outputs, Outputs, Tensor, nn.ModuleDict], Tensor]

IMAGES, LABELS, OWN, ITS = 8, 3, 6, 10
MAPS = dict(zip(LEVELS, (8, 6, 4, 2), strict=True))


class Network(nn.Module):
    """One layer for the logits and for each feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Conv2d(5, width, 1) for name in LEVELS})
        self.classifier = nn.Linear(width, LABELS)

    def forward(self, images: Tensor) -> Outputs:
        """(B, 5, 8, 8) -> all outputs."""
        maps = {name: self.layers[name](images[:, :, :edge, :edge]) for name, edge in MAPS.items()}
        pooled = maps["level4"].mean((2, 3))
        return Outputs(self.classifier(pooled), {**maps, "pooled": pooled}, self.classifier.weight)


def targets_of(task: str) -> Tensor:
    """With unknown labels, more of them in one half of the batch."""
    g = torch.Generator().manual_seed(3)
    targets = torch.eye(LABELS)[torch.randint(0, LABELS, (IMAGES,), generator=g)]
    if task == "multilabel":
        targets = (torch.rand(IMAGES, LABELS, generator=g) < 0.6).float()
        targets[5, 1] = torch.nan
    targets[:3] = torch.where(torch.tensor([[True], [False], [True]]), torch.nan, targets[:3])
    return targets


def gradients(
    loss: Callable[[Outputs, Outputs, Tensor, nn.ModuleDict], Tensor],
    losses: Mapping[Loss, float],
    task: str,
    part: slice,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Value, and gradients of student and adapters, of the images of this part."""
    torch.manual_seed(0)
    student, teacher = Network(OWN), Network(ITS).requires_grad_(False)
    images = torch.randn(IMAGES, 5, 8, 8)
    classifier = (teacher.classifier.weight, teacher.classifier.bias)
    channels: list[dict[str, int]] = [dict.fromkeys(FEATURES, width) for width in (OWN, ITS)]
    adapters = build_adapters(losses, Interface(channels[0]), Interface(channels[1], classifier)).eval()
    value = loss(student(images[part]), teacher(images[part]), targets_of(task)[part], adapters)
    value.backward()
    named = [*student.named_parameters(), *adapters.named_parameters()]
    return value.detach(), {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}


def cases() -> dict[str, tuple[Computed, dict[Loss, float], str]]:
    """Every distillation loss, with and without unknown labels, and losses on labels."""
    actual = {}
    for name, kind in LOSSES.items():
        for use in (True, False):
            losses: dict[Loss, float] = {kind(): 1.0}

            def distil(own, its, y, adapters, losses=losses, use=use, name=name):  # type: ignore[no-untyped-def]
                return each_loss(losses, own, its, y, adapters=adapters, use_unlabelled=use)[name]

            actual[f"{name}{'' if use else ', unknown labels left out'}"] = distil, losses, kind.tasks[0]
    weights = torch.tensor([0.2, 1.0, 5.0])
    for task, name in (("multiclass", "cross_entropy"), ("multilabel", "binary_cross_entropy")):
        options = {"class_weights": weights} if task == "multiclass" else {}

        def on_labels(own, its, y, adapters, task=task, name=name, options=options):  # type: ignore[no-untyped-def]
            return task_loss(task, name)(gather_batch(own.logits), gather_batch(y), **options)

        actual[name] = on_labels, {}, task
    return actual


if __name__ == "__main__":
    torch.set_num_threads(1)
    alone = {name: gradients(*case, slice(None)) for name, case in cases().items()}
    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    rank, together = int(os.environ["RANK"]), {}
    for name, case in cases().items():
        value, named = gradients(*case, slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2))
        for tensor in (value, *named.values()):  # as data-parallel training does
            dist.all_reduce(tensor)
            tensor /= 2
        together[name] = value, named
    if rank == 0:
        torch.save({"alone": alone, "together": together}, sys.argv[1])
    dist.destroy_process_group()
