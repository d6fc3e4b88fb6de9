"""The commands ``export-model``, ``predict``, ``benchmark-model``, ``push`` and ``cxr demo``."""

from collections.abc import Sequence

from cxr_data.command_line.command import run_command
from cxr_deploy.config import BenchmarkConfig, DemoConfig, ExportConfig, PredictConfig, PushConfig


def export_model(argv: Sequence[str] | None = None) -> int:
    """Run ``export-model``; returns the exit code."""
    return run_command(
        "cxr_deploy.export.export:export", ExportConfig, prog="export-model", argv=argv, positional="models"
    )


def predict(argv: Sequence[str] | None = None) -> int:
    """Run ``predict``; returns the exit code."""
    return run_command(
        "cxr_deploy.predict.predict:predict", PredictConfig, prog="predict", argv=argv, positional="paths"
    )


def benchmark_model(argv: Sequence[str] | None = None) -> int:
    """Run ``benchmark-model``; returns the exit code."""
    return run_command(
        "cxr_deploy.benchmark.benchmark:benchmark",
        BenchmarkConfig,
        prog="benchmark-model",
        argv=argv,
        positional="models",
    )


def push(argv: Sequence[str] | None = None) -> int:
    """Run ``push``; returns the exit code."""
    return run_command("cxr_deploy.push:push", PushConfig, prog="push", argv=argv, positional="models")


def demo(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr demo``; returns the exit code."""
    return run_command("cxr_deploy.demo.server:serve", DemoConfig, prog="cxr demo", argv=argv)
