"""The command ``predict``."""

from collections.abc import Sequence

from cxr_data.command import run_command
from cxr_deploy.predict.config import PredictConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``predict``; returns the exit code."""
    return run_command(
        _predict,
        PredictConfig,
        prog="predict",
        description=(
            "Classify new radiographs: PATHS are the model, then images, DICOM files or folders. Gives probabilities, "
            "decisions at the stored thresholds, heat maps, and a warning for images unlike radiographs. For research "
            "only, not for diagnosis."
        ),
        argv=argv,
        positional="paths",
    )


def _predict(config: PredictConfig) -> None:
    from cxr_deploy.predict.predict import predict

    predict(config)


if __name__ == "__main__":
    raise SystemExit(main())
