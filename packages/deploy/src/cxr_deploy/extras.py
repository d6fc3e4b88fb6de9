"""The optional extras of this package, and the error where one is not installed."""

import importlib.util

from cxr_data.errors import require_modules

EXTRAS = {
    "export": ("torch", "onnx", "cxr_common"),
    "hub": ("huggingface_hub",),
    "openvino": ("openvino",),
}
"""Extra -> the modules it brings."""


def installed(extra: str) -> bool:
    """Whether everything that an extra brings is there; nothing of it is imported."""
    return all(importlib.util.find_spec(module) is not None for module in EXTRAS[extra])


def require(extra: str, purpose: str) -> None:
    """See that an extra is installed.

    Args:
        extra: A key of :data:`EXTRAS`.
        purpose: What needs it, as the subject of a sentence.

    Raises:
        BadInput: It is not; the message names it.
    """
    require_modules(EXTRAS[extra], f"cxr-deploy[{extra}]", purpose)
