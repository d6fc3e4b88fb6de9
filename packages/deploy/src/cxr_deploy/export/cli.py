"""The command ``export-model``."""

from collections.abc import Sequence

from cxr_data.command import run_command
from cxr_deploy.export.config import ExportConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``export-model``; returns the exit code."""
    return run_command(
        _export,
        ExportConfig,
        prog="export-model",
        description=(
            "Write a classifier as ONNX with its whole answer inside: gray pixels in; calibrated probabilities, logits "
            "and heat maps out. MODELS are model.safetensors files or their folders. The file is compared with PyTorch "
            "before it is kept; an 8-bit file is kept where validation AUROC holds; --web writes a page that "
            "classifies in the browser, without a server."
        ),
        argv=argv,
        positional="models",
    )


def _export(config: ExportConfig) -> None:
    from cxr_deploy.export.export import export

    export(config)


if __name__ == "__main__":
    raise SystemExit(main())
