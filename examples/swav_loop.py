"""SwAV in a training loop of your own."""

import timm
import torch

from cxr_ssl import SwAV, sinkhorn, swapped_prediction_loss

torch.manual_seed(0)
backbone = timm.create_model("resnet18", num_classes=0, in_chans=1)
swav = SwAV(backbone, backbone.num_features, embedding_dim=32, num_prototypes=128)
optimizer = torch.optim.AdamW(swav.parameters(), lr=1e-3)

for step in range(4):
    images = torch.rand(16, 1, 72, 72)  # your images; here two large and two small random crops of each
    large = torch.stack([images[:, :, i : i + 64, i : i + 64] for i in (0, 8)])
    small = torch.stack([images[:, :, i : i + 32, i : i + 32] for i in (4, 36)])
    _, scores = swav([large, small])  # crops of one size in one forward; scores (4, 16, 128)
    codes = torch.stack([sinkhorn(crop) for crop in scores[:2].detach()])  # assignments of the large crops
    loss = swapped_prediction_loss(scores, codes, temperature=0.1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")
torch.save(backbone.state_dict(), "backbone.pt")
