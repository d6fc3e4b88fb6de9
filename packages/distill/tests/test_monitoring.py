import numpy as np
import pytest
import torch

from cxr_data.errors import BadInput
from cxr_distill.monitoring import check_finite, divergence, dominating, gradient_shares, validation


def test_shares_are_those_of_the_gradients_norms() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    terms = {"a": 3 * x.sum(), "b": x.square().sum(), "c": torch.zeros(())}
    norms = np.array([3 * 12**0.5, 2 * x.detach().norm().item(), 0.0])
    actual = gradient_shares(terms, [x], scale=1024.0)
    assert [actual[f"{k}_share"].item() for k in "abc"] == pytest.approx(norms / norms.sum(), rel=1e-5)
    (terms["a"] + terms["b"]).backward()  # the graph is still there, and no gradient was left behind
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 3 + 2 * x.detach())
    assert gradient_shares({"a": torch.zeros(()), "b": 0 * x.sum()}, [x])["a_share"] == 0


def test_what_is_not_finite_is_named(tmp_path) -> None:
    check_finite("a finite loss", 0.5, 1, tmp_path)
    check_finite("a finite loss on validation images", None, 1, tmp_path)
    with pytest.raises(BadInput, match=r"a finite loss on validation images, found nan at epoch 2"):
        check_finite("a finite loss on validation images", float("nan"), 2, tmp_path)


def test_a_loss_that_leaves_nothing_to_the_others_is_named() -> None:
    assert dominating({"kd_share": 0.97, "task_share": 0.03, "loss": 1.0}) == "kd"
    assert dominating({"kd_share": 0.9, "task_share": 0.1}) is None
    assert dominating({"kd_share": 1.0}) is None


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_divergence_is_that_of_the_probabilities(task) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 4)).astype(np.float32)
    if task == "multiclass":
        p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (teacher.astype(float), student.astype(float)))
        expected = (p * np.log(p / q)).sum(1).mean()
    else:
        p, q = (1 / (1 + np.exp(-z)) for z in (teacher.astype(float), student.astype(float)))
        expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert divergence(student, teacher, task) == pytest.approx(expected, rel=1e-6)
    assert divergence(teacher, teacher, task) == pytest.approx(0, abs=1e-12)
    assert np.isfinite(divergence(student * 1e4, -teacher * 1e4, task))


def test_validation_figures() -> None:
    logits = np.array([[2.0, -2], [-1, 1], [1, -1]], np.float32)
    targets = np.eye(2, dtype=np.float32)[[0, 1, 1]]
    figures = validation(logits, targets, "multiclass", logits[[0, 1, 1]])
    expected = -np.mean([np.log(1 / (1 + np.exp(-m))) for m in (4, 2, -2)])
    assert figures["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert figures["agreement"] == pytest.approx(2 / 3)
    assert figures["teacher_kl"] == pytest.approx(divergence(logits, logits[[0, 1, 1]], "multiclass"))
    assert validation(logits, targets * np.nan, "multiclass", None)["val_auroc"] is None
