"""Options of the command ``evaluate``."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput, require, require_folder_name, require_known
from cxr_eval.explain.methods import METHODS

SPLITS = ("train", "val", "test", "all")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare classifiers on one cohort: metrics with intervals, calibration, size, speed, differences, one report.

    MODELS are model.safetensors files or their folders, the reference first; without any, all models of the run, the
    teacher first.

    Attributes:
        models: model.safetensors files, the folders they lie in, or folders of such folders, each taken with all its
            models, the teacher first; the first is the reference of all differences. None given: the run's folder.
        data: Cohort: a prepared or raw folder, or a phantom name; several are read as one. Default: the cohort the
            first model was trained on.
        split: Part of the cohort: test, val or train; all takes every image, for a cohort that no model was
            trained on.
        run: Name of the run whose models are evaluated and which keeps the report.
        runs_dir: Folder of all runs.
        name: Folder of the report within the run.
        batch_size: Images of a forward.
        precision: Arithmetic of the predictions: fp32, bf16, or auto (bf16 where the device computes in
            it).
        speed: Whether to time the models and measure the memory they take.
        threads: CPU threads of the timing; 0 takes every core. One is the steadiest.
        resamples: Bootstrap resamples for figures whose interval needs them, such as sensitivity at a given
            specificity; 0 gives no interval of any figure.
        seed: Seed of the bootstrap.
        margin: Loss of AUROC to the teacher (else to the first model) that counts as non-inferior.
        subgroups: Columns of the cohort to report by, such as sex age projection; by default these three, where the
            cohort has them.
        corruptions: Whether to evaluate copies too that are blurred, noisy, darker, rotated and the like: how much
            AUROC each model loses.
        explain: Show where the models look, by gradcam, gradcam++, layercam, eigencam or scorecam; none when empty.
    """

    models: list[str] = field(default_factory=list)
    data: list[str] | str = ""
    split: str = "test"
    run: str = "quickstart"
    runs_dir: str = "runs"
    name: str = "report"
    batch_size: int = 64
    precision: str = "fp32"
    speed: bool = True
    threads: int = 1
    resamples: int = 2000
    seed: int = 0
    margin: float = 0.02
    subgroups: list[str] = field(default_factory=list)
    corruptions: bool = False
    explain: str = ""

    def __post_init__(self) -> None:
        require_known("split", self.split, SPLITS)
        require_known("precision", self.precision, PRECISIONS)
        for option in ("run", "name"):
            require_folder_name(getattr(self, option), f"--{option}")
        for option, least in (("batch_size", 1), ("threads", 0), ("resamples", 0), ("seed", 0)):
            value = getattr(self, option)
            require(value >= least, f"a number from {least} up", value, f"--{option}")
        if self.explain:
            require_known("explanation method", self.explain, METHODS)
        if not 0 < self.margin < 0.5:
            raise BadInput("a loss of AUROC between 0 and 0.5", str(self.margin), where="--margin", do="--margin 0.02")
