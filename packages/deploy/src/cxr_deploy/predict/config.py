"""What ``predict`` can be told."""

from dataclasses import dataclass, field

from cxr_data.errors import BadInput, unknown_name

RUNTIMES = ("auto", "torch", "onnxruntime", "openvino")
FORMATS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class PredictConfig:
    """Classify new images.

    Attributes:
        paths: The model (a .safetensors or .onnx file, or its folder), then any number of image files (JPEG, PNG,
            TIFF, BMP, DICOM) and folders of them.
        out: Table of the answers: .csv, .jsonl (JSON lines) or .parquet. Default: the terminal only.
        heatmaps: Folder for pictures of where the evidence lies, one an image and called label.
        runtime: torch, onnxruntime, openvino, or auto (what the file is for).
        threads: CPU threads of the network; 0 takes every core.
        batch_size: Images of a forward.
    """

    paths: list[str] = field(default_factory=list)
    out: str = ""
    heatmaps: str = ""
    runtime: str = "auto"
    threads: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise unknown_name("runtime", self.runtime, RUNTIMES)
        if self.out and not self.out.endswith(FORMATS):
            raise BadInput(f"a file ending in {', '.join(FORMATS)}", self.out, where="--out")
        for option, least in (("batch_size", 1), ("threads", 0)):
            if getattr(self, option) < least:
                raise BadInput(f"a number from {least} up", str(getattr(self, option)), where=f"--{option}")
