"""The commands ``export-model``, ``predict``, ``benchmark-model``, ``push`` and ``cxr demo``."""

from collections.abc import Sequence

from cxr_data.command_line.command import run_command
from cxr_deploy.config import BenchmarkConfig, DemoConfig, ExportConfig, PredictConfig, PushConfig


def export_model(argv: Sequence[str] | None = None) -> int:
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


def predict(argv: Sequence[str] | None = None) -> int:
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


def benchmark_model(argv: Sequence[str] | None = None) -> int:
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


def push(argv: Sequence[str] | None = None) -> int:
    """Run ``push``; returns the exit code."""
    return run_command(
        _push,
        PushConfig,
        prog="push",
        description=(
            "Write a model as a folder laid out like a repository of the Hugging Face Hub, with its ONNX files, its "
            "figures and a model card that says all licences it comes from, and upload it with --repo OWNER/NAME."
        ),
        argv=argv,
        positional="models",
    )


def _push(config: PushConfig) -> None:
    from cxr_deploy.push import push as write

    write(config)


def demo(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr demo``; returns the exit code."""
    return run_command(
        _demo,
        DemoConfig,
        prog="cxr demo",
        description=(
            "Open a page on this computer that answers for chest radiographs with the small model that ships with the "
            "package: probabilities, decisions, heat maps. Nothing is downloaded, sent or kept. For research only."
        ),
        argv=argv,
    )


def _export(config: ExportConfig) -> None:
    from cxr_deploy.export.export import export

    export(config)


def _predict(config: PredictConfig) -> None:
    from cxr_deploy.predict.predict import predict

    predict(config)


def _benchmark(config: BenchmarkConfig) -> None:
    from cxr_deploy.benchmark.benchmark import benchmark

    benchmark(config)


def _demo(config: DemoConfig) -> None:
    from cxr_deploy.demo.server import serve

    serve(config)
