"""What ``export-model`` can be told."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput


@dataclass(frozen=True)
class ExportConfig:
    """Write a classifier as ONNX, in float32 and in 8 bits, and as a page that runs in a browser.

    Attributes:
        models: model.safetensors files or the folders they lie in. None given: every model of the run.
        out: Folder for model.onnx, model.int8.onnx and export.json. Default: "export" beside each model.
        data: Cohort for the check, the calibration of 8 bits and the choice among variants: a prepared or raw
            folder, or a phantom name. Default: the cohort the model was trained on.
        run: Name of the run whose models are exported when none is named.
        runs_dir: Folder of all runs.
        int8: Whether to make an 8-bit file too.
        calibration_images: Training images that show the ranges of 8-bit values.
        validation_images: Validation images, at most, on which 8-bit variants are compared.
        max_drop: Largest loss of validation AUROC that an 8-bit file may show.
        threads: CPU threads while variants are timed; one is the steadiest.
        web: Folder for a page that classifies in the browser; none when empty.
        ort_web: onnxruntime-web for the page: its npm archive (.tgz) or an unpacked folder. Default: fetched once
            with npm, in the version the page was tested with.
    """

    models: list[str] = field(default_factory=list)
    out: str = ""
    data: list[str] | str = ""
    run: str = "quickstart"
    runs_dir: str = "runs"
    int8: bool = True
    calibration_images: int = 256
    validation_images: int = 2000
    max_drop: float = 0.005
    threads: int = 1
    web: str = ""
    ort_web: str = ""

    def __post_init__(self) -> None:
        for option, least in (("calibration_images", 1), ("validation_images", 2), ("threads", 0)):
            if getattr(self, option) < least:
                raise BadInput(f"a number from {least} up", str(getattr(self, option)), where=f"--{option}")
        if len(self.models) > 1 and (self.out or self.web):
            option = "--out" if self.out else "--web"
            raise BadInput(f"one model where {option} is given", f"{len(self.models)} models", where=option)
        if not 0 <= self.max_drop < 0.5:
            raise BadInput("a loss of AUROC in [0, 0.5)", str(self.max_drop), where="--max_drop")
