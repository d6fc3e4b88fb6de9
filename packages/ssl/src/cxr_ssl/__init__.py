"""Self-supervised pretraining on chest radiographs, without labels.

One step of SwAV with a loop of your own:

>>> import torch
>>> from torch import nn
>>> from cxr_ssl import SwAV, sinkhorn, swapped_prediction_loss
>>> backbone = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
>>> swav = SwAV(backbone, 12, embedding_dim=16, num_prototypes=60)
>>> crops = torch.rand(4, 8, 1, 32, 32)  # 4 crops of each of 8 images
>>> embeddings, scores = swav([crops])  # a tensor for each size of crops: one forward each
>>> codes = torch.stack([sinkhorn(crop) for crop in scores[:2].detach()])  # of the two global crops
>>> loss = swapped_prediction_loss(scores, codes, temperature=0.1)
>>> loss.backward()
>>> bool(loss > 0), codes.sum(dim=2).allclose(torch.ones(2, 8))
(True, True)

`pretrain` is the command ``ssl-pretrain`` as a function of its config.
"""

from typing import TYPE_CHECKING

from cxr_data.lazy import importing

if TYPE_CHECKING:
    from cxr_ssl.codes import sinkhorn
    from cxr_ssl.swav import SwAV, swapped_prediction_loss
    from cxr_ssl.train import pretrain

__all__ = ["SwAV", "pretrain", "sinkhorn", "swapped_prediction_loss"]

__getattr__ = importing(
    __name__, {"SwAV": "swav", "pretrain": "train", "sinkhorn": "codes", "swapped_prediction_loss": "swav"}
)
