"""Distillation from Python, with modules and batches of one's own."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cxr_data.errors import BadInput
from cxr_distill import distill
from cxr_distill.losses import CRD, DKD, KD, LED, RKD, FitNets, Loss, MultilabelKD, PooledCosine, SimKD


class Small(nn.Module):
    """A convolutional network that nobody registered anywhere."""

    def __init__(self, width: int, labels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, labels)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


def networks(labels: int = 3) -> tuple[Small, Small]:
    torch.manual_seed(0)
    return Small(4, labels), Small(16, labels)


def data(task: str, n: int = 48) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    images = torch.randn(n, 1, 12, 12, generator=g)
    kinds = torch.arange(n) % 3
    images += kinds[:, None, None, None] - 1.0
    if task == "multiclass":
        return images, kinds
    targets = torch.eye(3)[kinds]
    targets[::5, 1] = torch.nan
    return images, targets


def batches(task: str) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*data(task)), batch_size=16)


@pytest.mark.parametrize(
    ("task", "losses"),
    [
        ("multiclass", None),
        ("multilabel", None),
        ("multiclass", (KD(temperature=2), PooledCosine())),
        ("multiclass", (DKD(), CRD(width=8), RKD())),
        ("multilabel", (MultilabelKD(), LED())),
        ("multilabel", (SimKD(),)),
    ],
)
def test_a_student_comes_nearer_to_its_teacher(task, losses) -> None:
    student, teacher = networks()
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    seen: list[dict[str, float]] = []
    history = distill(
        student,
        teacher,
        batches(task),
        task=task,
        losses=None if losses is None else dict.fromkeys(losses, 1.0),
        epochs=8,
        optimizer=torch.optim.Adam(student.parameters(), lr=0.02),
        on_epoch=seen.append,
    )
    assert history == seen
    assert [line["epoch"] for line in history] == list(range(1, 9))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.training
    assert student.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


def test_the_student_keeps_the_answers_of_a_reused_classifier() -> None:
    student, teacher = networks()
    x, _ = data("multilabel")
    distill(student, teacher, batches("multilabel"), task="multilabel", losses={SimKD(): 1.0}, epochs=30)
    student.eval()
    teacher.eval()
    with torch.no_grad():
        near = (student(x) - teacher(x)).square().mean()
        far = (Small(4)(x) - teacher(x)).square().mean()
    assert near < far


def test_maps_are_those_of_the_layers_named() -> None:
    student, teacher = networks()
    layers = {"level4": "body"}
    losses: dict[Loss, float] = {FitNets(): 1.0}
    history = distill(
        student, teacher, batches("multiclass"), task="multiclass", losses=losses, epochs=5,
        student_layers=layers, teacher_layers=layers,
    )  # fmt: skip
    assert history[-1]["fitnets"] < history[0]["fitnets"]
    with pytest.raises(BadInput, match="features 'level4'"):
        distill(student, teacher, batches("multiclass"), task="multiclass", losses=losses)
    with pytest.raises(BadInput, match="did you mean body"):
        distill(student, teacher, batches("multiclass"), task="multiclass", student_layers={"level4": "bodi"})


def test_several_teachers_answer_by_their_mean() -> None:
    student, teacher = networks()
    other = Small(8)
    history = distill(student, [teacher, other], batches("multilabel"), task="multilabel")
    assert history[0]["multilabel_kd"] > 0
    with pytest.raises(BadInput, match="several teachers"):
        distill(student, [teacher, other], batches("multilabel"), task="multilabel", losses={RKD(): 1.0})


def test_unknown_classes_teach_through_the_teacher_alone() -> None:
    student, teacher = networks()
    x, y = data("multiclass")
    y = torch.full_like(y, -1)
    history = distill(student, teacher, [(x, y)], task="multiclass", losses={KD(): 1.0})
    assert history[0]["task"] == 0
    assert history[0]["kd"] > 0


X, Y = data("multilabel", 8)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "an empty one"),
        ([X], "a batch .images, targets. of two tensors"),
        ([{"image": X}], "dict of 1"),
        ([(X, Y[:4])], "4 for 8 images"),
        ([(X * float("nan"), Y)], "images without NaN"),
        ([(X, Y[:, :2])], r"targets \(8, 2\)"),
        ([(X, Y + 3)], "targets from 0 to 1"),
        ([(X, Y[:, 0])], r"targets \(images, labels\)"),
        ([(X.repeat(1, 2, 1, 1), Y)], "images of the shape and dtype that it takes"),
        ([(X.byte(), Y)], "images of the shape and dtype that it takes.*uint8"),
        ([(X.to("meta"), Y)], "images on the CPU, where"),
        ([(X, Y.to("meta"))], "targets on the CPU, where"),
    ],
)
def test_batches_that_cannot_be_get_one_message(loader, message) -> None:
    student, teacher = networks()
    with pytest.raises(BadInput, match=f"(?s){message}"):
        distill(student, teacher, loader, task="multilabel")


def test_modules_that_do_not_fit_get_one_message() -> None:
    student, teacher = networks()
    with pytest.raises(BadInput, match=r"student \(8, 3\), teacher \(8, 5\)"):
        distill(student, Small(8, 5), [(X, Y)], task="multilabel")
    with pytest.raises(BadInput, match="on one device"):
        distill(student, Small(8).to("meta"), [(X, Y)], task="multilabel")
    with pytest.raises(BadInput, match="did you mean multilabel"):
        distill(student, teacher, [(X, Y)], task="multi_label")
    with pytest.raises(BadInput, match="iterated once per epoch"):
        distill(student, teacher, iter([(X, Y), (X, Y)]), task="multilabel", epochs=2)
    with pytest.raises(BadInput, match="class numbers below 3"):
        distill(student, teacher, [(X, torch.full((8,), 3))], task="multiclass")
    teacher.head.bias.data.fill_(torch.nan)
    with pytest.raises(BadInput, match="finite logits of the teacher"):
        distill(student, teacher, [(X, Y)], task="multilabel")
    student.head.bias.data.fill_(torch.nan)
    with pytest.raises(BadInput, match="a finite task loss"):
        distill(student, networks()[1], [(X, Y)], task="multilabel")
