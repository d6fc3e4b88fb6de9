from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxr_common.models.heads import STD, set_prior, start_small
from cxr_common.models.zoo import OFFERED, GrayNetwork, build

PRIOR = torch.tensor([0.7, 0.2, 0.1])
ALSO = ("efficientnet_b0", "mobilenetv3_large_100", "regnety_002", "deit_tiny_distilled_patch16_224")
LITE = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
QUICK = ("baseline_cnn", "efficientnet_b0", "mobilenetv2_100", "resnet18", "resnetv2_50", "vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in (*OFFERED, *ALSO, *LITE)],
)
def test_the_first_loss_of_every_network_is_the_entropy_of_the_labels(architecture: str) -> None:
    torch.manual_seed(0)
    size = 224 if "deit" in architecture else 64
    network: Any = build(architecture, 3, size=size)
    set_prior(network, PRIOR.log())
    pixels = torch.randint(0, 256, (10, 1, size, size), dtype=torch.uint8)
    classes = torch.tensor([0] * 7 + [1] * 2 + [2])
    with torch.no_grad():
        logits = GrayNetwork(network, 0.5, 0.25)(pixels)
    if isinstance(logits, tuple):
        logits = logits[0]
    entropy = -(PRIOR * PRIOR.log()).sum()
    assert F.cross_entropy(logits, classes) == pytest.approx(float(entropy), abs=0.12)
    classifiers = network.get_classifier()
    for layer in classifiers if isinstance(classifiers, tuple) else (classifiers,):
        assert layer.weight.std() < 1.5 * STD


def test_a_network_without_outputs_has_nothing_to_start() -> None:
    network = build("resnet18", 0)
    start_small(network)
    set_prior(network, PRIOR)


def test_a_head_without_bias_stays_without() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3, bias=False)

        def get_classifier(self) -> nn.Module:
            return self.head

    network = Headed()
    start_small(network)
    set_prior(network, PRIOR.log())
    assert network.head.weight.std() < 2 * STD
