import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cxr_data.errors import BadInput
from cxr_distill.imbalance import first_logits, label_loss, sampling_weights

CLASSES = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], [60, 30, 10])]
LABELS = np.array([[1, 0], [0, 0], [0, np.nan], [0, 1], [1, 1], [0, 0], [0, 0], [np.nan, np.nan]], np.float32)


def test_class_weights() -> None:
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([100 / 180, 100 / 90, 100 / 30])
    actual = label_loss("multiclass", "auto", CLASSES, imbalance="pos_weight")(logits, torch.from_numpy(CLASSES))
    expected = F.cross_entropy(logits.double(), torch.from_numpy(CLASSES).argmax(1), weight.double())
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_positive_weights() -> None:
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    y = torch.from_numpy(LABELS)
    known = ~y.isnan()
    weight = torch.tensor([5 / 2, 4 / 2]).expand_as(y)
    expected = F.binary_cross_entropy_with_logits(logits[known], y[known], pos_weight=weight[known])
    actual = label_loss("multilabel", "auto", LABELS, imbalance="pos_weight")(logits, y)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)


def test_logit_adjustment_takes_the_prior_out() -> None:
    zeros, y = torch.zeros(100, 3), torch.from_numpy(CLASSES)
    actual = label_loss("multiclass", "auto", CLASSES, imbalance="logit_adjust")(zeros, y)
    shares = np.array([0.6, 0.3, 0.1])
    assert actual.item() == pytest.approx(
        -(shares * np.log(shares)).sum(), rel=1e-5
    )  # answering nothing costs the entropy
    actual = label_loss("multilabel", "focal", LABELS, imbalance="logit_adjust")(
        torch.zeros(8, 2), torch.from_numpy(LABELS)
    )
    prior = torch.tensor([np.log(2 / 5), np.log(2 / 4)], dtype=torch.float32).expand(8, 2)
    assert actual.item() == pytest.approx(
        label_loss("multilabel", "focal", LABELS)(prior, torch.from_numpy(LABELS)).item()
    )


def test_smoothing_where_there_is_such() -> None:
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    y = torch.from_numpy(CLASSES)
    actual = label_loss("multiclass", "auto", CLASSES, label_smoothing=0.1)(logits, y)
    assert actual.item() == pytest.approx(F.cross_entropy(logits, y.argmax(1), label_smoothing=0.1).item(), rel=1e-5)
    with pytest.raises(BadInput, match="label_smoothing"):
        label_loss("multiclass", "focal", CLASSES, label_smoothing=0.1)
    with pytest.raises(BadInput, match="pos_weight"):
        label_loss("multilabel", "asymmetric", LABELS, imbalance="pos_weight")


def test_classes_are_drawn_equally_often() -> None:
    weights = sampling_weights(CLASSES, "multiclass")
    assert weights.sum() == pytest.approx(100)
    assert weights @ CLASSES == pytest.approx([100 / 3] * 3)


def test_findings_and_none_are_drawn_by_the_rarest() -> None:
    weights = sampling_weights(LABELS, "multilabel")
    # n: label 0 twice, label 1 twice, none of them four times; the unlabelled image keeps its share.
    relative = np.array([1 / 2, 1 / 4, 1 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 4])
    assert weights == pytest.approx([*(7 * relative / relative.sum()), 1.0])


@pytest.mark.parametrize("imbalance", ["none", "pos_weight", "balanced", "logit_adjust"])
@pytest.mark.parametrize(("task", "targets"), [("multiclass", CLASSES), ("multilabel", LABELS)])
def test_first_logits_are_the_best_that_know_no_image(task, targets, imbalance) -> None:
    loss = label_loss(task, "auto", targets, imbalance=imbalance)
    weights = sampling_weights(targets, task) if imbalance == "balanced" else np.ones(len(targets))
    drawn = torch.from_numpy(np.repeat(targets, np.rint(weights * 1000).astype(int), axis=0))
    logits = first_logits(targets, task, imbalance).requires_grad_()
    loss(logits.expand_as(drawn), drawn).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 2e-3


def test_labels_never_seen_have_finite_first_logits() -> None:
    never = np.array([[0, 1, np.nan]] * 50, np.float32)
    actual = first_logits(never, "multilabel")
    assert actual.isfinite().all()
    assert actual[0] < -3 < 3 < actual[1]
    assert first_logits(np.eye(3, dtype=np.float32)[np.zeros(9, int)], "multiclass").isfinite().all()
