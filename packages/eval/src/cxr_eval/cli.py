"""The command ``evaluate``."""

from collections.abc import Sequence

from cxr_data.command_line.command import run_command
from cxr_eval.config import EvaluateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``evaluate``; returns the exit code."""
    return run_command(
        _evaluate,
        EvaluateConfig,
        prog="evaluate",
        description=(
            "Compare classifiers on one cohort: metrics with intervals, calibration, size, speed, paired differences, "
            "and one HTML report. MODELS are model.safetensors files or their folders, the reference first; without "
            "any, all models of the run, the teacher first."
        ),
        argv=argv,
        positional="models",
    )


def _evaluate(config: EvaluateConfig) -> None:
    from cxr_eval.command import run

    run(config)


if __name__ == "__main__":
    raise SystemExit(main())
