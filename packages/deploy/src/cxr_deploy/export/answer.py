"""The whole answer as one module: gray pixels to probabilities, logits and class activation maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxr_common.models.zoo import GrayNetwork
from cxr_data.models.header import Header


class Answering(nn.Module):
    """Everything between a gray image and what a person reads.

    ``probabilities = softmax(a logits / T + b)`` in a multiclass task, the sigmoid of the same in a multilabel one,
    with the temperature T, or slopes a and shifts b by label, fitted on validation data. Where the network ends in
    global average pooling and a linear layer (weights W, bias b, last features A), the class activation map of label
    c is ``M_c = sum_k W_ck A_k`` (Zhou et al. 2016, eq. 2): its mean over the positions plus b_c is the logit, and its
    positive part, scaled to 1, is Grad-CAM on the last level (Selvaraju et al. 2017).

    Args:
        gray_network: The classifier, normalisation included.
        header: Its header.
    """

    slope: Tensor
    shift: Tensor

    def __init__(self, gray_network: GrayNetwork, header: Header):
        super().__init__()
        self.gray_network = gray_network.eval()
        self.softmax = header.task == "multiclass"
        calibration = header.calibration or {}
        one, zero = [1.0] * len(header.labels), [0.0] * len(header.labels)
        slope = torch.tensor(calibration.get("scale", one)) / calibration.get("temperature", 1.0)
        self.register_buffer("slope", slope)
        self.register_buffer("shift", torch.tensor(calibration.get("shift", zero)))
        self.maps = has_maps(gray_network, header.input.size)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 1, S, S) uint8 to probabilities (B, L), logits (B, L) and, where there are any, maps (B, L, h, w)."""
        network = self.gray_network.network
        x = self.gray_network.normalise(pixels.float())
        if not self.maps:
            logits = network(x)
            return self._probabilities(logits), logits
        features = network.forward_features(x)
        logits = network.forward_head(features)
        return self._probabilities(logits), logits, _maps(network.get_classifier(), features)

    def _probabilities(self, logits: Tensor) -> Tensor:
        scaled = logits * self.slope + self.shift
        return scaled.softmax(dim=1) if self.softmax else scaled.sigmoid()


@torch.inference_mode()
def has_maps(gray_network: GrayNetwork, size: int) -> bool:
    """Whether the network ends in global average pooling and a linear layer, as a trial forward pass shows.

    Args:
        gray_network: The classifier, in eval mode.
        size: Edge of its square input, pixels.
    """
    network = gray_network.network
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 1, size, size), dtype=torch.uint8, generator=generator)
    features = network.forward_features(gray_network.normalise(pixels))
    classifier = network.get_classifier()
    if not isinstance(features, Tensor) or features.ndim != 4 or not isinstance(classifier, nn.Linear | nn.Conv2d):
        return False
    width = classifier.weight.shape[1]
    if width not in (features.shape[1], features.shape[3]):
        return False
    logits = network.forward_head(features)
    closed = _maps(classifier, features).mean((2, 3))
    if classifier.bias is not None:
        closed = closed + classifier.bias
    return logits.shape == closed.shape and torch.allclose(logits, closed, rtol=1e-3, atol=1e-4)


def _maps(classifier: nn.Linear | nn.Conv2d, features: Tensor) -> Tensor:
    weight = classifier.weight.reshape(classifier.weight.shape[0], -1)
    if features.shape[1] != weight.shape[1]:  # channels last (Swin)
        features = features.permute(0, 3, 1, 2)
    return F.conv2d(features, weight[:, :, None, None])
