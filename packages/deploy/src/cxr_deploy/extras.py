"""The optional extras of this package, and the error where one is not installed."""

import importlib.util

from cxr_data.errors import BadInput

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
    if installed(extra):
        return
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    raise BadInput(
        f"the extra {extra!r} of cxr-deploy, which {purpose} needs",
        f"no {', '.join(missing)}",
        do=f"pip install 'cxr-deploy[{extra}]'",
    )
