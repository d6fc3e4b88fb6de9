"""Networks as cases of a test: the quick ones always, the others in the slow step, the largest by night."""

from typing import Any

import pytest

from cxr_common.models.zoo import OFFERED

BIG = {"densenet161", "vgg19_bn", "resnetv2_50+vgg19_bn"}
QUICK = {"baseline_cnn", "eeea_net_c2", "mobilenetv2_100", "resnet18", "vit_tiny_patch16_224"}


def each_offered() -> list[Any]:
    """Every architecture that is offered, marked by what it costs."""
    cases = []
    for name in OFFERED:
        marks = [pytest.mark.nightly] if name in BIG else [] if name in QUICK else [pytest.mark.slow]
        cases.append(pytest.param(name, marks=marks))
    return cases
