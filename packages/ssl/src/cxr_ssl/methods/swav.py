"""SwAV: swapped prediction of cluster assignments (Caron et al. 2020, arXiv 2006.09882).

The automatic settings come from the paper and from runs on paediatric radiographs (ResNet-18, 64/32 and 96/48 px).
Radiographs look alike, and small settings collapse to uniform codes within an epoch, for two reasons that the rules
below exclude:

- K not far above D: the embedding moves into the directions that the prototypes do not span, where every score is 0.
  Freezing the prototypes does not help. K = 100 with D = 128 collapsed, K = 300 with D = 64 learned at once.
- Prototypes that move too early fall together, embeddings and prototypes following one another. With the prototypes
  frozen for some epochs the embedding spreads over them first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxr_data.errors import BadInput, require
from cxr_ssl.method import Change, Method, MethodConfig, PagePart, lower_lr
from cxr_ssl.plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cxr_common.models.zoo import GrayNetwork
    from cxr_data.cohorts.cohort import Cohort

FREEZE_ENOUGH = 100
"""Steps with fixed prototypes that have been enough for ResNets on small cohorts."""

SHARP = 0.03
"""The epsilon that the authors of SwAV advise where codes stay uniform."""


@dataclass(frozen=True)
class SwAVConfig(MethodConfig):
    """Options of SwAV.

    Attributes:
        prototypes: K, number of prototypes; null chooses by the number of images.
        embedding: D, width of the embedding; null chooses by the number of images.
        standardise: Equalise the embedding's dimensions over the batch before its length is made 1 (not in the
            paper; keeps radiographs, which look alike, apart).
        queue: Earlier batches that Sinkhorn balances together with the present one; 0 none, null chooses.
        queue_start: Epochs after which the queue starts to fill, to be used once it is full; null is 15, as
            published, but at most half of the run.
        freeze: Steps at the start in which the prototypes stay fixed; null chooses.
        temperature: tau of the softmax over prototypes.
        epsilon: Smoothness of the codes: smaller is sharper.
    """

    prototypes: int | None = None
    embedding: int | None = None
    standardise: bool = True
    queue: int | None = None
    queue_start: float | None = None
    freeze: int | None = None
    temperature: float = 0.1
    epsilon: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("prototypes", 2), ("embedding", 1), ("queue", 0), ("queue_start", 0), ("freeze", 0)):
            value = getattr(self, name)
            require(value is None or value >= least, f"{least} or more, or null", value, f"--swav.{name}")
        for name in ("temperature", "epsilon"):
            require(getattr(self, name) > 0, "a number above 0", getattr(self, name), f"--swav.{name}")

    def settings(self, images: int, plan: Plan) -> "SwAVSettings":
        """Every option decided, for a number of training images."""
        embedding = embedding_for(images) if self.embedding is None else self.embedding
        prototypes = prototypes_for(images, embedding) if self.prototypes is None else self.prototypes
        steps, epochs = plan.steps, plan.epochs
        queue = queue_for(plan.global_batch, prototypes, steps, epochs) if self.queue is None else self.queue
        start = self.queue_start
        return SwAVSettings(
            embedding=embedding,
            prototypes=prototypes,
            standardise=self.standardise,
            queue=queue,
            queue_from=min(15 * steps, epochs * steps // 2) if start is None else round(start * steps),
            freeze_steps=freeze_steps_for(steps, epochs) if self.freeze is None else self.freeze,
            temperature=self.temperature,
            epsilon=self.epsilon,
        )

    def build(self, backbone: "GrayNetwork", settings: "SwAVSettings", plan: Plan, *, coded_crops: int) -> "SwAVMethod":
        """SwAV around a backbone."""
        return SwAVMethod(backbone, settings, coded_crops)


@dataclass(frozen=True)
class SwAVSettings:
    """Settings of a run.

    Attributes:
        embedding: D, width of the embedding.
        prototypes: K, number of prototypes.
        standardise: Whether the embedding's dimensions are equalised over the batch.
        queue: Length of the queue in global batches.
        queue_from: Step from which the queue is filled.
        freeze_steps: First steps in which the prototypes stay fixed.
        temperature: tau of the softmax over prototypes.
        epsilon: Smoothness of the codes.
    """

    embedding: int
    prototypes: int
    standardise: bool
    queue: int
    queue_from: int
    freeze_steps: int
    temperature: float
    epsilon: float


def embedding_for(images: int) -> int:
    """D: 64, and the published 128 from 50,000 images on."""
    return 64 if images < 50_000 else 128


def prototypes_for(images: int, embedding: int) -> int:
    """K: one prototype to 16 images, but at least 4.7 D and at most the published 3000.

    The lower bound keeps K far above D (300 for D = 64, 600 for D = 128); the paper found K between 3000 and
    100,000 alike on ImageNet, where 3000 means 427 images to a prototype.
    """
    least = max(round(4.7 * embedding, -2), fewest_prototypes(embedding))
    return int(min(max(images // 16, least), 3000))


def fewest_prototypes(embedding: int) -> int:
    """K from which on no embedding of D dimensions was seen to hide between the prototypes: 4 D."""
    return 4 * embedding


def queue_for(global_batch: int, prototypes: int, steps: int, epochs: int) -> int:
    """Length of the queue in global batches.

    Without one, Sinkhorn can only balance the batch. The paper adds a queue of 3840 to its batch of 256 for
    3000 prototypes, from epoch 15 of 400 on: batch and queue together are 1.4 K. Old embeddings only agree
    with new ones when the network changes slowly, so runs of few epochs do without.
    """
    if epochs < 15 or global_batch >= prototypes:
        return 0
    return min(-(-prototypes * 14 // (10 * global_batch)) - 1, steps // 2)


def freeze_steps_for(steps: int, epochs: int) -> int:
    """Steps with fixed prototypes: half of a short run, at most 1000 steps.

    The paper: 313 steps with a batch of 4096, 5005 (one epoch) with 256.
    """
    return min(steps * epochs // 2, max(1000, steps))


class SwAVMethod(Method):
    """SwAV in training: codes by Sinkhorn over batch and queue, predicted from the other crops."""

    def __init__(self, backbone: "GrayNetwork", settings: SwAVSettings, coded_crops: int):
        """Put head and prototypes behind a backbone."""
        from cxr_ssl.swav import SwAV

        self.settings, self.coded = settings, coded_crops
        self.module = SwAV(
            backbone,
            backbone.network.num_features,  # type: ignore[arg-type] - of every network in the zoo
            embedding_dim=settings.embedding,
            num_prototypes=settings.prototypes,
            standardise=settings.standardise,
        )
        self.advice, self.recoveries = _advice(settings), RECOVERIES
        self._share = 0
        self._embedded: list[Tensor] = []

    def start(self, device: "torch.device", share: int) -> None:
        """Make the queue, for so many images of a step on this process."""
        from cxr_ssl.feature_queue import FeatureQueue

        self._share = share
        self.queue = FeatureQueue(self.coded, self.settings.queue, share, self.settings.embedding, device)
        super().start(device, share)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width of the embedding, and number of prototypes."""
        return self.settings.embedding, self.settings.prototypes

    def loss(self, outputs: "tuple[Tensor, Tensor]") -> "Tensor":
        """Swapped prediction loss of embeddings (V, B, D) and scores (V, B, K)."""
        from cxr_ssl.diagnostics import add_codes, add_embeddings, add_loss
        from cxr_ssl.swav import swapped_prediction_loss

        embeddings, scores = outputs[0][: self.coded].detach(), outputs[1]
        coded = scores[: self.coded].detach()
        codes = self.codes(coded)
        loss = swapped_prediction_loss(scores, codes, temperature=self.settings.temperature)
        add_loss(self.sums, loss, coded.shape[1])
        add_codes(self.sums, coded, codes)
        add_embeddings(self.sums, embeddings[0])
        self._embedded.append(embeddings)
        return loss

    def codes(self, scores: "Tensor") -> "Tensor":
        """Codes (A, B, K) of the coded crops' scores (A, B, K), balanced together with the queue once it is full."""
        import torch

        from cxr_ssl.codes import sinkhorn

        images = scores.shape[1]
        if self.queue.full:
            used = self.module.prototypes.weight[: self.module.used_prototypes]
            scores = torch.cat([scores, self.queue.scores(used)], dim=1)
        return torch.stack([sinkhorn(crop, epsilon=self.settings.epsilon)[:images] for crop in scores])

    def before_update(self, step: int) -> None:
        """Leave the prototypes where they are in the first steps."""
        from cxr_ssl.swav import freeze_prototypes

        if step < self.settings.freeze_steps:
            freeze_prototypes(self.module.prototypes)

    def after_update(self, step: int) -> None:
        """Make the prototypes' length 1 again; the queue takes the embeddings of this step."""
        import torch

        from cxr_ssl.swav import normalise_prototypes

        if step >= self.settings.freeze_steps:
            normalise_prototypes(self.module.prototypes)
        if step >= self.settings.queue_from:
            self.queue.push(torch.cat(self._embedded, dim=1))
        self._embedded.clear()

    def change(self, settings: SwAVSettings) -> None:
        """Continue with other settings: fewer prototypes are the first ones, another queue fills anew."""
        if settings.queue != self.settings.queue:
            from cxr_ssl.feature_queue import FeatureQueue

            self.queue = FeatureQueue(self.coded, settings.queue, self._share, settings.embedding, self.device)
        self.module.used_prototypes, self.advice = settings.prototypes, _advice(settings)
        super().change(settings)

    def warnings(self, plan: Plan) -> list[str]:
        """What in the settings has been seen to collapse on radiographs, the surest first."""
        settings, warnings = self.settings, []
        if settings.prototypes < fewest_prototypes(settings.embedding):
            warnings.append(
                f"{settings.prototypes} prototypes for an embedding of {settings.embedding} dimensions: it may hide "
                f"where no prototype points; --swav.prototypes {fewest_prototypes(settings.embedding)} or more"
            )
        # Half an epoch of some fifty steps was too short, three epochs of fifty were enough.
        enough = min(FREEZE_ENOUGH, plan.all_steps // 3)
        if settings.freeze_steps < enough:
            warnings.append(
                f"prototypes fixed for only {settings.freeze_steps} steps: they may fall together before the "
                f"embedding has spread over them; --swav.freeze {enough} or more"
            )
        full = settings.queue_from + settings.queue
        if settings.queue and full > plan.all_steps:
            warnings.append(
                f"a queue that is full after {full} of {plan.all_steps} steps and so is never used; a shorter "
                "--swav.queue, an earlier --swav.queue_start or more --epochs"
            )
        return warnings

    def refuse_certain_collapse(self) -> None:
        """Refuse no more prototypes than the embedding has dimensions.

        Every direction off the prototypes' span then scores 0 with all of them, and the embedding moves there;
        freezing does not help.
        """
        k, d = self.settings.prototypes, self.settings.embedding
        if k <= d:
            raise BadInput(
                "more prototypes than the embedding has dimensions",
                f"{k} prototypes and {d} dimensions, which collapses to uniform codes",
                where="--swav.prototypes",
                do=f"--swav.prototypes {fewest_prototypes(d)} or more, or a smaller --swav.embedding",
            )

    def description(self) -> str:
        """The settings in a few words."""
        settings = self.settings
        return (
            f"{settings.prototypes} prototypes, embedding {settings.embedding}, queue of {settings.queue} batches, "
            f"prototypes fixed for {settings.freeze_steps} steps"
        )

    def page_part(self, cohort: "Cohort", size: int, *, seed: int, precision: "torch.dtype") -> PagePart:
        """The most used prototypes and the images nearest to each."""
        from cxr_ssl.pictures import nearest_to_prototypes

        strips = nearest_to_prototypes(
            self.module, lambda pixels: self.module([pixels[None]])[1][0], cohort, size, seed=seed, precision=precision
        )
        text = (
            "The most used prototypes, and the training images nearest to each. Rows should look alike within and "
            "different from one another."
        )
        return PagePart("Prototypes", text, strips, CODE_CHARTS)

    def state_dict(self) -> dict[str, Any]:
        """How many batches the queue has taken; its embeddings are each process's own."""
        return {"pushed": self.queue.pushed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.queue.pushed = state["pushed"]

    def per_process(self) -> "dict[str, Tensor]":
        """Embeddings of the queue, and the sums."""
        return {"queue": self.queue.embeddings, **self.sums}


CODE_CHARTS = {
    "Codes and prototypes (shares, 0 to 1)": {
        "loss_ratio": "loss / ln K",
        "code_entropy": "code entropy / ln K",
        "prototypes_in_use": "prototypes in use",
        "agreement": "two crops, same prototype",
    }
}
"""Charts of a method with prototypes."""


def _advice(settings: SwAVSettings) -> dict[str, str]:
    """Kind of collapse -> what to change, best first."""
    k, d = settings.prototypes, settings.embedding
    more = f"more --swav.prototypes than {k} for a --swav.embedding of {d} (at least four times), "
    return {
        "not finite": "a lower --lr (a third), or --precision fp32",
        "low rank": "a lower --lr, a longer --swav.freeze, softer crops (larger --crops.global_scale)",
        "uniform codes": (more if k <= 2 * d else "")
        + "a longer --swav.freeze, --swav.epsilon 0.03, a smaller or no --swav.queue, softer crops",
        "one prototype": "a longer --swav.freeze, a lower --lr, fewer --swav.prototypes",
    }


def _sharper_codes(_plan: Plan, settings: SwAVSettings, _step: int) -> dict[str, Any]:
    return {"epsilon": SHARP} if settings.epsilon > SHARP else {}


def _longer_freeze(plan: Plan, settings: SwAVSettings, step: int) -> dict[str, Any]:
    """As long again as before, and two epochs at least, from here on."""
    until = max(settings.freeze_steps, step) + max(settings.freeze_steps, 2 * plan.steps)
    return {"freeze_steps": min(until, plan.all_steps)} if settings.freeze_steps < plan.all_steps else {}


def _smaller_queue(_plan: Plan, settings: SwAVSettings, _step: int) -> dict[str, Any]:
    """Half of it, which fills anew."""
    return {"queue": settings.queue // 2} if settings.queue else {}


def _fewer_prototypes(_plan: Plan, settings: SwAVSettings, _step: int) -> dict[str, Any]:
    """Half of them, but not so few that the embedding can hide between them."""
    fewer = max(settings.prototypes // 2, fewest_prototypes(settings.embedding))
    return {"prototypes": fewer} if fewer < settings.prototypes else {}


_SHARPER: dict[str, Change] = {"sharper codes": _sharper_codes}
_FREEZE: dict[str, Change] = {"longer freeze": _longer_freeze}
_QUEUE: dict[str, Change] = {"smaller queue": _smaller_queue}
_FEWER: dict[str, Change] = {"fewer prototypes": _fewer_prototypes}
_LR: dict[str, Change] = {"lower learning rate": lower_lr}

RECOVERIES: dict[str, dict[str, Change]] = {
    "uniform codes": _SHARPER | _FREEZE | _QUEUE | _FEWER,
    "one prototype": _FREEZE | _LR | _QUEUE | _FEWER,
    "low rank": _LR | _FREEZE | _SHARPER,
    "not finite": _LR | _QUEUE,
}
"""Kind of collapse -> published ways out of it, best first."""
