"""SwAV: pretraining on chest radiographs without labels.

One step, as :mod:`cxr_ssl.step` takes it, by hand:

>>> import torch
>>> from cxr_common.models.zoo import GrayNetwork, build
>>> from cxr_ssl.sinkhorn import sinkhorn
>>> from cxr_ssl.swav import SwAV, swapped_prediction_loss
>>> backbone = GrayNetwork(build("resnet18", 0, size=32), mean=0.5, std=0.25)
>>> swav = SwAV(backbone, 512, embedding_dim=16, num_prototypes=60)
>>> views = torch.randint(0, 256, (4, 8, 1, 32, 32), dtype=torch.uint8)  # 4 views of 8 images
>>> embeddings, scores = swav([views])  # a stack for each size of views: one forward each
>>> codes = torch.stack([sinkhorn(one) for one in scores[:2].detach()])  # of the two global views
>>> loss = swapped_prediction_loss(scores, codes, temperature=0.1)
>>> loss.backward()
>>> bool(loss > 0), codes.sum(dim=2).allclose(torch.ones(2, 8))
(True, True)
"""
