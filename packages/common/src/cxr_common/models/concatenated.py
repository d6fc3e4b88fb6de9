"""Several networks that look at one image, with one linear layer on all their features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cxr_common.models.structure import classifier_name, feature_levels, input_channels, side_by_side
from cxr_data.errors import BadInput


class Concatenated(nn.Module):
    """Pooled features of several networks, concatenated, and one linear classifier on top.

    The teacher of Babaahmadi et al. 2023 (arXiv 2301.02735), "resnetv2_50+vgg19_bn" in the zoo.

    Args:
        parts: Networks without outputs (pooled features), all of one input shape. They read the same channels of the
            input or, where it has as many for each of them, their own.
        num_outputs: Logits; 0 for the concatenated features.
    """

    def __init__(self, parts: Sequence[nn.Module], num_outputs: int):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.num_classes = num_outputs
        self.num_features = self.head_hidden_size = sum(part.num_features for part in self._parts)
        self.classifier = nn.Identity()
        self.reset_classifier(num_outputs)
        levels = [feature_levels(part) for part in self._parts]
        # Levels count from the deepest, so the parts share as many as the shallowest of them has.
        self._levels = [list(level.values())[-min(map(len, levels)) :] for level in levels]
        self.feature_info = [self._level(position) for position in range(len(self._levels[0]))]

    @property
    def _parts(self) -> list[Any]:
        return list(self.parts)

    def _images(self, x: Tensor) -> Sequence[Tensor]:
        """What each part reads: the same channels, or those of its own that its normalisation was applied to."""
        parts = len(self.parts)
        shared = x.shape[1] == input_channels(self.parts[0])
        return [x] * parts if shared else x.chunk(parts, dim=1)

    def _level(self, position: int) -> dict[str, Any]:
        infos = [part.feature_info[levels[position]] for part, levels in zip(self._parts, self._levels, strict=True)]
        return {
            "num_chs": sum(info["num_chs"] for info in infos),
            "reduction": infos[0]["reduction"],
            "module": f"parts.0.{infos[0]['module']}",
        }

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to logits (B, num_outputs), or to features (B, num_features) without any."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """(B, channels, H, W) to each part's own features before pooling."""
        return [part.forward_features(own) for part, own in zip(self._parts, self._images(x), strict=True)]

    def forward_head(self, x: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """The parts' features to logits (B, num_outputs), or to the concatenated ones (B, num_features)."""
        pooled = [part.forward_head(maps, pre_logits=True) for part, maps in zip(self._parts, x, strict=True)]
        joined = torch.cat(pooled, dim=1)
        return joined if pre_logits else self.classifier(joined)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """The parts' features before pooling, and their maps at ``indices`` of ``feature_info``, in one pass.

        Maps are concatenated along the channels, averaged to the resolution of the first part.
        """
        finals, maps = [], []
        for part, levels, own in zip(self._parts, self._levels, self._images(x), strict=True):
            final, own_maps = part.forward_intermediates(own, indices=[levels[index] for index in sorted(indices)])
            finals.append(final)
            maps.append(own_maps)
        return finals, [side_by_side(level) for level in zip(*maps, strict=True)]

    def load_part(self, part: int, state: Mapping[str, Tensor]) -> None:
        """Start one part from the state dict of that network alone; its classifier, if any, is left out.

        Args:
            part: Position in the architecture's name: 0 is "a" of "a+b".
            state: State dict of ``build(a, any number of outputs)`` with the same channels and size.

        Raises:
            BadInput: There is no such part, or the weights are of another network.
        """
        if not 0 <= part < len(self.parts):
            raise BadInput(f"a part from 0 to {len(self.parts) - 1}", str(part), where="concatenated network")
        network = self.parts[part]
        head = classifier_name(network) + "."
        try:
            network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith(head)})
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise BadInput(f"the weights of part {part} ({type(network).__name__})", reason) from error

    def get_classifier(self) -> nn.Module:
        """The linear layer on the concatenated features (an identity where there are no outputs)."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on top.

        Args:
            num_classes: Outputs; 0 for none.
            global_pool: Must be None: each part pools in its own way.
        """
        if global_pool is not None:
            raise ValueError(f"each part pools in its own way, not by {global_pool!r}")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
