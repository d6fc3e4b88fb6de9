"""Embeddings of past batches, so that Sinkhorn sees more images than one batch holds."""

import torch
from torch import Tensor


class FeatureQueue:
    """The newest embeddings of each coded crop, first in, first out.

    A queue enlarges the batch that Sinkhorn balances (SwAV section 4.3), which gradient accumulation does
    not. It is used only when full, and it is part of the resume state: a run that resumed with an empty queue
    would be another run. Each process keeps the embeddings of its own images; `sinkhorn` adds up over processes.
    """

    def __init__(
        self, views: int, batches: int, batch_size: int, embedding_dim: int, device: torch.device | str = "cpu"
    ):
        """Start an empty queue.

        Args:
            views: A, number of coded crops.
            batches: Length in batches; 0 makes a queue that is never full and takes nothing.
            batch_size: Images per batch on this process.
            embedding_dim: D.
            device: Where the embeddings live.
        """
        self.embeddings = torch.zeros(views, batches, batch_size, embedding_dim, device=device)
        self.pushed = 0  # batches ever taken; the next one replaces the oldest, at pushed % batches

    @property
    def full(self) -> bool:
        """Whether every place holds an embedding."""
        batches = self.embeddings.shape[1]
        return batches > 0 and self.pushed >= batches

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Take the embeddings (A, B, D) of one batch; the oldest batch leaves when full."""
        batches = self.embeddings.shape[1]
        if batches:
            self.embeddings[:, self.pushed % batches] = embeddings.detach()
            self.pushed += 1

    @torch.no_grad()
    def scores(self, prototypes: Tensor) -> Tensor:
        """Scores (A, batches * B, K) of the stored embeddings against the prototypes (K, D) of now."""
        return self.embeddings.flatten(1, 2) @ prototypes.detach().T
