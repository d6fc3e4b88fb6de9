import pytest

from cxr_common.errors import BadInput
from cxr_distill.config import DistillConfig, FinetuneConfig


def test_defaults_stand() -> None:
    assert FinetuneConfig().architecture == "resnet50"
    assert DistillConfig().student == "resnet18"


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 4},
        {"batch_size": 1},
        {"epochs": -1},
        {"label_fraction": 0.0},
        {"crop": 1.5},
        {"run": "../elsewhere"},
        {"name": "a/../../b"},
    ],
)
def test_values_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(BadInput, match="--" + next(iter(wrong))):
        FinetuneConfig(**wrong)


def test_distillation_has_its_own_ranges() -> None:
    with pytest.raises(BadInput, match="--temperature"):
        DistillConfig(temperature=-1.0)
    with pytest.raises(BadInput, match="--loss kd"):
        DistillConfig(loss={"kd": -0.5})
