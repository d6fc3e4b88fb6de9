"""Options of the commands ``finetune`` and ``distill``; imports no torch."""

from dataclasses import dataclass, field

from cxr_common.training.options import Conduct
from cxr_data.errors import require, require_folder_name, require_known, require_options
from cxr_data.models.licences import refuse_empty

MODES = ("full", "linear", "layerwise")
IMBALANCE = ("none", "pos_weight", "balanced", "logit_adjust")
ENSEMBLES = ("mean", "weighted", "best_label")
THRESHOLDS = ("youden", "f1", "sensitivity")
CALIBRATIONS = ("temperature", "platt", "none")


@dataclass(frozen=True)
class Optim:
    """Regularisation and averaging of the weights.

    Attributes:
        ema: Decay, in [0, 1), of a moving average of the weights, which is then evaluated and kept; 0 for
            none.
        clip: Largest norm of the gradient; 0 never clips.
        drop_path: Stochastic depth rate of the last block, in [0, 1), where the network has such.
        mixup: Both parameters of the Beta distribution two images are mixed by; 0 for none.
        label_smoothing: Share of a target that is spread over the classes, in [0, 1).
        lowest_lr: Mode layerwise: learning rate of the first layer as a share of that of the classifier, in (0, 1].
    """

    ema: float = 0.0
    clip: float = 0.0
    drop_path: float = 0.0
    mixup: float = 0.0
    label_smoothing: float = 0.0
    lowest_lr: float = 0.1

    def __post_init__(self) -> None:
        for name in ("ema", "drop_path", "label_smoothing"):
            value = getattr(self, name)
            require(0 <= value < 1, "a number in [0, 1)", value, f"--optim.{name}")
        require(self.clip >= 0, "a norm of 0 (never) or more", self.clip, "--optim.clip")
        require(self.mixup >= 0, "a mixup of 0 (none) or more", self.mixup, "--optim.mixup")
        require(0 < self.lowest_lr <= 1, "a share in (0, 1]", self.lowest_lr, "--optim.lowest_lr")


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities and decisions; all fitted on validation images.

    Attributes:
        calibration: "temperature" (one for all labels), "platt" (a slope and a shift for each label) or "none".
        thresholds: What a label's threshold makes best: "youden" (sensitivity + specificity), "f1", or
            "sensitivity" (the specificity at no less than that sensitivity).
        sensitivity: The sensitivity that is wanted, in (0, 1].
    """

    calibration: str = "temperature"
    thresholds: str = "youden"
    sensitivity: float = 0.95

    def __post_init__(self) -> None:
        require_known("calibration", self.calibration, CALIBRATIONS)
        require_known("threshold rule", self.thresholds, THRESHOLDS)
        require(0 < self.sensitivity <= 1, "a number in (0, 1]", self.sensitivity, "--decision.sensitivity")


@dataclass(frozen=True)
class RunOptions:
    """Inputs of a run: its result depends on the contents of the inputs, not on these values.

    Attributes:
        data: "phantom", a folder of images, or a cohort prepared by cxr-data; several are read as one.
        name: Folder of this stage within the run; null is "teacher" for finetune and the name of the
            student's architecture for distill.
        start: Weights to begin with: "random", "imagenet" (timm's, fetched once), a safetensors or .pth file (FILE#PART
            for one of several networks in it), for A+B also one of these for each, joined by +; null chooses
            (finetune: the run's own SSL backbone where there is one of this architecture; else random).
        epochs: Passes over the training images; null chooses by the size of the cohort.
        seeds: Several seeds, "--seeds 0,1,2", each trained in a folder of its own; mean and interval come at the end.
        licence: Licence that the written file shall say, such as CC-BY-4.0: yours, within what the data and the
            licences of start and teachers allow. Null says none.
    """

    data: list[str] | str = "phantom"
    name: str | None = None
    start: str | None = None
    epochs: int | None = None
    seeds: list[int] = field(default_factory=list)
    licence: str | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """What defines a training on labels.

    Attributes:
        size: Edge of the square network input, pixels; null is the size a prepared cohort was prepared for (rounded
            down to a multiple of 32), 64 for the phantom, 224 for other folders.
        start_mean: Mean of pixels / 255 that the weights of a foreign file were trained with, one number or three; none
            is what the file says, else the cohort's.
        start_std: Standard deviation likewise.
        batch_size: Images of a step over all processes.
        lr: Peak learning rate of AdamW; null chooses: from random weights in proportion to their size (1e-3 for a
            ResNet-18, 4e-3 for MobileNets), 1e-3 from an SSL backbone, 3e-4 from others; times the root of
            batch_size / 64.
        weight_decay: Decoupled weight decay, on matrices and kernels only.
        patience: Epochs without a better validation AUROC before training stops; 0 never stops early.
        mode: "full" trains all layers alike, "layerwise" the lower ones more slowly, "linear" the classifier alone, on
            features computed once, with the ridge penalty that is best on validation images.
        task_loss: Loss on the labels; null is cross-entropy for classes, binary cross-entropy for labels.
        imbalance: How rare labels are treated: "none", "pos_weight" (weighted up in the loss), "balanced" (drawn more
            often) or "logit_adjust" (their prior is taken out of the loss).
        label_fraction: Share of the labelled training patients used, in (0, 1].
        augment: How augmented training images differ from the stored ones: "strong", "mild" or "none", with strengths
            that are to be others behind commas ("strong,flip=0.5,zoom=0.9:1.1"); see `cxr_data.augment.AUGMENTATIONS`.
        seed: Seed of weights, order and augmentation.
        precision: "auto" (bf16 where the device has it), "fp32", "bf16" or "fp16".
        optim: Regularisation and averaging of the weights.
        decision: How logits become probabilities and decisions.
    """

    size: int | None = None
    start_mean: list[float] = field(default_factory=list)
    start_std: list[float] = field(default_factory=list)
    batch_size: int = 64
    lr: float | None = None
    weight_decay: float = 0.05
    patience: int = 0
    mode: str = "full"
    task_loss: str | None = None
    imbalance: str = "none"
    label_fraction: float = 1.0
    augment: str = "strong"
    seed: int = 0
    precision: str = "auto"
    optim: Optim = field(default_factory=Optim)
    decision: Decision = field(default_factory=Decision)

    @property
    def input_size(self) -> int:
        """``size``, which a stage chooses before anything else where it is null."""
        assert self.size is not None
        return self.size


@dataclass(frozen=True)
class EightBitSettings:
    """What defines the epochs in 8 bits, beside the float training that goes before them.

    Attributes:
        bits: 8 trains the finished network on in 8 bits, with the same labels and teachers, and writes it to a folder
            beside its own, NAME-8bit; null does not.
        bits_epochs: Epochs in 8 bits, after the others; null is a quarter of them. 0 only takes the ranges of values
            from training images (post-training quantisation), and writes to NAME-ptq.
        weight_bits: 7, which every processor computes exactly, or 8, for those with VNNI alone: others with AVX2 clip
            sums of products that do not fit 16 bits.
    """

    bits: int | None = None
    bits_epochs: int | None = None
    weight_bits: int = 7


@dataclass(frozen=True)
class TrainConfig(TrainingSettings, EightBitSettings, Conduct, RunOptions):
    """What fine-tuning and distillation share."""

    def __post_init__(self) -> None:
        # Below, the last maps of a ResNet are one pixel, where bf16 convolutions on a CPU lose gradients.
        require_options(
            self,
            size=(self.size is None or self.size >= 32, "a size of at least 32 pixels"),
            batch_size=(self.batch_size >= 2, "a batch size of at least 2 (BatchNorm needs two)"),
            epochs=(self.epochs is None or self.epochs >= 1, "1 or more epochs, or null"),
            lr=(self.lr is None or self.lr > 0, "a learning rate above 0, or null"),
            weight_decay=(self.weight_decay >= 0, "a weight decay of 0 or more"),
            patience=(self.patience >= 0, "a patience of 0 or more"),
            label_fraction=(0 < self.label_fraction <= 1, "a label fraction in (0, 1]"),
            seed=(0 <= self.seed < 2**63, "a seed from 0 up, below 2^63"),
            workers=(self.workers is None or self.workers >= 1, "1 or more threads, or null"),
            bits=(self.bits in (None, 8), "8 bits, or null"),
            weight_bits=(self.weight_bits in (7, 8), "7 or 8 bits"),
            bits_epochs=(self.bits_epochs is None or self.bits_epochs >= 0, "0 or more epochs, or null"),
        )
        require(len(set(self.seeds)) == len(self.seeds), "every seed once", self.seeds, "--seeds")
        require(all(0 <= seed < 2**63 for seed in self.seeds), "seeds from 0 up, below 2^63", self.seeds, "--seeds")
        refuse_empty(self.licence)
        from cxr_data.augment import training_views  # here: --help shall not wait for OpenCV

        training_views(self.augment, self.size or 224)
        require_known("mode", self.mode, MODES)
        require(
            not (self.bits and self.mode == "linear" and self.bits_epochs != 0),
            "--bits_epochs 0 in mode linear: in 8 bits all layers are trained",
            self.bits_epochs,
            "--bits_epochs",
        )
        require_known("treatment of imbalance", self.imbalance, IMBALANCE)
        if self.mode == "linear":
            for option in ("ema", "clip", "drop_path", "mixup"):
                require(
                    getattr(self.optim, option) == 0,
                    "0 in mode linear, which fits a classifier on features computed once",
                    getattr(self.optim, option),
                    f"--optim.{option}",
                )
        for option in ("run", "name"):
            value = getattr(self, option)
            if value is not None:
                require_folder_name(value, f"--{option}")


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Train a chest X-ray classifier on labels, from an SSL backbone, other weights or from scratch.

    Attributes:
        architecture: Name of the network: any of timm's, eeea_net_c2, baseline_cnn, or A+B.
    """

    architecture: str = "resnet50"


@dataclass(frozen=True)
class TeachingSettings:
    """What defines a distillation, beside its training settings and the files of its teachers.

    Attributes:
        ensemble: How several teachers answer as one: "mean" of their logits, mean "weighted" by validation AUROC,
            or "best_label", for each label the best one on validation images.
        cached_views: Augmented views of each image for which the teachers' outputs are computed once, ahead of
            training, and cached; the epochs use them in turn. 0 computes them in every step.
        teacher_size: Edge, pixels, at which teachers without a classifier see the images; null is what their weights
            were trained at.
        patch_grid: Edge of the grid to which such teachers' patch tokens (or last maps) are averaged for losses that
            read level4; null is the student's own.
        loss: Distillation losses with weights and hyperparameters, "--loss dkd=1 --loss dkd.beta=4 --loss
            pooled_cosine=0.5"; when empty, kd for two classes, dkd for more and multilabel_kd for labels, at their
            usual weights, and pooled_cosine for teachers without a classifier. "my_package.my_module:MyLoss=1" takes
            a loss from elsewhere.
        task_weight: Weight of the loss on the labels (alpha, beside 1 - alpha for kd); null takes the one usual with
            the first distillation loss. With 0, or null, and no teacher that has a classifier no label is looked at,
            and the student is a backbone for finetune --start.
        use_unlabelled: Also learn the teachers' answers for images and labels whose label is unknown.
    """

    ensemble: str = "mean"
    cached_views: int = 0
    teacher_size: int | None = None
    patch_grid: int | None = None
    loss: dict[str, float | bool | str] = field(default_factory=dict)
    task_weight: float | None = None
    use_unlabelled: bool = True


@dataclass(frozen=True)
class DistillConfig(TeachingSettings, TrainConfig):
    """Train a small chest X-ray classifier to answer like its teachers.

    Or, without labels, a backbone that gives the features of encoders.

    The loss is task_weight x task loss + sum of weight x distillation loss.

    Attributes:
        teacher: One or several: a model.safetensors, an .onnx file of export-model (logits alone; in 8 bits the
            quickest where a teacher is run in every step), or an encoder without a classifier, of which the features
            are learnt: a backbone.safetensors, a foreign file (ARCHITECTURE=FILE where nothing beside it says what it
            is), timm:NAME, hf:ORG/NAME[@REVISION], FILE#features for a classifier's encoder. When empty, the run's
            own teacher, or one fitted on the run's SSL backbone.
        student: Name of the student's network.
        control: Also train the same student, from the same start and seed, without the teacher.
    """

    teacher: list[str] = field(default_factory=list)
    student: str = "resnet18"
    control: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.task_weight
        require(weight is None or weight >= 0, "a weight of 0 or more, or null", weight, "--task_weight")
        require_known("ensemble", self.ensemble, ENSEMBLES)
        require(self.cached_views >= 0, "0 (computed in every step) or more views", self.cached_views, "--cached_views")
        for name, least in (("teacher_size", 32), ("patch_grid", 1)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{least} or more, or null", value, f"--{name}")
        require(self.mode != "linear", "mode full or layerwise (finetune has a linear one)", self.mode, "--mode")
        require(
            not (self.cached_views and self.optim.mixup),
            "no mixup beside --cached_views: mixed images have no cached teacher outputs",
            self.optim.mixup,
            "--optim.mixup",
        )
