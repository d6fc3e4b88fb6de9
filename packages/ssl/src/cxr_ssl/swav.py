"""SwAV: projection head, prototypes and the swapped prediction loss.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", 2020, arXiv
2006.09882.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import SwaVProjectionHead
from torch import Tensor, nn


class SwAV(nn.Module):
    """A backbone with the SwAV head: views in, unit embeddings and prototype scores out.

    Between the head and the L2 normalisation stands a BatchNorm without parameters. Radiographs look alike,
    and what all of them share would otherwise point every embedding into one direction; removing the mean and
    equalising the spread of each dimension leaves what tells them apart.

    Attributes:
        backbone: Network from pixels (N, 1, H, W) to pooled features (N, num_features).
        head: lightly's SwAV projection head, num_features -> hidden_dim -> BatchNorm -> ReLU ->
            embedding_dim.
        standardise: The parameter-free BatchNorm over embedding_dim, or nothing.
        prototypes: Bias-free linear layer, weight (num_prototypes, embedding_dim) with rows of length 1.
        used_prototypes: K, how many of them, from the first, are scored; fewer after some recoveries from collapse.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from cxr_ssl import SwAV
        >>> backbone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        >>> swav = SwAV(backbone, 16, embedding_dim=8, num_prototypes=30)
        >>> embeddings, scores = swav([torch.rand(2, 6, 1, 32, 32)])  # 2 crops of 6 images
        >>> embeddings.shape, scores.shape
        (torch.Size([2, 6, 8]), torch.Size([2, 6, 30]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        embedding_dim: int,
        num_prototypes: int,
        hidden_dim: int | None = None,
        standardise: bool = True,
    ):
        """Put the head and the prototypes behind a backbone.

        Args:
            backbone: Network from pixels (N, 1, H, W) to pooled features (N, num_features).
            num_features: Width of those features.
            embedding_dim: D, width of the embedding.
            num_prototypes: K.
            hidden_dim: Width of the head's hidden layer; num_features when None (2048 for a ResNet-50, as
                published).
            standardise: Whether the parameter-free BatchNorm is there; the paper has none.
        """
        super().__init__()
        self.backbone = backbone
        self.head = SwaVProjectionHead(num_features, hidden_dim or num_features, embedding_dim)
        self.standardise = nn.BatchNorm1d(embedding_dim, affine=False) if standardise else nn.Identity()
        self.prototypes = nn.Linear(embedding_dim, num_prototypes, bias=False)
        nn.init.normal_(self.prototypes.weight)  # rows of equal length now, spread evenly over the sphere
        normalise_prototypes(self.prototypes)
        self.used_prototypes = num_prototypes

    def forward(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Embed all views and score them against the prototypes.

        Views of one size go through the backbone in one pass, so BatchNorm sees them together (as in the
        published code) and small images fill the processor. Head and prototypes see all views at once; from
        the L2 normalisation on everything is float32 (its products TF32 on a GPU), whatever the backbone ran in:
        bf16 scores divided by eps = .05 would be off by several percent.

        Args:
            views: One tensor per size, (V_s, B, 1, H_s, W_s): V_s views each of the same B images in the same
                order.

        Returns:
            (V, B, D) embeddings of length 1 and (V, B, K) scores (cosines in [-1, 1]), V = sum of V_s in the
            order given.
        """
        images = views[0].shape[1]
        features = torch.cat([self.backbone(stack.flatten(0, 1)) for stack in views])
        embedding = self.head(features)
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = F.normalize(self.standardise(embedding.float()), dim=1)
            scores = F.linear(embedding, self.prototypes.weight[: self.used_prototypes])
        return embedding.unflatten(0, (-1, images)), scores.unflatten(0, (-1, images))


@torch.no_grad()
def normalise_prototypes(prototypes: nn.Linear) -> None:
    """Scale every prototype, a row of the weight (K, D), to length 1; call after each step that moved them."""
    F.normalize(prototypes.weight, dim=1, out=prototypes.weight)


def freeze_prototypes(prototypes: nn.Linear) -> None:
    """Keep the prototypes where they are in the coming optimiser step; call between backward and step.

    The gradient is dropped rather than `requires_grad` switched off, because DistributedDataParallel decides
    at construction which parameters to reduce and waits forever for one that falls silent later. Without a
    gradient optimisers also leave out weight decay and momentum.
    """
    prototypes.weight.grad = None


def swapped_prediction_loss(scores: Tensor, codes: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Predict the code of one view from every other view of the same image.

        L = mean over a of mean over v != a of mean over b of  - sum_k codes[a,b,k] log softmax(scores[v,b] /
        tau)_k

    (SwAV eq. 2, with multi-crop: only the first A views have codes, all V views predict them.)

    Args:
        scores: (V, B, K) scores of all views; the first A are those the codes were made from.
        codes: (A, B, K) target distributions, rows summing to 1, treated as constants.
        temperature: tau, > 0.

    Returns:
        The scalar loss.

    Raises:
        ValueError: If there are not 1 <= A <= V views with V >= 2, or the other dimensions differ.

    Examples:
        >>> import torch
        >>> from cxr_ssl import swapped_prediction_loss
        >>> scores, codes = torch.randn(4, 8, 10), torch.full((2, 8, 10), 0.1)
        >>> bool(swapped_prediction_loss(scores, codes) >= torch.tensor(10.0).log())  # that of even answers is ln 10
        True
    """
    coded, views = len(codes), len(scores)
    if not 1 <= coded <= views or views < 2 or scores.shape[1:] != codes.shape[1:]:
        raise ValueError(
            f"Expected scores (V, B, K) and codes (A, B, K) with 1 <= A <= V and V >= 2, "
            f"got {tuple(scores.shape)} and {tuple(codes.shape)}."
        )
    log_p = F.log_softmax(scores / temperature, dim=-1)
    rows = [-(code * log_p).sum(-1).mean(-1) for code in codes.detach()]
    cross_entropy = torch.stack(rows)  # (A, V): code of view a predicted from view v
    own = torch.eye(coded, views, dtype=torch.bool, device=scores.device)
    return cross_entropy.masked_fill(own, 0.0).sum() / (coded * (views - 1))
