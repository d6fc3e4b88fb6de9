"""What the command ``ssl-pretrain`` can be told; no torch in here."""

from dataclasses import dataclass

from cxr_common.errors import BadInput, unknown_name

OPTIMIZERS = ("adamw", "lars", "sgd")
ON_COLLAPSE = ("stop", "warn")


def _require(holds: bool, expected: str, found: object, where: str) -> None:
    if not holds:
        raise BadInput(expected, str(found), where=where)


@dataclass(frozen=True)
class Crops:
    """The views of an image: global ones, which get codes, and small local ones, which only predict them.

    Attributes:
        global_count: Global views, at least 2.
        local_count: Local views.
        local_size: Edge of a local view, pixels; 0 is half the size of a global one, at least 24.
        global_scale: Smallest and largest share of the image's area in a global view.
        local_scale: The same for a local view.
    """

    global_count: int = 2
    local_count: int = 6
    local_size: int = 0
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)

    def __post_init__(self) -> None:
        _require(self.global_count >= 2, "two or more global views", self.global_count, "--crops.global_count")
        _require(self.local_count >= 0, "0 or more local views", self.local_count, "--crops.local_count")
        _require(
            self.local_size == 0 or self.local_size >= 8,
            "0 (half the size) or at least 8 pixels",
            self.local_size,
            "--crops.local_size",
        )
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            _require(0 < low <= high <= 1, "0 < low <= high <= 1", [low, high], f"--crops.{name}")


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a backbone on radiographs without labels (SwAV, Caron et al. 2020).

    Attributes:
        data: "phantom", a folder of images, or a cohort prepared by cxr-data; only training images are used.
        run: Name of the experiment; its stages lie in RUNS_DIR/RUN.
        runs_dir: Folder of all experiments.
        name: Folder of this stage within the run.
        architecture: Name of the backbone: any of timm's, eeea_net_c2, or A+B.
        start: Weights to begin with: "random", or a safetensors or .pth file (ImageNet weights are the best
            start).
        size: Edge of the network input and of a global view, pixels.
        crops: The views of an image.
        epochs: Passes over the training images; 0 chooses (see cxr_ssl.rules, for this and all other
            choices).
        batch_size: Images of a step over all processes.
        prototypes: K, number of prototypes; 0 chooses by the number of images.
        embedding: D, width of the embedding; 0 chooses by the number of images.
        queue: Earlier batches that Sinkhorn balances together with the present one; 0 none, null chooses.
        freeze: Epochs at the start in which the prototypes stay fixed; null chooses.
        temperature: tau of the softmax over prototypes.
        epsilon: Smoothness of the codes: smaller is sharper.
        optimizer: "adamw", "lars" or "sgd".
        lr: Peak learning rate; 0 chooses by optimizer and batch size.
        weight_decay: On matrices and kernels only.
        seed: Seed of weights, order and views.
        precision: "auto" (bf16 where the device has it), "fp32", "bf16" or "fp16".
        workers: Threads that prepare views; 0 chooses by the cores.
        on_collapse: What to do when all images come to look the same to the network: "stop" or "warn".
        restart: Set an earlier run in the same folder aside and start anew.
    """

    data: str = "phantom"
    run: str = "quickstart"
    runs_dir: str = "runs"
    name: str = "ssl"
    architecture: str = "resnet50"
    start: str = "random"
    size: int = 64
    crops: Crops = Crops()
    epochs: int = 0
    batch_size: int = 32
    prototypes: int = 0
    embedding: int = 0
    queue: int | None = None
    freeze: float | None = None
    temperature: float = 0.1
    epsilon: float = 0.05
    optimizer: str = "adamw"
    lr: float = 0.0
    weight_decay: float = 1e-4
    seed: int = 0
    precision: str = "auto"
    workers: int = 0
    on_collapse: str = "stop"
    restart: bool = False

    def __post_init__(self) -> None:
        _require(self.size >= 16, "a size of at least 16 pixels", self.size, "--size")
        _require(self.batch_size >= 2, "a batch of at least 2 images", self.batch_size, "--batch_size")
        _require(self.epochs >= 0, "0 (automatic) or more epochs", self.epochs, "--epochs")
        _require(
            self.prototypes == 0 or self.prototypes >= 2,
            "0 (automatic) or at least 2 prototypes",
            self.prototypes,
            "--prototypes",
        )
        _require(self.embedding >= 0, "0 (automatic) or a width", self.embedding, "--embedding")
        _require(self.queue is None or self.queue >= 0, "0 or more batches", self.queue, "--queue")
        _require(self.freeze is None or self.freeze >= 0, "0 or more epochs", self.freeze, "--freeze")
        _require(self.temperature > 0, "a temperature above 0", self.temperature, "--temperature")
        _require(self.epsilon > 0, "an epsilon above 0", self.epsilon, "--epsilon")
        _require(self.lr >= 0, "a learning rate of 0 (automatic) or more", self.lr, "--lr")
        _require(self.weight_decay >= 0, "a weight decay of 0 or more", self.weight_decay, "--weight_decay")
        _require(self.workers >= 0, "0 (automatic) or more threads", self.workers, "--workers")
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.on_collapse not in ON_COLLAPSE:
            raise unknown_name("answer to a collapse", self.on_collapse, ON_COLLAPSE)
        for option in ("run", "name"):
            value = getattr(self, option)
            plain = value and not {"..", "."} & set(value.split("/")) and not value.startswith("/")
            _require(bool(plain), "a plain folder name", repr(value), f"--{option}")

    @property
    def local_size(self) -> int:
        """Edge of a local view, pixels."""
        return self.crops.local_size or max(self.size // 2, 24)
