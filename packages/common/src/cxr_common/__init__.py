"""What every stage shares: cohorts, networks, checkpoints, views and training parts.

>>> import torch
>>> from cxr_common import checkpoint
>>> from cxr_data import open_cohort
>>> from cxr_common.models.zoo import build
>>> cohort = open_cohort("phantom:40", pixel_size=32, show=False)
>>> cohort.task, cohort.pixels.dtype.name, cohort.pixels.shape  # gray, one channel, decoded once
('multilabel', 'uint8', (40, 32, 32))
>>> pixels = torch.from_numpy(cohort.pixels[cohort.rows("test")])[:, None]
>>> about = checkpoint.Input(32, *cohort.mean_std())
>>> header = checkpoint.Header("model", "resnet18", about, cohort.task, cohort.labels)
>>> digest = checkpoint.save("model.safetensors", build("resnet18", len(cohort.labels), size=32), header)
>>> network, header = checkpoint.load("model.safetensors", kind="model")  # from the file alone
>>> network(pixels).shape == (len(pixels), len(header.labels))
True
"""
