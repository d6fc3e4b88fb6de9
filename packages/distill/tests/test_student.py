import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common.checkpoint import Header, Input, load, save
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import start as start_engine
from cxr_data.errors import BadInput
from cxr_distill.config import DistillConfig, Optim
from cxr_distill.losses import Interface, SimKD, build_adapters
from cxr_distill.losses.adapters import ReusedClassifier
from cxr_distill.student import Student, new_network
from cxr_distill.teacher import load_teacher
from cxr_distill.teachers import Distillation
from cxr_distill.train import train

PIXELS = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def reusing(architecture: str = "test_resnet") -> Student:
    torch.manual_seed(0)
    network = GrayNetwork(build(architecture, 3, size=32), 0.5, 0.2)
    own = Interface({"pooled": network.network.num_features})
    its = Interface({"pooled": 7}, (torch.randn(3, 7), torch.randn(3)))
    return Student(network, build_adapters({SimKD(): 1.0}, own, its), ("pooled",))


def test_it_answers_by_the_teachers_classifier_and_so_does_the_network_once_folded() -> None:
    student = reusing().eval()
    with torch.no_grad():
        out = student(PIXELS)
        adapter: Any = student.adapters["simkd"]
        projected = adapter.projector(out.features["pooled"]).double()
        expected = projected @ adapter.weight.double().T + adapter.bias.double()
        torch.testing.assert_close(out.logits.double(), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(student.network(PIXELS), out.logits, atol=1e-2)
        student.fold()
        torch.testing.assert_close(student.network(PIXELS), out.logits, atol=1e-5, rtol=1e-5)
    kept = {name for name in student.state_dict() if name.startswith("adapters.")}
    assert kept == {"adapters.simkd.projector.weight", "adapters.simkd.projector.bias"}


def test_labels_teach_through_the_projector_and_not_the_networks_own_classifier() -> None:
    student = reusing()
    student(PIXELS).logits.sum().backward()
    assert student.adapters["simkd"].get_parameter("projector.weight").grad is not None
    classifier = student.network.network.get_submodule("fc")
    assert all(not p.requires_grad for p in classifier.parameters())
    assert student.network.network.get_submodule("conv1.0").get_parameter("weight").grad is not None


def test_a_network_without_a_linear_end_cannot_reuse_one() -> None:
    network = GrayNetwork(nn.Conv2d(1, 2, 3), 0.5, 0.2)
    reused = ReusedClassifier(2, 7, (torch.zeros(3, 7), torch.zeros(3)))
    with pytest.raises(BadInput, match="linear layer"):
        Student(network, nn.ModuleDict({"simkd": reused}), ("pooled",))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_saved_student_answers_as_it_was_judged(tmp_path, toy_cohort, ema) -> None:
    torch.manual_seed(1)
    given = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("PNEUMONIA", "NORMAL"))
    save(tmp_path / "t.safetensors", build("test_resnet", 2, size=32), given)
    teacher = load_teacher(tmp_path / "t.safetensors", ("NORMAL", "PNEUMONIA"), "multiclass", ("pooled",))
    guide = Distillation((teacher,), {SimKD(): 1.0}, 0.0)
    config = DistillConfig(
        size=32, batch_size=16, epochs=6, precision="fp32", lr=1e-2, student="test_resnet", optim=Optim(ema=ema)
    )
    path = train(config, "test_resnet", tmp_path / "s", toy_cohort, start_engine("fp32"), distillation=guide)
    lines = [json.loads(line) for line in Path(tmp_path, "s", "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["simkd"] < 0.7 * lines[0]["simkd"]
    assert "simkd_share" not in lines[0]  # the only one that counts
    from cxr_common.inference import outputs
    from cxr_distill.monitoring import validation

    network, header = load(path)
    rows = toy_cohort.rows("val")
    logits = outputs(network, toy_cohort.pixels, rows, 32)
    its = outputs(teacher.network, toy_cohort.pixels, rows, 32)[:, teacher.order.numpy()]
    figures = validation(logits, toy_cohort.targets[rows], "multiclass", its)
    assert figures == pytest.approx({name: header.metrics[name] for name in figures}, rel=1e-4)
    assert figures["teacher_kl"] == min(line["teacher_kl"] for line in lines) or header.metrics["epoch"] < 6


def test_drop_path_is_the_networks_and_leaves_no_trace_in_its_weights() -> None:
    network = new_network("test_vit", 2, 32, 0.5, 0.2, drop_path=0.5)
    assert any(getattr(m, "drop_prob", 0) for m in network.modules() if type(m).__name__ == "DropPath")
    assert network.network.state_dict().keys() == build("test_vit", 2, size=32).state_dict().keys()
