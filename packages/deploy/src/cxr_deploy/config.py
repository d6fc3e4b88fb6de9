"""Options of the commands of ``cxr_deploy``."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput, require, require_known, unknown_name
from cxr_data.models.licences import refuse_empty
from cxr_deploy.runtimes import check_name

DEVICES = ("cpu", "cuda")
FORMATS = (".csv", ".jsonl", ".parquet")
SPLITS = ("train", "val", "test", "all")


@dataclass(frozen=True)
class ExportConfig:
    """Write a classifier as ONNX with its whole answer inside.

    Gray pixels in; calibrated probabilities, logits and heat maps out. MODELS are model.safetensors files or their
    folders. The file is compared with PyTorch before it is kept; an 8-bit file is kept where validation AUROC holds;
    --web writes a page that classifies in the browser, without a server.

    Attributes:
        models: model.safetensors files or the folders they lie in. None given: every model of the run.
        out: Folder for model.onnx, model.int8.onnx and export.json of one model. Default: "export" beside each model.
        data: Cohort for the check, the calibration of 8 bits and the choice among variants: a prepared or raw
            folder, or a phantom name. Default: the cohort the model was trained on.
        run: Name of the run whose models are exported when none is named.
        runs_dir: Folder of all runs.
        int8: Whether to make an 8-bit file too.
        calibration_images: Training images that show the ranges of 8-bit values.
        validation_images: Validation images, at most, on which 8-bit variants are compared.
        max_drop: Largest loss of validation AUROC that an 8-bit file may show. Default: 0.005, and 0.002 for a network
            that was trained in 8 bits.
        min_agreement: Least share of decisions that a network trained in 8 bits shares with its float model.
        float_model: The model.safetensors that a network trained in 8 bits was trained on from. Default: the one in
            its run.
        threads: CPU threads while variants are timed; one is the steadiest.
        web: Folder for a page that classifies in the browser, with one model; none when empty.
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
    max_drop: float | None = None
    min_agreement: float = 0.99
    float_model: str = ""
    threads: int = 1
    web: str = ""
    ort_web: str = ""

    def __post_init__(self) -> None:
        for option, least in (("calibration_images", 1), ("validation_images", 2), ("threads", 0)):
            if getattr(self, option) < least:
                raise BadInput(f"a number from {least} up", str(getattr(self, option)), where=f"--{option}")
        require(0 <= self.min_agreement <= 1, "a share in [0, 1]", self.min_agreement, "--min_agreement")
        if self.max_drop is not None and not 0 <= self.max_drop < 0.5:
            raise BadInput("a loss of AUROC in [0, 0.5)", str(self.max_drop), where="--max_drop")


@dataclass(frozen=True)
class PredictConfig:
    """Classify new radiographs: PATHS are the model, then images, DICOM files or folders.

    Gives probabilities, decisions at the stored thresholds, heat maps, and a warning for images unlike radiographs. For
    research only, not for diagnosis.

    Attributes:
        paths: The model (a .safetensors or .onnx file, or its folder), then any number of image files (JPEG, PNG,
            TIFF, BMP, DICOM) and folders of them.
        demo: Whether to answer with the small model that ships with the package, instead of one in PATHS.
        out: Table of the answers: .csv, .jsonl (JSON lines) or .parquet. Default: the terminal only, up to 20 images.
        heatmaps: Folder for pictures of where the evidence lies, one per image and called label.
        heatmaps_of: "called", or "all" for labels that are not called too.
        runtime: torch, onnxruntime, openvino, or for .onnx files fastest (measured here once for each file, then
            remembered) or auto (the fastest once it is known, which many images make worth measuring; else
            onnxruntime).
        device: "cpu" or "cuda"; null is cuda where there is a GPU that the runtime can use, but for 8-bit files, which
            are made for CPUs.
        threads: CPU threads of the network; 0 takes every core.
        batch_size: Images per forward pass.
    """

    paths: list[str] = field(default_factory=list)
    demo: bool = False
    out: str = ""
    heatmaps: str = ""
    heatmaps_of: str = "called"
    runtime: str = "auto"
    device: str | None = None
    threads: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_name(self.runtime)
        if self.device is not None and self.device not in DEVICES:
            raise unknown_name("device", self.device, DEVICES)
        require_known("choice of heat maps", self.heatmaps_of, ("called", "all"))
        if self.out and not self.out.endswith(FORMATS):
            raise BadInput(f"a file ending in {', '.join(FORMATS)}", self.out, where="--out")
        for option, least in (("batch_size", 1), ("threads", 0)):
            if getattr(self, option) < least:
                raise BadInput(f"a number from {least} up", str(getattr(self, option)), where=f"--{option}")


@dataclass(frozen=True)
class PushConfig:
    """Write a model as a folder laid out like a repository of the Hugging Face Hub.

    With its ONNX files, its figures and a model card that says all licences it comes from; --repo OWNER/NAME uploads
    it.

    Attributes:
        models: The model.safetensors (or backbone.safetensors), or its folder.
        repo: Repository on the Hub, OWNER/NAME; only the folder is written when empty.
        out: The folder. Default: "hub" beside the model.
        private: Whether a repository that is made is private.
        licence: Licence that the card says, such as CC-BY-4.0; null is what the file says.
    """

    models: list[str] = field(default_factory=list)
    repo: str = ""
    out: str = ""
    private: bool = True
    licence: str | None = None

    def __post_init__(self) -> None:
        refuse_empty(self.licence)
        if self.repo and self.repo.count("/") != 1:
            raise BadInput("a repository OWNER/NAME", self.repo, where="--repo")


@dataclass(frozen=True)
class DemoConfig:
    """Open a page on this computer that answers for chest radiographs with the model that ships with the package.

    Probabilities, decisions, heat maps. Nothing is downloaded, sent or kept. For research only.

    Attributes:
        model: Model file or its folder; the small model that ships with the package when empty.
        port: TCP port on 127.0.0.1; null takes a free one.
        browser: Whether to open the page in the browser.
    """

    model: str = ""
    port: int | None = None
    browser: bool = True

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise BadInput("a port from 1 to 65535", str(self.port), where="--port", do="leave it out")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Latency, throughput, peak memory and size of classifiers in PyTorch, ONNX Runtime and OpenVINO.

    In every precision there is, timed in alternation in one process; a table, JSON, and a plot of AUROC against
    latency.

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
        require_known("split", self.split, SPLITS)
        if self.threads < 0:
            raise BadInput("a number from 0 up", str(self.threads), where="--threads")
        require(self.seconds > 0, "a time above 0 s", self.seconds, "--seconds")
