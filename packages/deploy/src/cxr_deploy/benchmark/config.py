"""What ``benchmark-model`` can be told."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput, unknown_name

SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time classifiers in every runtime and precision, side by side in one process.

    Attributes:
        models: model.safetensors files, .onnx files of export-model, or folders of either. None given: every model of
            the run.
        data: Cohort to measure AUROC on, for each runtime and precision. Default: the validation figures that the
            files carry.
        split: Part of that cohort: test, val, train or all.
        run: Name of the run whose models are timed when none is named, and which keeps the result.
        runs_dir: Folder of all runs.
        out: Folder for benchmark.json and benchmark.svg. Default: "benchmark" within the run.
        threads: CPU threads of every runtime; 0 takes every core. One is the steadiest.
        seconds: Time for each row of the table, about; half of it for the latency of one image.
        memory: Whether to measure peak memory, each row in a process of its own.
    """

    models: list[str] = field(default_factory=list)
    data: list[str] | str = ""
    split: str = "test"
    run: str = "quickstart"
    runs_dir: str = "runs"
    out: str = ""
    threads: int = 1
    seconds: float = 4.0
    memory: bool = True

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise unknown_name("split", self.split, SPLITS)
        if self.threads < 0:
            raise BadInput("a number from 0 up", str(self.threads), where="--threads")
        if not self.seconds > 0:
            raise BadInput("a time above 0 s", str(self.seconds), where="--seconds")
