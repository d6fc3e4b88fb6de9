"""Options of ``reproduce gpu-check``; imports nothing heavy."""

from dataclasses import dataclass

from cxr_data.errors import require, require_folder_name, require_known


@dataclass(frozen=True)
class Scale:
    """Sizes of a check.

    Attributes:
        teacher: Architecture of the backbone that is pretrained, and of the teacher.
        student: Architecture of the student.
        size: Edge of the images of the timed trainings, pixels.
        local_size: Edge of SwAV's local crops.
        ssl_batch: Images of a timed step of SwAV.
        batch: Images of a timed step of the others.
        ssl_epochs: Epochs of the timed SwAV.
        epochs: Epochs of the others.
        network: Architecture of the checks of correctness.
        checked_size: Edge of the images there.
        resumed_epochs: Epochs of the run that is stopped and resumed.
        seconds: Time for each loop that ours are compared with.
        phantoms: Synthetic radiographs where no pixels are given.
    """

    teacher: str
    student: str
    size: int
    local_size: int
    ssl_batch: int
    batch: int
    ssl_epochs: int
    epochs: int
    network: str
    checked_size: int
    resumed_epochs: int
    seconds: float
    phantoms: int


SCALES = {
    "gpu": Scale("resnet50", "resnet18", 224, 96, 128, 256, 4, 10, "resnet18", 64, 15, 8.0, 2000),
    "tiny": Scale("test_resnet", "test_resnet", 32, 24, 4, 4, 1, 1, "test_resnet", 32, 12, 0.2, 60),
}


@dataclass(frozen=True)
class GpuCheckConfig:
    """Check correctness and speed on a GPU lent for minutes, then run a recipe; resumes where it was cut.

    Attributes:
        minutes: Time for everything; a part that does not fit in any more is left out and said so.
        pixels: Archive (.tar) of folders of radiographs, see docs/scale.md; phantoms when empty.
        large: Folder in the archive for speed and recipe.
        small: Folder in the archive for correctness.
        scale: "gpu", or "tiny" for a look at it on a CPU.
        recipe: Recipe for the rest of the time; none when empty.
        run: Folder of all results within RUNS_DIR.
        runs_dir: Folder of all experiments.
    """

    minutes: float = 12.0
    pixels: str = ""
    large: str = "kermany_pneumonia"
    small: str = "nih_1000_64"
    scale: str = "gpu"
    recipe: str = "kermany"
    run: str = "gpu-check"
    runs_dir: str = "runs"

    def __post_init__(self) -> None:
        require_known("scale", self.scale, SCALES)
        require(self.minutes > 0, "a time above 0 minutes", self.minutes, "--minutes")
        for option in ("run", "large", "small"):
            require_folder_name(getattr(self, option), f"--{option}")
