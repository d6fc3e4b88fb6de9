"""Embeddings of past batches, so that Sinkhorn sees more images than one batch holds."""

import torch
from torch import Tensor


class FeatureQueue:
    """The newest embeddings of each coded view, first in, first out.

    A queue enlarges the batch that Sinkhorn balances (SwAV section 4.3), which gradient accumulation does
    not. It is used only when full, and it is part of the resume state: a run that goes on with an empty queue
    is another run. Each process keeps the embeddings of its own images; `sinkhorn` adds up over processes.
    """

    def __init__(
        self, views: int, batches: int, batch_size: int, embedding_dim: int, device: torch.device | str = "cpu"
    ):
        """Start an empty queue.

        Args:
            views: A, number of coded views.
            batches: Length in batches; 0 makes a queue that is never full and takes nothing.
            batch_size: Images a batch on this process.
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

    def state(self) -> dict[str, Tensor | int]:
        """What has to be kept to go on exactly here."""
        return {"embeddings": self.embeddings.clone(), "pushed": self.pushed}

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Take a kept state up again.

        Raises:
            ValueError: If the state is that of a queue of another shape.
        """
        embeddings, pushed = state["embeddings"], state["pushed"]
        if not isinstance(embeddings, Tensor) or embeddings.shape != self.embeddings.shape:
            raise ValueError(
                f"Expected queue embeddings of shape {tuple(self.embeddings.shape)}, "
                f"got {tuple(getattr(embeddings, 'shape', ()))}."
            )
        self.embeddings.copy_(embeddings)
        self.pushed = int(pushed)
