"""Networks in PyTorch as functions from gray pixels to answers, as they are or made fast."""

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_common.models.folding import folded
from cxr_common.models.zoo import GrayNetwork
from cxr_data.models.header import Header
from cxr_deploy.export.answer import Answering
from cxr_deploy.runtimes import OUTPUTS, Run


def in_torch(
    network: GrayNetwork, header: Header, *, fold: bool = False, bf16: bool = False, device: str = "cpu"
) -> Run:
    """A network in PyTorch.

    Args:
        network: The classifier; left as it is.
        header: Its header.
        fold: Put batch normalisation into the convolutions and use channels-last layout.
        bf16: Compute in bfloat16 where PyTorch's autocast does.
        device: "cpu" or "cuda"; there too float32 is not rounded to TF32.
    """
    answering = Answering(folded(network, header.input.size) if fold else network, header).eval().to(device)
    if fold:
        answering = answering.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(device, dtype=torch.bfloat16, enabled=bf16),
        ):
            answers = answering(torch.from_numpy(pixels).to(device))
        return {name: answer.float().cpu().numpy() for name, answer in zip(OUTPUTS, answers, strict=False)}

    return run
