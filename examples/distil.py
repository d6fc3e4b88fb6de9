"""Distil your own timm teacher into your own student, with your own DataLoader."""

import timm
import torch
from torch.utils.data import DataLoader, TensorDataset

from cxr_distill import distill
from cxr_distill.losses import MultilabelKD, PooledCosine

torch.manual_seed(0)
images = torch.rand(96, 3, 64, 64)
targets = torch.stack([images.mean((1, 2, 3)) > 0.5, images[:, 0, :32].mean((1, 2)) > 0.5], dim=1).float()
targets[::5, 1] = float("nan")  # labels that nobody knows
loader = DataLoader(TensorDataset(images, targets), batch_size=32, shuffle=True)

teacher = timm.create_model("resnet18", num_classes=2)
student = timm.create_model("mobilenetv3_small_050", num_classes=2)
history = distill(
    student,
    teacher,
    loader,
    task="multilabel",
    losses={MultilabelKD(): 1.0, PooledCosine(): 0.5},
    epochs=2,
)
print([round(epoch["loss"], 2) for epoch in history])
torch.save(student.state_dict(), "student.pt")
