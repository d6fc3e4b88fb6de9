"""What the command ``ssl-pretrain`` can be told; no torch in here."""

from dataclasses import dataclass, field, fields
from typing import Any

from cxr_data.errors import BadInput, unknown_name

OPTIMIZERS = ("adamw", "larc", "lars", "sgd")
ON_COLLAPSE = ("stop", "warn", "remedy")

PRESETS: dict[str, dict[str, Any]] = {
    # A look at the whole thing in minutes, without a GPU.
    "quickstart": {"architecture": "resnet18", "size": 64, "batch_size": 32, "epochs": 4},
    # The published recipe for a batch of 256 (Caron et al. 2020, 200 epochs), but for the colour distortion, which
    # means nothing in gray. Steps and epochs are the published numbers, whatever the size of the cohort.
    "paper-256": {
        "architecture": "resnet50",
        "size": 224,
        "crops.global_count": 2,
        "crops.local_count": 6,
        "crops.local_size": 96,
        "crops.global_scale": (0.14, 1.0),
        "crops.local_scale": (0.05, 0.14),
        "epochs": 200,
        "batch_size": 256,
        "prototypes": 3000,
        "embedding": 128,
        "standardise": False,
        "queue": 15,
        "schedule.queue_start": 15.0,
        "freeze": 5005,
        "temperature": 0.1,
        "epsilon": 0.05,
        "optimizer": "larc",
        "lr": 0.6,
        "schedule.warmup": 0.0,
        "weight_decay": 1e-6,
    },
    # For radiographs of your own on a GPU: full-size crops, softer than the paper's, since radiographs resemble one
    # another and softer crops are a published remedy against collapse; a run that collapses is mended by itself.
    "cxr": {
        "architecture": "resnet50",
        "size": 224,
        "crops.local_size": 96,
        "crops.global_scale": (0.25, 1.0),
        "crops.local_scale": (0.08, 0.25),
        "batch_size": 128,
        "epochs": 100,
        "on_collapse": "remedy",
    },
}
"""Name -> defaults that it changes; a dot leads into a nested config."""


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
class Schedule:
    """When things begin.

    Attributes:
        warmup: Epochs in which the learning rate rises to its peak; null is a tenth of the run.
        queue_start: Epochs after which the queue starts to fill, to be used once it is full; null is 15, as
            published, but at most half of the run.
    """

    warmup: float | None = None
    queue_start: float | None = None

    def __post_init__(self) -> None:
        _require(self.warmup is None or self.warmup >= 0, "0 or more epochs", self.warmup, "--schedule.warmup")
        _require(
            self.queue_start is None or self.queue_start >= 0,
            "0 or more epochs",
            self.queue_start,
            "--schedule.queue_start",
        )


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a backbone on radiographs without labels (SwAV, Caron et al. 2020).

    Attributes:
        preset: Other defaults for all that follows: "quickstart", "paper-256" (the published recipe for a batch
            of 256) or "cxr"; what is given besides it wins.
        data: "phantom", a folder of images, or a cohort prepared by cxr-data; only training images are used.
        run: Name of the experiment; its stages lie in RUNS_DIR/RUN.
        runs_dir: Folder of all experiments.
        name: Folder of this stage within the run.
        architecture: Name of the backbone: any of timm's, eeea_net_c2, or A+B.
        start: Weights to begin with: "random", "imagenet" (timm's, fetched once; the best start where there are few
            images), or a safetensors or .pth file (FILE#PART for one of several networks in it); for A+B also one of
            these for each, joined by +.
        start_mean: Mean of pixels / 255 that the weights of a foreign file were trained with, one number or three; none
            is what the file says, else the cohort's.
        start_std: Standard deviation likewise.
        size: Edge of the network input and of a global view, pixels.
        crops: The views of an image.
        epochs: Passes over the training images; 0 chooses (see cxr_ssl.plan, for this and all other
            choices).
        batch_size: Images of a step over all processes.
        accumulate: Parts in which a step takes its batch, one after the other, to need less memory. Batch
            statistics and codes see one part at a time: it does not enlarge what Sinkhorn balances (a queue
            does).
        checkpointing: Compute inner activations again in the backward pass instead of keeping them: much less
            memory, about a third more time, the same gradients.
        prototypes: K, number of prototypes; 0 chooses by the number of images.
        embedding: D, width of the embedding; 0 chooses by the number of images.
        standardise: Equalise the embedding's dimensions over the batch before its length is made 1 (not in the
            paper; keeps radiographs, which look alike, apart).
        queue: Earlier batches that Sinkhorn balances together with the present one; 0 none, null chooses.
        freeze: Steps at the start in which the prototypes stay fixed; null chooses.
        temperature: tau of the softmax over prototypes.
        epsilon: Smoothness of the codes: smaller is sharper.
        optimizer: "adamw", "lars", "larc" (LARS as published with SwAV: vectors are scaled and decayed too) or
            "sgd".
        lr: Peak learning rate of the global batch; 0 chooses by optimizer and batch size. After a warm-up it falls
            to a thousandth with the cosine.
        weight_decay: On matrices and kernels only (with larc on all).
        weight_decay_end: Weight decay at the last step, reached with the cosine; null keeps it as it is.
        schedule: When things begin.
        seed: Seed of weights, order and views.
        precision: "auto" (bf16 where the device has it), "fp32", "bf16" or "fp16".
        workers: Threads that prepare views; 0 chooses by the cores.
        on_collapse: What to do when all images come to look the same to the network: "stop", "warn", or "remedy",
            which goes back to the last healthy epoch and on with one published remedy after the other.
        restart: When the folder holds a run of another config or other inputs, set it aside and start anew.
    """

    preset: str = ""
    data: list[str] | str = "phantom"
    run: str = "quickstart"
    runs_dir: str = "runs"
    name: str = "ssl"
    architecture: str = "resnet50"
    start: str = "random"
    start_mean: list[float] = field(default_factory=list)
    start_std: list[float] = field(default_factory=list)
    size: int = 64
    crops: Crops = Crops()
    epochs: int = 0
    batch_size: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    prototypes: int = 0
    embedding: int = 0
    standardise: bool = True
    queue: int | None = None
    freeze: int | None = None
    temperature: float = 0.1
    epsilon: float = 0.05
    optimizer: str = "adamw"
    lr: float = 0.0
    weight_decay: float = 1e-4
    weight_decay_end: float | None = None
    schedule: Schedule = Schedule()
    seed: int = 0
    precision: str = "auto"
    workers: int = 0
    on_collapse: str = "stop"
    restart: bool = False

    def __post_init__(self) -> None:
        _require(self.size >= 16, "a size of at least 16 pixels", self.size, "--size")
        _require(self.batch_size >= 2, "a batch of at least 2 images", self.batch_size, "--batch_size")
        _require(self.accumulate >= 1, "1 or more parts", self.accumulate, "--accumulate")
        _require(
            self.batch_size >= 2 * self.accumulate,
            f"at least 2 images in each of {self.accumulate} parts",
            f"a batch of {self.batch_size}",
            "--accumulate",
        )
        _require(self.epochs >= 0, "0 (automatic) or more epochs", self.epochs, "--epochs")
        _require(
            self.prototypes == 0 or self.prototypes >= 2,
            "0 (automatic) or at least 2 prototypes",
            self.prototypes,
            "--prototypes",
        )
        _require(self.embedding >= 0, "0 (automatic) or a width", self.embedding, "--embedding")
        _require(self.queue is None or self.queue >= 0, "0 or more batches", self.queue, "--queue")
        _require(self.freeze is None or self.freeze >= 0, "0 or more steps", self.freeze, "--freeze")
        _require(self.temperature > 0, "a temperature above 0", self.temperature, "--temperature")
        _require(self.epsilon > 0, "an epsilon above 0", self.epsilon, "--epsilon")
        _require(self.lr >= 0, "a learning rate of 0 (automatic) or more", self.lr, "--lr")
        _require(self.weight_decay >= 0, "a weight decay of 0 or more", self.weight_decay, "--weight_decay")
        _require(
            self.weight_decay_end is None or self.weight_decay_end >= 0,
            "a weight decay of 0 or more",
            self.weight_decay_end,
            "--weight_decay_end",
        )
        _require(self.seed >= 0, "a seed of 0 or more", self.seed, "--seed")
        _require(self.workers >= 0, "0 (automatic) or more threads", self.workers, "--workers")
        if self.preset and self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS)
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


def preset(name: str, **changes: Any) -> PretrainConfig:
    """The config of a preset, as ``--preset NAME`` makes it on the command line.

    Args:
        name: A name in PRESETS.
        **changes: Fields that win over the preset's; a whole nested config replaces the preset's.

    Raises:
        BadInput: No such preset, or values that do not belong together.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    kinds = {"crops": Crops, "schedule": Schedule}
    values: dict[str, Any] = {"preset": name}
    nested: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for key, value in PRESETS[name].items():
        outer, _, inner = key.partition(".")
        (nested[outer] if inner else values)[inner or outer] = value
    values |= {outer: kinds[outer](**inner) for outer, inner in nested.items()}
    known = {one.name for one in fields(PretrainConfig)}
    for name in changes.keys() - known:
        raise unknown_name("option", name, known)
    return PretrainConfig(**(values | changes))
