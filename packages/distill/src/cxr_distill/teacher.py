"""A teacher: loaded first, frozen, never stored with the student."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_common import checkpoint
from cxr_common.models.encoders import build_encoder, find_encoder
from cxr_common.models.features import feature_shapes, features
from cxr_common.models.small_maps import fast_layout
from cxr_common.models.zoo import DEFAULT_SIZE, GrayNetwork
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header import describe_onnx
from cxr_distill.losses import Outputs
from cxr_distill.losses.adapters import resize
from cxr_distill.onnx_teacher import OnnxClassifier

ENCODER_FEATURES = ("pooled", "level4")
"""Features of an encoder that losses may read."""


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier whose answers are in the cohort's label order, or an encoder without a classifier.

    Attributes:
        network: In eval mode, without gradients. A graph in ONNX gives logits alone.
        header: What its file says of it; ``header.input.size`` is the size it sees images at.
        order: Position of each of the cohort's labels among the teacher's logits; empty for an encoder.
        feature_names: Features it is asked for.
        digest: SHA-256 of all that its outputs depend on, beside the images.
        grid: Edge of the grid to which its maps are averaged; None leaves them as they are.
    """

    network: GrayNetwork | OnnxClassifier
    header: checkpoint.Header
    order: Tensor
    feature_names: tuple[str, ...] = ()
    digest: str = ""
    grid: int | None = None

    @property
    def headless(self) -> bool:
        """Whether it is an encoder, which gives features alone."""
        return not len(self.order)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each output for one image: "logits" (L,) of a classifier, and the features asked for."""
        shapes = {}
        if isinstance(self.network, GrayNetwork):
            with_batch = feature_shapes(self.network, self.feature_names, self.size)
            shapes = {name: shape[1:] for name, shape in with_batch.items()}
        if self.grid is not None:
            shapes = {
                name: shape if len(shape) == 1 else (shape[0], self.grid, self.grid) for name, shape in shapes.items()
            }
        return shapes if self.headless else {"logits": (len(self.order),), **shapes}

    @property
    def size(self) -> int:
        """Edge of its input, pixels."""
        return self.header.input.size

    @property
    def classifier(self) -> tuple[Tensor, Tensor] | None:
        """Weight (L, C) and bias (L,) of its last linear layer, in the cohort's label order; None without one."""
        layer = classifier(self.network)
        if layer is None:
            return None
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
        return layer.weight[self.order], bias[self.order]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Outputs:
        """Answer for a batch.

        Args:
            pixels: (B, 1, S, S) uint8 at the teacher's own size.

        Returns:
            Logits (B, L) in the cohort's order (L = 0 of an encoder), the features asked for, and the classifier's
            weight.
        """
        if isinstance(self.network, OnnxClassifier):
            return Outputs(self.network(pixels)[:, self.order], {}, None)
        logits, maps = features(self.network, pixels, self.feature_names)
        if self.grid is not None:
            maps = {name: x if x.ndim == 2 else resize(x, (self.grid, self.grid)) for name, x in maps.items()}
        return Outputs(logits[:, self.order], maps, classifier_weight(self.network, self.order))


def load_teacher(path: str | Path, labels: Sequence[str], task: str, feature_names: Sequence[str] = ()) -> Teacher:
    """Load and freeze a teacher for a cohort.

    Args:
        path: A model file: safetensors, or ONNX written by ``export-model``.
        labels: The cohort's labels; the teacher must know them all (order and extra ones do not matter
            in a multi-label task; classes must be the same set).
        task: The cohort's task.
        feature_names: Feature maps wanted.

    Raises:
        BadInput: Not a classifier, or one of other labels or another task; features of a graph in ONNX.
    """
    if Path(path).suffix == ".onnx":
        return _load_onnx(Path(path), labels, task, feature_names)
    network, header = checkpoint.load(path, kind="model")
    check_labels(header, labels, task, path)
    network.requires_grad_(False)
    fast_layout(network)
    return Teacher(network, header, _positions(header, labels), tuple(feature_names), sha256(path))


def _load_onnx(path: Path, labels: Sequence[str], task: str, feature_names: Sequence[str]) -> Teacher:
    header = describe_onnx(path)[0]
    check_labels(header, labels, task, path)
    if feature_names:
        do = "give the model.safetensors that the file was made from, or losses on logits: --loss kd=1"
        found = f"losses on {', '.join(feature_names)}"
        raise BadInput("losses on logits, which are all that a teacher in ONNX gives", found, where=path, do=do)
    return Teacher(OnnxClassifier(path).eval(), header, _positions(header, labels), digest=sha256(path))


def _positions(header: checkpoint.Header, labels: Sequence[str]) -> Tensor:
    return torch.tensor([header.labels.index(label) for label in labels])


def load_encoder(
    word: str,
    feature_names: Sequence[str],
    *,
    mean: float,
    std: float,
    size: int | None = None,
    grid: int | None = None,
) -> Teacher:
    """Load and freeze an encoder, whose features alone are learnt.

    Args:
        word: What `cxr_common.models.encoders.find_encoder` takes.
        feature_names: Features wanted, of `ENCODER_FEATURES`.
        mean: Mean of the cohort's pixels / 255, for weights that come with none.
        std: Their standard deviation.
        size: Edge at which it sees images; None is what its weights say.
        grid: Edge of the grid to which its maps are averaged.

    Raises:
        BadInput: Weights that cannot be had or read, a size it cannot take, or outputs that are not features.
    """
    encoder = find_encoder(word)
    size = size or encoder.size or DEFAULT_SIZE
    network = build_encoder(encoder, size, mean, std)
    fast_layout(network).requires_grad_(False)
    shapes = feature_shapes(network, ENCODER_FEATURES if "level4" in feature_names else ("pooled",), size)
    if any(len(shape) != (2 if name == "pooled" else 4) for name, shape in shapes.items()):
        raise BadInput("an encoder that gives one vector of features per image", str(shapes), where=word)
    header = checkpoint.Header("backbone", encoder.architecture, network.describe_input(size, {}))
    about = f"{sha256(encoder.weights.path)} {encoder.weights.part} {encoder.architecture} {header.input} {grid}"
    about += f" {encoder.gelu} {encoder.eps}"
    digest = hashlib.sha256(about.encode()).hexdigest()
    return Teacher(network, header, torch.zeros(0, dtype=torch.long), tuple(feature_names), digest, grid)


def check_labels(header: checkpoint.Header, labels: Sequence[str], task: str, path: str | Path) -> None:
    """Refuse a model that cannot answer for these labels."""
    if header.task != task:
        raise BadInput(f"a {task} model", f"a {header.task} one", where=path, do="use a cohort of the same task")
    missing = [label for label in labels if label not in header.labels]
    extra = [label for label in header.labels if label not in labels] if task == "multiclass" else []
    if missing or extra:
        raise BadInput(
            f"a model of the cohort's labels {', '.join(labels)}",
            f"one of {', '.join(header.labels)}",
            where=path,
            do="use the cohort it was trained on, or train one on this cohort: finetune --data ...",
        )


def classifier_weight(network: GrayNetwork | OnnxClassifier, order: Tensor | None = None) -> Tensor | None:
    """Weight (L, C) of the last linear layer, where the network ends in one."""
    layer = classifier(network)
    if layer is None:
        return None
    return layer.weight if order is None else layer.weight[order]


def classifier(network: GrayNetwork | OnnxClassifier) -> nn.Linear | None:
    """The last linear layer, where the network ends in one."""
    if isinstance(network, OnnxClassifier):
        return None
    get_classifier = getattr(network.network, "get_classifier", None)
    layer = get_classifier() if callable(get_classifier) else None
    return layer if isinstance(layer, nn.Linear) else None


def linear_layer(network: GrayNetwork, what: str) -> nn.Linear:
    """The last linear layer.

    Raises:
        BadInput: The network ends in something else.
    """
    layer = classifier(network)
    if layer is None:
        raise BadInput(
            f"{what} that ends in a linear layer",
            f"{type(network.network).__name__}, which does not",
            do="choose another architecture",
        )
    return layer


@torch.no_grad()
def put(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a linear layer a weight (L, C) and, where it has one, a bias (L,)."""
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)
