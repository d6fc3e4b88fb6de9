import pytest

from cxr_data.errors import BadInput
from cxr_distill.config import Decision, DistillConfig, FinetuneConfig, Optim


def test_defaults_stand() -> None:
    assert FinetuneConfig().architecture == "resnet50"
    assert DistillConfig().student == "resnet18"


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 4},
        {"batch_size": 1},
        {"epochs": 0},
        {"lr": 0.0},
        {"label_fraction": 0.0},
        {"augment": "strong,flip=2"},
        {"run": "../elsewhere"},
        {"run": ""},
        {"name": "/elsewhere"},
        {"seed": -1},
        {"seed": 2**63},
        {"seeds": [0, -1]},
        {"workers": 0},
        {"name": "a/../../b"},
    ],
)
def test_values_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(BadInput, match="augment|flip" if "augment" in wrong else "--" + next(iter(wrong))):
        FinetuneConfig(**wrong)


def test_distillation_has_its_own_ranges() -> None:
    with pytest.raises(BadInput, match="did you mean best_label"):
        DistillConfig(ensemble="best_labels")
    with pytest.raises(BadInput, match="--cached_views"):
        DistillConfig(cached_views=-1)
    with pytest.raises(BadInput, match="mixed images have no cached"):
        DistillConfig(cached_views=2, optim=Optim(mixup=0.2))


@pytest.mark.parametrize(
    "wrong",
    [{"ema": 1.0}, {"clip": -1.0}, {"drop_path": 1.0}, {"mixup": -0.1}, {"label_smoothing": 1.0}, {"lowest_lr": 0.0}],
)
def test_how_weights_move_has_its_ranges(wrong) -> None:
    with pytest.raises(BadInput, match=rf"--optim\.{next(iter(wrong))}"):
        Optim(**wrong)


def test_names_are_checked() -> None:
    with pytest.raises(BadInput, match="did you mean linear"):
        FinetuneConfig(mode="linaer")
    with pytest.raises(BadInput, match="did you mean pos_weight"):
        FinetuneConfig(imbalance="pos_weights")
    with pytest.raises(BadInput, match="did you mean platt"):
        Decision(calibration="plat")
    with pytest.raises(BadInput, match="did you mean youden"):
        Decision(thresholds="yuoden")
    with pytest.raises(BadInput, match=r"--decision\.sensitivity"):
        Decision(sensitivity=0.0)
