import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.augment import whole
from cxr_data.errors import BadInput
from cxr_eval.predictions import Answers, answers, predict, table


def header(labels, task, **more):
    return Header("model", "resnet18", Input(32, 0.5, 0.25), task=task, labels=tuple(labels), **more)


def test_batches_do_not_change_the_logits_and_rows_are_taken_in_order():
    torch.manual_seed(0)
    network = GrayNetwork(build("resnet18", 3), 0.5, 0.25).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 48, 48), np.uint8)
    with torch.no_grad():
        expected = network(torch.from_numpy(whole(pixels, 32)).unsqueeze(1)).numpy()
    logits = predict(network, pixels, 32, batch_size=3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    counted = []
    predict(network, pixels, 32, batch_size=3, on_batch=counted.append)
    assert counted == [3, 3, 1]
    assert not network._forward_hooks
    np.testing.assert_allclose(predict(network, pixels, 32, rows=np.array([6, 2])), expected[[6, 2]], atol=1e-5)


def test_evaluation_switches_dropout_off():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    network.register_parameter("any", nn.Parameter(torch.zeros(1)))
    seen = []
    network.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    network[1].register_forward_pre_hook(lambda _, args: (args[0].float(),))
    predict(network, np.full((2, 32, 32), 7, np.uint8), 32)
    assert seen == [False]


def test_temperature_and_thresholds_of_the_file_are_used():
    logits = np.array([[0.0, 2.0], [0.0, 1.0]], np.float32)
    settings = header(["NORMAL", "SICK"], "multiclass", calibration={"temperature": 2.0}, thresholds=(0.3, 0.7))
    result = answers(logits, settings, ["NORMAL", "SICK"], "m")
    np.testing.assert_allclose(result.probabilities[:, 1], 1 / (1 + np.exp(-np.array([1, 0.5]))))
    assert result.decisions.tolist() == [[False, True], [True, False]]
    assert result.temperature == 2.0
    assert result.uncalibrated is not None
    np.testing.assert_allclose(result.uncalibrated[:, 1], 1 / (1 + np.exp(-np.array([2, 1]))))
    assert answers(logits, header(["A", "B"], "multilabel"), ["A", "B"], "m").uncalibrated is None


def test_columns_follow_the_comparison_not_the_file():
    logits = np.array([[5.0, -5.0, 0.0]], np.float32)
    result = answers(logits, header(["A", "B", "C"], "multilabel", thresholds=(0.5, 0.5, 0.9)), ["C", "A"], "m")
    np.testing.assert_allclose(result.probabilities, [[0.5, 1 / (1 + np.exp(-5))]])
    assert result.decisions.tolist() == [[False, True]]


def test_answers_that_are_no_numbers_are_refused():
    with pytest.raises(BadInput, match="1 of 2 images"):
        answers(np.array([[1.0], [np.nan]], np.float32), header(["A"], "multilabel"), ["A"], "m")


def test_table_has_null_where_a_label_is_unknown():
    rows = pl.DataFrame({"image": ["a", "b"], "patient": ["Doe^Jane", "Doe^John"], "split": ["test", "test"]})
    given = {"m": Answers(np.array([[0.2], [0.9]]), np.array([[False], [True]]))}
    made = table(rows, ["Mass"], np.array([[1], [np.nan]], np.float32), given)
    assert made.columns == ["image", "patient", "split", "target:Mass", "probability:m:Mass", "decision:m:Mass"]
    assert made["target:Mass"].to_list() == [1.0, None]
    assert made["patient"].to_list() == [1, 2]  # their names stay where they were
    assert made["decision:m:Mass"].to_list() == [False, True]
