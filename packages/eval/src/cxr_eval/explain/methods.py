"""Every explanation method: its title, its function, and how many images its scores take.

Imports no torch, so that ``evaluate --help`` answers at once: a function is named by its module until it is called.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork

    Maps = Callable[[GrayNetwork, Tensor, Tensor | int, str], Tensor]


@dataclass(frozen=True)
class Method:
    """An explanation method.

    Attributes:
        title: Its name in reports.
        function: Network, (B, 1, S, S) uint8, index of a logit and level -> (B, S, S) float32 in [0, 1]; or
            "module:name" of such a function.
        located: Images of a label whose maps are compared with the lesion.
        tested: Images of a label that the deletion and insertion curves and the sanity check take.
    """

    title: str
    function: "Maps | str"
    located: int = 200
    tested: int = 16

    def __call__(self, network: "GrayNetwork", pixels: "Tensor", label: "Tensor | int", level: str) -> "Tensor":
        """Maps of one label; see ``function``."""
        if isinstance(self.function, str):
            module, _, name = self.function.partition(":")
            return getattr(importlib.import_module(module), name)(network, pixels, label, level)
        return self.function(network, pixels, label, level)


_CAMS = "cxr_eval.explain.cams"

METHODS: dict[str, Method] = {
    "gradcam": Method("Grad-CAM", f"{_CAMS}:grad_cam"),
    "gradcam++": Method("Grad-CAM++", f"{_CAMS}:grad_cam_plus_plus"),
    "layercam": Method("LayerCAM", f"{_CAMS}:layer_cam"),
    "eigencam": Method("Eigen-CAM", f"{_CAMS}:eigen_cam"),
    "scorecam": Method("Score-CAM", f"{_CAMS}:score_cam", located=16, tested=4),  # a forward for each channel
}
"""Every explanation method by its name in options, ``METHODS["mine"] = Method("Mine", my_function)`` adds one."""
