"""Speed of a distillation step: ratios to a naive step and to torchdistill's, in one process, taken in turns.

    uv run pytest benchmarks/test_distillation.py -m benchmark -n 0 -s

Run it on an idle machine. A ratio compares medians of steps that alternate, so that what slows the machine for a
while slows both.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from cxr_common.checkpoint import Header, Input
from cxr_common.models import cost
from cxr_common.models.small_maps import fast_layout
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import has_bf16, start
from cxr_common.training.parameters import groups
from cxr_deploy.export import onnx_file
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_distill.cached_outputs import CachedOutputs
from cxr_distill.data import Batch
from cxr_distill.imbalance import label_loss
from cxr_distill.losses import KD, MultilabelKD
from cxr_distill.student import Student
from cxr_distill.teacher import Teacher, load_teacher
from cxr_distill.teachers import Distillation, Teachers
from cxr_distill.train import TrainState, train_step

TITLE = "A distillation step"
LABELS = 14
CASES = [(224, 8), (64, 64)]
"""Edge and batch size of a ResNet-50 teaching a ResNet-18."""
WANTED = {"live": 2.6, "cached": 4.2} if has_bf16(cuda=False) else {"live": 1.5, "cached": 2.4}
"""Least ratios to a naive step and, live, to torchdistill's."""
TEMPERATURE, ALPHA = 4.0, 0.5
"""Of knowledge distillation between classes, the same for torchdistill and us."""


def network(architecture: str, size: int) -> GrayNetwork:
    return GrayNetwork(build(architecture, LABELS, size=size), 0.5, 0.2)


def naive_step(size: int, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """What a script does: the teacher under no_grad in every step, float32, NCHW, the optimiser as it comes."""
    teacher, student = network("resnet50", size).eval(), network("resnet18", size).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    device = images.device
    teacher.to(device)
    student.to(device)

    def step() -> None:
        with torch.no_grad():
            taught = torch.sigmoid(teacher(images))
        logits = student(images)
        loss = F.binary_cross_entropy_with_logits(logits, targets) + F.binary_cross_entropy_with_logits(logits, taught)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def torchdistill_step(size: int, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """What its own training loop does with a batch, as its example configs set it up: float32, NCHW."""
    from torchdistill.core.distillation import DistillationBox

    logits = {"student_module_path": ".", "student_module_io": "output"}
    logits |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    loss = {"key": "KDLoss", "kwargs": {**logits, "temperature": TEMPERATURE, "alpha": ALPHA}}
    config = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
            "func2extract_model_loss": "extract_model_loss_dict",
        },
    }
    teacher, student = network("resnet50", size).eval(), network("resnet18", size).train()
    device = images.device
    box = DistillationBox(teacher.to(device), student.to(device), {}, config, device, [], False, 1)
    classes = targets.argmax(dim=1)

    def step() -> None:
        box.post_forward_process(loss=box.forward_process(images, classes, None))

    return step


def our_step(
    size: int,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    cached: bool = False,
    task: str = "multilabel",
    in_8_bits: Callable[..., onnx.ModelProto] | None = None,
    folder: Path = Path(),
) -> Callable[[], None]:
    """Ours; with a way to 8 bits and a folder for the file, of a teacher in ONNX."""
    accelerator = start("auto")
    names = tuple(f"label {i}" for i in range(LABELS))
    header = Header("model", "resnet50", Input(size, 0.5, 0.2), task=task, labels=names)
    frozen = network("resnet50", size).eval().requires_grad_(False)
    if in_8_bits is None:
        teacher = Teacher(fast_layout(frozen).to(images.device), header, torch.arange(LABELS))
    else:
        small = in_8_bits(convert(Answering(frozen, header), header), header, {"schema": 1})
        onnx_file.save(small, folder / "teacher.int8.onnx")
        teacher = load_teacher(folder / "teacher.int8.onnx", names, task)
    if task == "multilabel":
        distillation = Distillation((teacher,), {MultilabelKD(): 1.0}, 1.0)
    else:
        distillation = Distillation((teacher,), {KD(temperature=TEMPERATURE): 1 - ALPHA}, ALPHA)
    student = Student(fast_layout(network("resnet18", size)).train())
    parameters = groups(student, 0.05)
    model, optimizer = accelerator.prepare(student, torch.optim.AdamW(parameters, lr=1e-3, fused=True))
    kept = (CachedOutputs(None, ("logits",)),) if cached else ()  # type: ignore[arg-type] - its answers come with the batch
    teachers = Teachers(distillation, torch.ones(1, LABELS), np.zeros((0, LABELS), np.float32), kept)
    answers = {"0.logits": torch.zeros(len(images), LABELS, dtype=torch.float16, device=images.device)}
    batch = Batch(images, targets, {} if cached else {size: images}, answers if cached else {})
    loss = label_loss(task, "auto", targets.cpu().numpy())

    state = TrainState(
        network=student,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        loss_on_labels=loss,
        teachers=teachers,
    )

    def step() -> None:
        train_step(state, batch)

    return step


@pytest.mark.benchmark
@pytest.mark.parametrize(("size", "batch"), CASES)
def test_faster_than_a_naive_step(size, batch, medians, product_rate, record, in_8_bits, tmp_path) -> None:
    device = start("auto").device
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8, generator=generator).to(device)
    targets = torch.randint(0, 2, (batch, LABELS), generator=generator).float().to(device)
    steps = {
        "naive": naive_step(size, images, targets),
        "live": our_step(size, images, targets, cached=False),
        "cached": our_step(size, images, targets, cached=True),
        "live, 8-bit": our_step(size, images, targets, in_8_bits=in_8_bits, folder=tmp_path),
    }
    seconds = medians(steps, rounds=12, warm_up=2)
    teacher, student = (2e-9 * batch * cost.macs(network(name, size), size) for name in ("resnet50", "resnet18"))
    operations = {"live": teacher + 3 * student, "cached": 3 * student}
    possible = product_rate()
    operations["live, 8-bit"] = operations["live"]
    for name, least in {**WANTED, "live, 8-bit": WANTED["live"]}.items():
        rate = f"{operations[name] / seconds[name]:.0f} GFLOP/s where a float32 product has {possible:.0f}"
        record(
            f"ResNet-50 teaches ResNet-18, {size} px, batch {batch}, {name} teacher, precision auto",
            seconds["naive"] / seconds[name],
            "x",
            peer="a script's step: teacher in every step, float32, NCHW",
            least=least,
            detail=f"naive {1e3 * seconds['naive']:.0f} ms, ours {1e3 * seconds[name]:.0f} ms, {rate}",
        )


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore")  # of libraries that torchdistill imports
@pytest.mark.parametrize(("size", "batch"), CASES)
def test_faster_than_torchdistill(size, batch, medians, record, in_8_bits, tmp_path) -> None:
    device = start("auto").device
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8, generator=generator).to(device)
    classes = torch.randint(0, LABELS, (batch,), generator=generator)
    targets = F.one_hot(classes, LABELS).float().to(device)
    steps = {
        "torchdistill": torchdistill_step(size, images, targets),
        "live": our_step(size, images, targets, task="multiclass"),
        "live, 8-bit": our_step(size, images, targets, task="multiclass", in_8_bits=in_8_bits, folder=tmp_path),
    }
    seconds = medians(steps, rounds=12, warm_up=2)
    for name in ("live", "live, 8-bit"):
        record(
            f"ResNet-50 teaches ResNet-18, {size} px, batch {batch}, {name} teacher, precision auto",
            seconds["torchdistill"] / seconds[name],
            "x",
            peer="torchdistill's training loop, float32",
            least=WANTED["live"],
            detail=f"torchdistill {1e3 * seconds['torchdistill']:.0f} ms, ours {1e3 * seconds[name]:.0f} ms",
        )
