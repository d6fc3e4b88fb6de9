import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from cxr_common import inference
from cxr_common.checkpoint import Header, Input, load, save
from cxr_common.inference import outputs
from cxr_common.models.pretrained import Pretrained
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import start as start_engine
from cxr_data.errors import BadInput
from cxr_data.models.decisions import decide, probabilities
from cxr_data.models.header import TRAINING_IMAGES
from cxr_distill import linear
from cxr_distill.config import Decision, DistillConfig, FinetuneConfig, Optim
from cxr_distill.imbalance import label_loss
from cxr_distill.linear import PENALTIES, fit_heads, pooled_features
from cxr_distill.train import train


def test_it_is_ridge_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 5)) * [1, 10, 0.1, 1, 1] + [0, 5, 0, 0, 0]).astype(np.float32)
    x[:, 4] = 3  # says nothing
    y = (x[:, 0] + x[:, 2] * 10 + rng.normal(size=300) > 0).astype(np.float32)
    targets = np.stack([y, 1 - y], 1)
    targets[::9, 1] = np.nan
    heads = fit_heads(torch.from_numpy(x), torch.from_numpy(targets), label_loss("multilabel", "auto", targets))
    assert [head.penalty for head in heads] == list(PENALTIES)
    standard = (x - x.mean(0))[:, :4] / x.std(0)[:4]
    # The mean over all labels and ‖V‖² / C, in scikit-learn's terms of a sum and ‖V‖² / 2.
    known = (~np.isnan(targets)).sum()
    for head in heads[1:4]:
        oracle = LogisticRegression(C=5 / (head.penalty * known), tol=1e-8, max_iter=1000).fit(standard, y)
        expected = oracle.coef_[0] / x.std(0)[:4]
        np.testing.assert_allclose(head.weight[0, :4].numpy(), expected, rtol=0.02, atol=1e-3)
        logits = x @ head.weight[0].numpy() + head.bias[0].item()
        np.testing.assert_allclose(logits, oracle.decision_function(standard), atol=0.02)
        assert head.weight[0, 4] == 0


def test_only_the_classifier_changes(tmp_path, toy_cohort) -> None:
    start = tmp_path / "backbone.safetensors"
    torch.manual_seed(3)
    save(start, build("test_resnet", 0, size=32), Header("backbone", "test_resnet", Input(32, 0.5, 0.2)))
    wanted = Decision("platt", "sensitivity", 0.9)
    config = FinetuneConfig(size=32, precision="fp32", mode="linear", architecture="test_resnet", decision=wanted)
    path = train(
        config, "test_resnet", tmp_path / "linear", toy_cohort, start_engine("fp32"), start=(Pretrained(start),)
    )
    before, after = load_file(start), load_file(path)
    weights = {name for name in after if not name.startswith(TRAINING_IMAGES)}
    assert {k for k in weights if k not in before or not torch.equal(after[k], before[k])} == {
        "fc.weight",
        "fc.bias",
    }
    lines = [json.loads(line) for line in Path(tmp_path, "linear", "metrics.jsonl").read_text().splitlines()]
    assert [line["penalty"] for line in lines] == list(PENALTIES)
    assert not (tmp_path / "linear" / linear.FEATURES).exists()
    network, header = load(path)
    assert header.metrics["val_auroc"] == max(line["val_auroc"] for line in lines)
    rows = toy_cohort.rows("val")
    assert header.calibration is not None
    assert header.calibration.keys() == {"scale", "shift"}
    p = probabilities(outputs(network, toy_cohort.pixels, rows, 32), "multiclass", header.calibration)
    positive = toy_cohort.targets[rows, 1] == 1
    assert decide(p, header.thresholds, "multiclass")[positive, 1].mean() >= 0.9
    pooled = pooled_features(network, toy_cohort, rows, 32, torch.float32)
    assert torch.equal(
        pooled, pooled_features(network.train(), toy_cohort, rows, 32, torch.float32)
    )  # BatchNorm in eval


def test_features_that_are_there_are_not_computed_again(tmp_path, toy_cohort, monkeypatch) -> None:
    monkeypatch.setattr(linear, "_PIECE", linear._BATCH)
    monkeypatch.setattr(linear, "_BATCH", 16)
    network, rows = GrayNetwork(build("test_resnet", 2, size=32), 0.5, 0.2), np.arange(90)[::-1]
    expected = pooled_features(network, toy_cohort, rows, 32, torch.float32)
    computed, genuine = [], inference.outputs

    def stops_in_the_second_piece(network, pixels, piece, *arguments, **options):
        computed.append(len(piece))
        if len(computed) == 2:
            raise KeyboardInterrupt
        return genuine(network, pixels, piece, *arguments, **options)

    monkeypatch.setattr(inference, "outputs", stops_in_the_second_piece)
    with pytest.raises(KeyboardInterrupt):
        pooled_features(network, toy_cohort, rows, 32, torch.float32, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["00000.npy"]
    actual = pooled_features(network, toy_cohort, rows, 32, torch.float32, tmp_path / "kept")
    assert computed == [64, 26, 26]
    assert torch.equal(actual, expected)


def test_what_a_fixed_extractor_has_no_use_for_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--optim\.mixup"):
        FinetuneConfig(mode="linear", optim=Optim(mixup=0.2))
    with pytest.raises(BadInput, match="finetune has a linear one"):
        DistillConfig(mode="linear")
