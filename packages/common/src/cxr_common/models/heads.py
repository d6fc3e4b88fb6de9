"""How a new classifier begins: small weights, and the frequencies of the labels as its first answer."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

STD = 0.01
"""Largest standard deviation of the weights of a new classifier."""

_OF_LOGITS = 0.25  # standard deviation of the first logits, for features of about unit size


def start_small(network: Any) -> None:
    """Draw the weights of a network's classifier from N(0, σ²), σ = min(0.01, 0.25 / √features), bias 0, in place.

    Constructors differ: timm's EfficientNets and MobileNets draw from ±1/√outputs, so that two labels begin with
    logits of standard deviation 5 and spend the first epochs unlearning them.

    Args:
        network: A network of timm's interface; one without outputs is left as it is.
    """
    for layer in _layers(network):
        nn.init.normal_(layer.weight, std=min(STD, _OF_LOGITS / math.sqrt(layer.weight[0].numel())))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def set_prior(network: Any, log_prior: Tensor) -> None:
    """Set the bias of a network's classifier, in place, so that it begins by answering how frequent labels are.

    The first loss is then about the entropy of the labels, and rare labels do not spend the first steps on their
    bias (Lin et al. 2017, "Focal loss for dense object detection", §4.1).

    Args:
        network: A network of timm's interface; a classifier without bias is left as it is.
        log_prior: (L,) log probabilities of classes, or log odds of labels; finite.
    """
    for layer in _layers(network):
        if layer.bias is not None:
            layer.bias.copy_(log_prior)


def _layers(network: Any) -> Iterable[nn.Linear | nn.Conv2d]:
    classifier = network.get_classifier()
    # Networks with a second classifier for a distillation token name both.
    parts = classifier if isinstance(classifier, tuple | list) else (classifier,)
    for part in parts:
        yield from (layer for layer in part.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
