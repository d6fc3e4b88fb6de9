"""Options of the command ``ssl-pretrain``; imports no torch."""

from dataclasses import dataclass, field, fields
from typing import Any

from cxr_common.training.options import Conduct
from cxr_data.errors import require, require_folder_name, require_known, require_options, unknown_name
from cxr_ssl.method import MethodConfig
from cxr_ssl.methods.byol import BYOLConfig
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.methods.swav import SwAVConfig

OPTIMIZERS = ("adamw", "larc", "lars", "sgd")
ON_COLLAPSE = ("stop", "warn", "recover")

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
        "swav.prototypes": 3000,
        "swav.embedding": 128,
        "swav.standardise": False,
        "swav.queue": 15,
        "swav.queue_start": 15.0,
        "swav.freeze": 5005,
        "swav.temperature": 0.1,
        "swav.epsilon": 0.05,
        "optimizer": "larc",
        "lr": 0.6,
        "warmup": 0.0,
        "weight_decay": 1e-6,
    },
    # For radiographs of your own on a GPU: full-size crops, softer than the paper's, since radiographs resemble one
    # another and softer crops are published advice against collapse; a run that collapses recovers by itself.
    "cxr": {
        "architecture": "resnet50",
        "size": 224,
        "crops.local_size": 96,
        "crops.global_scale": (0.25, 1.0),
        "crops.local_scale": (0.08, 0.25),
        "batch_size": 128,
        "epochs": 100,
        "on_collapse": "recover",
    },
}
"""Name -> defaults that it changes; a dot leads into a nested config."""


@dataclass(frozen=True)
class Crops:
    """The augmented crops of an image: global ones, which give targets, and small local ones, which only predict them.

    Attributes:
        global_count: Global crops, at least 2.
        local_count: Local crops.
        local_size: Edge of a local crop, pixels; null is half the size of a global one, at least 24.
        global_scale: Smallest and largest share of the image's area in a global crop.
        local_scale: The same for a local crop.
    """

    global_count: int = 2
    local_count: int = 6
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.14, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.14)

    def __post_init__(self) -> None:
        require(self.global_count >= 2, "two or more global crops", self.global_count, "--crops.global_count")
        require(self.local_count >= 0, "0 or more local crops", self.local_count, "--crops.local_count")
        edge = self.local_size
        require(edge is None or edge >= 8, "at least 8 pixels, or null", edge, "--crops.local_size")
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            require(0 < low <= high <= 1, "0 < low <= high <= 1", [low, high], f"--crops.{name}")


@dataclass(frozen=True)
class RunOptions:
    """Inputs of a run: its result depends on the contents of the inputs, not on these values.

    Attributes:
        preset: Other defaults for all that follows: "quickstart", "paper-256" (the published recipe of SwAV for a
            batch of 256) or "cxr"; options given beside it win.
        data: "phantom", a folder of images, or a cohort prepared by cxr-data; only training images are used.
        probe_data: Labelled cohort for the probe; null is that of the pretraining. Needs training and validation
            images.
        name: Folder of this stage within the run.
        start: Weights to begin with: "random", "imagenet" (timm's, fetched once; the best start where there are few
            images), or a safetensors or .pth file (FILE#PART for one of several networks in it); for A+B also one of
            these for each, joined by +.
        start_mean: Mean of pixels / 255 that the weights of a foreign file were trained with, one number or three; none
            is what the file says, else the cohort's.
        start_std: Standard deviation likewise.
        epochs: Passes over the training images; null chooses (see cxr_ssl.plan for this and other choices).
        on_collapse: What to do when all images come to look the same to the network: "stop", "warn", or "recover",
            which returns to the last healthy epoch and continues with one published change after the other.
    """

    preset: str | None = None
    data: list[str] | str = "phantom"
    probe_data: list[str] | str | None = None
    name: str = "ssl"
    start: str = "random"
    start_mean: list[float] = field(default_factory=list)
    start_std: list[float] = field(default_factory=list)
    epochs: int | None = None
    on_collapse: str = "stop"


@dataclass(frozen=True)
class PretrainSettings:
    """What defines a pretraining, beside the options of its method.

    Attributes:
        method: "swav", "dino" or "byol".
        architecture: Name of the backbone: any of timm's, eeea_net_c2, or A+B.
        size: Edge of the network input and of a global crop, pixels; null is the size a cohort was prepared for, or
            the next smaller multiple of 32 that the network takes; 64 for the phantom, 224 for other folders.
        crops: The augmented crops of an image.
        batch_size: Images of a step over all processes.
        accumulate: Parts in which a step takes its batch, one after the other, to need less memory. Batch
            statistics and codes see one part at a time: it does not enlarge what Sinkhorn balances (a queue
            does).
        checkpointing: Compute inner activations again in the backward pass instead of keeping them: much less
            memory, about a third more time, the same gradients.
        optimizer: "adamw", "lars", "larc" (LARS as published with SwAV: vectors are scaled and decayed too) or
            "sgd".
        lr: Peak learning rate of the global batch; null chooses by optimizer and batch size. After a warm-up it falls
            to a thousandth with the cosine.
        warmup: Epochs in which the learning rate rises to its peak; null is a tenth of the run.
        weight_decay: On matrices and kernels only (with larc on all).
        weight_decay_end: Weight decay at the last step, reached with the cosine; null keeps it as it is.
        seed: Seed of weights, order and crops.
        precision: "auto" (bf16 where the device has it), "fp32", "bf16" or "fp16".
    """

    method: str = "swav"
    architecture: str = "resnet50"
    size: int | None = None
    crops: Crops = Crops()
    batch_size: int = 32
    accumulate: int = 1
    checkpointing: bool = False
    optimizer: str = "adamw"
    lr: float | None = None
    warmup: float | None = None
    weight_decay: float = 1e-4
    weight_decay_end: float | None = None
    seed: int = 0
    precision: str = "auto"

    @property
    def input_size(self) -> int:
        """``size``, which pretraining chooses before anything else where it is null."""
        assert self.size is not None
        return self.size


@dataclass(frozen=True)
class MethodOptions:
    """Options of each method; a method is added by its line here, or in a `PretrainConfig` derived elsewhere.

    Attributes:
        swav: Options of the method swav.
        dino: Options of the method dino.
        byol: Options of the method byol.
    """

    swav: SwAVConfig = field(default_factory=SwAVConfig)
    dino: DINOConfig = field(default_factory=DINOConfig)
    byol: BYOLConfig = field(default_factory=BYOLConfig)


@dataclass(frozen=True)
class PretrainConfig(MethodOptions, PretrainSettings, Conduct, RunOptions):
    """Pretrain a backbone on chest radiographs without labels, with SwAV, DINO or BYOL."""

    keep_state: bool = True

    @property
    def methods(self) -> list[str]:
        """Names of the methods: those of the fields that hold a method's options."""
        return [option.name for option in fields(self) if isinstance(getattr(self, option.name), MethodConfig)]

    def __post_init__(self) -> None:
        require_options(
            self,
            size=(self.size is None or self.size >= 16, "a size of at least 16 pixels"),
            batch_size=(self.batch_size >= 2, "a batch of at least 2 images"),
            accumulate=(self.accumulate >= 1, "1 or more parts"),
            epochs=(self.epochs is None or self.epochs >= 1, "1 or more epochs, or null"),
            lr=(self.lr is None or self.lr > 0, "a learning rate above 0, or null"),
            workers=(self.workers is None or self.workers >= 1, "1 or more threads, or null"),
            seed=(self.seed < 2**63, "a seed below 2^63"),
        )
        parts, batch = self.accumulate, f"a batch of {self.batch_size}"
        require(self.batch_size >= 2 * parts, f"at least 2 images in each of {parts} parts", batch, "--accumulate")
        for name in ("warmup", "weight_decay", "weight_decay_end", "seed"):
            value = getattr(self, name)
            require(value is None or value >= 0, "0 or more", value, f"--{name}")
        require_known("method", self.method, self.methods)
        if self.preset is not None:
            require_known("preset", self.preset, PRESETS)
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("answer to a collapse", self.on_collapse, ON_COLLAPSE)
        for option in ("run", "name"):
            require_folder_name(getattr(self, option), f"--{option}")

    @property
    def local_size(self) -> int:
        """Edge of a local crop, pixels."""
        return max(self.input_size // 2, 24) if self.crops.local_size is None else self.crops.local_size

    @property
    def method_options(self) -> MethodConfig:
        """Options of the method chosen."""
        return getattr(self, self.method)


def preset(name: str, **changes: Any) -> PretrainConfig:
    """The config of a preset, as ``--preset NAME`` makes it on the command line.

    Args:
        name: A name in PRESETS.
        **changes: Fields that win over the preset's; a whole nested config replaces the preset's.

    Raises:
        BadInput: No such preset, or values that do not belong together.
    """
    require_known("preset", name, PRESETS)
    kinds: dict[str, Any] = {"crops": Crops} | {option.name: option.type for option in fields(MethodOptions)}
    values: dict[str, Any] = {"preset": name}
    nested: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for key, value in PRESETS[name].items():
        outer, _, inner = key.partition(".")
        (nested[outer] if inner else values)[inner or outer] = value
    values |= {outer: kinds[outer](**inner) for outer, inner in nested.items() if inner}
    known = {option.name for option in fields(PretrainConfig)}
    for option in changes.keys() - known:
        raise unknown_name("option", option, known)
    return PretrainConfig(**(values | changes))
