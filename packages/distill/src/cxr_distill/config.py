"""What the commands ``finetune`` and ``distill`` can be told; no torch in here."""

from dataclasses import dataclass, field

from cxr_common.errors import BadInput, unknown_name

STAGES = ("stage1", "stage2", "stage3", "stage4", "pooled")


@dataclass(frozen=True)
class TrainConfig:
    """What fine-tuning and distillation share.

    Attributes:
        data: "phantom", a folder of images, or a cohort prepared by cxr-data.
        run: Name of the experiment; its stages lie in RUNS_DIR/RUN.
        runs_dir: Folder of all experiments.
        name: Folder of this stage within the run; chosen from the architecture when empty.
        start: Weights to begin with: "random", a safetensors or .pth file, or "auto" (teachers: the run's own
            SSL backbone where there is one; students: random).
        size: Edge of the square network input, pixels.
        epochs: Passes over the training images; 0 chooses by the size of the cohort.
        batch_size: Images of a step over all processes.
        lr: Peak learning rate of AdamW; 0 chooses by the start (1e-3 from random weights, 3e-4 from others).
        weight_decay: Decoupled weight decay, on matrices and kernels only.
        patience: Epochs without a better validation AUROC before training stops; 0 never stops early.
        task_loss: Loss on the labels; "auto" is cross-entropy for classes, binary cross-entropy for labels.
        label_fraction: Share of the labelled training patients used, in (0, 1].
        crop: Smallest share of the image's area a training view shows, in (0, 1].
        seed: Seed of weights, order and views.
        precision: "auto" (bf16 where the device has it), "fp32", "bf16" or "fp16".
        workers: Threads that prepare batches; 0 chooses by the cores.
        restart: When the folder holds a run of another config or other inputs, set it aside and start anew.
    """

    data: str = "phantom"
    run: str = "quickstart"
    runs_dir: str = "runs"
    name: str = ""
    start: str = "auto"
    size: int = 64
    epochs: int = 0
    batch_size: int = 64
    lr: float = 0.0
    weight_decay: float = 0.05
    patience: int = 0
    task_loss: str = "auto"
    label_fraction: float = 1.0
    crop: float = 0.6
    seed: int = 0
    precision: str = "auto"
    workers: int = 0
    restart: bool = False

    def __post_init__(self) -> None:
        # Below, the last maps of a ResNet are one pixel, where bf16 convolutions on a CPU lose gradients.
        _require(self.size >= 32, "a size of at least 32 pixels", self.size, "--size")
        _require(
            self.batch_size >= 2,
            "a batch size of at least 2 (BatchNorm needs two)",
            self.batch_size,
            "--batch_size",
        )
        _require(self.epochs >= 0, "epochs of 0 (automatic) or more", self.epochs, "--epochs")
        _require(self.lr >= 0, "a learning rate of 0 (automatic) or more", self.lr, "--lr")
        _require(self.weight_decay >= 0, "a weight decay of 0 or more", self.weight_decay, "--weight_decay")
        _require(self.patience >= 0, "a patience of 0 or more", self.patience, "--patience")
        _require(
            0 < self.label_fraction <= 1,
            "a label fraction in (0, 1]",
            self.label_fraction,
            "--label_fraction",
        )
        _require(0 < self.crop <= 1, "a crop in (0, 1]", self.crop, "--crop")
        for option in ("run", "name"):
            value = getattr(self, option)
            _require(not {"..", "."} & set(value.split("/")), "a plain folder name", value, f"--{option}")


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Train a classifier on labels alone.

    Attributes:
        architecture: Name of the network: any of timm's, eeea_net_c2, baseline_cnn, or A+B.
    """

    architecture: str = "resnet50"


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """Train a small student to answer like its teacher.

    The loss is task_weight x task loss + sum of weight x distillation loss.

    Attributes:
        teacher: A model.safetensors, or a headless backbone (a classifier is then fitted on it first); when
            empty, the run's own teacher, or one fitted on the run's SSL backbone.
        student: Name of the student's network.
        loss: Distillation losses and their weights, "--loss kd=0.9 --loss fitnets=10"; when empty, kd for classes
            and multilabel_kd for labels, at their usual weights.
        task_weight: Weight of the loss on the labels (alpha, beside 1 - alpha for kd); below 0 takes the one
            usual with the first distillation loss.
        temperature: Temperature of the logit losses; 0 takes each loss's usual one.
        stage: Feature map the feature losses look at: stage1 ... stage4, or pooled.
        control: Also train the same student, from the same start and seed, without the teacher.
    """

    teacher: str = ""
    student: str = "resnet18"
    loss: dict[str, float] = field(default_factory=dict)
    task_weight: float = -1.0
    temperature: float = 0.0
    stage: str = "stage4"
    control: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.temperature >= 0, "a temperature of 0 (usual) or more", self.temperature, "--temperature")
        if self.stage not in STAGES:
            raise unknown_name("stage", self.stage, STAGES)
        for name, weight in self.loss.items():
            _require(weight >= 0, "a weight of 0 or more", weight, f"--loss {name}")


def _require(condition: bool, expected: str, found: object, option: str) -> None:
    if not condition:
        raise BadInput(expected, repr(found), where=option)
