from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.models.decisions import probabilities
from cxr_deploy.export.answer import Answering, has_maps


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_probabilities_are_those_of_the_calibrated_logits(lively, task):
    network, header = lively(task=task)
    pixels = torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        actual, logits, _ = Answering(network, header)(pixels)
        torch.testing.assert_close(logits, network(pixels))
    expected = probabilities(logits.double().numpy(), task, header.calibration)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-6)


def test_the_mean_of_a_map_and_the_bias_are_the_logit(lively):
    network, header = lively()
    pixels = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        _, logits, maps = Answering(network, header)(pixels)
    bias = network.network.get_classifier().bias.detach()
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits, rtol=1e-4, atol=1e-5)


def test_maps_are_grad_cam_on_the_last_stage(lively, radiographs):
    network, header = lively(size=96)
    pixels = torch.from_numpy(radiographs(2, 96))
    with torch.inference_mode():
        _, _, maps = Answering(network, header)(pixels)
    for label in range(len(header.labels)):
        with GradCAM(model=network, target_layers=[network.network.layer4[-1]]) as peer:
            targets: Any = [ClassifierOutputTarget(label)] * 2
            expected = peer(pixels.float(), targets=targets)
        # The peer scales the positive part to [0, 1], enlarges it bilinearly, and scales it again.
        small = scaled(maps[:, label].clamp(min=0).numpy())
        enlarged = scaled(np.stack([cv2.resize(one, (96, 96)) for one in small]))
        np.testing.assert_allclose(enlarged, expected, atol=1e-4)


def scaled(maps):
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return (maps - low) / (high - low + 1e-7)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("resnet18", True), ("mobilenetv2_100", True), ("eeea_net_c2", False), ("baseline_cnn", False)],
)
def test_only_networks_that_pool_and_weigh_have_maps(architecture, expected):
    torch.manual_seed(0)
    network = GrayNetwork(build(architecture, 2, size=32), 0.5, 0.25).eval()
    assert has_maps(network, 32) is expected
    header = Header("model", architecture, Input(32, 0.5, 0.25), task="multilabel", labels=("A", "B"))
    with torch.inference_mode():
        assert len(Answering(network, header)(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))) == 2 + expected


def test_maps_of_a_network_with_channels_last_are_found():
    network = GrayNetwork(build("swin_tiny_patch4_window7_224", 2, size=64), 0.5, 0.25).eval()
    header = Header("model", "swin", Input(64, 0.5, 0.25), task="multilabel", labels=("A", "B"))
    with torch.inference_mode():
        _, logits, maps = Answering(network, header)(torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8))
    bias = network.network.get_parameter("head.fc.bias").detach()
    assert maps.shape == (1, 2, 2, 2)
    torch.testing.assert_close(maps.mean((2, 3)) + bias, logits, rtol=1e-4, atol=1e-5)
