"""The command ``benchmark-model``."""

from collections.abc import Sequence

from cxr_data.command import run_command
from cxr_deploy.benchmark.config import BenchmarkConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``benchmark-model``; returns the exit code."""
    return run_command(
        _benchmark,
        BenchmarkConfig,
        prog="benchmark-model",
        description=(
            "Latency, throughput, peak memory and size of classifiers in PyTorch, ONNX Runtime and OpenVINO, in every "
            "precision there is, timed in alternation; a table, JSON, and a plot of AUROC against latency."
        ),
        argv=argv,
        positional="models",
    )


def _benchmark(config: BenchmarkConfig) -> None:
    from cxr_deploy.benchmark.benchmark import benchmark

    benchmark(config)


if __name__ == "__main__":
    raise SystemExit(main())
