"""The 8-bit file of a network that was trained in 8 bits: its own scales, and a comparison with its float model.

No image is needed to choose scales: they came with the weights. Validation images show that ONNX Runtime answers as
the fake-quantised network does in PyTorch, and what 8 bits cost beside the float model it was trained on from.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cxr_common.checkpoint import load
from cxr_common.models.zoo import GrayNetwork
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.terminal import say
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.machine import cpu_has_vnni
from cxr_data.models.decisions import decide
from cxr_data.models.header import Header
from cxr_deploy import cohort as images_of
from cxr_deploy import runtimes
from cxr_deploy.config import ExportConfig
from cxr_deploy.export import quantise, torch_runtime
from cxr_deploy.export.agreement import agreement, resampled
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.integers import with_integer_weights

MAX_DROP = 0.002
"""Largest loss of AUROC to the float model, where --max_drop names none."""
TOLERANCE = {"mean": 5e-3, "same_decisions": 0.99}
"""How far ONNX Runtime may answer otherwise than PyTorch: mean difference of a probability, and least share of equal
decisions. Float sums in another order round a value near the middle of a step to its other end now and then, and later
layers carry that on; a wrong scale anywhere changes far more."""


@dataclass(frozen=True)
class Source:
    """A model that is exported.

    Attributes:
        config: The command's config.
        file: Its model.safetensors.
        network: Its network.
        header: Its header.
        cohort: What the ONNX file is checked on.
    """

    config: ExportConfig
    file: Path
    network: GrayNetwork
    header: Header
    cohort: Cohort

    @cached_property
    def about(self) -> dict[str, str]:
        """Name and SHA-256 of the file, as ONNX files and export.json say them."""
        return {"file": self.file.name, "sha256": sha256(self.file)}


def convert_trained(source: Source) -> tuple[onnx.ModelProto, dict[str, Any], dict[str, Any]]:
    """Make and check the 8-bit graph of a model whose header has ``bits``; its cohort needs labelled validation images.

    Returns:
        The graph, how it was checked ("images", "cohort", "differences"), and what 8 bits cost ("auroc", "drop",
        "low", "high", "agreement" with "agreement_low" and "agreement_high", changes of sensitivity and specificity).

    Raises:
        BadInput: Not to be exported, it answers otherwise than PyTorch, or it decides otherwise than its float model.
    """
    config, header, cohort = source.config, source.header, source.cohort
    assert header.bits is not None
    rows = images_of.sample(cohort, "val", config.validation_images)
    if not cohort.labels or not len(rows):
        raise BadInput("a cohort with labelled validation images", "none", where=cohort.source, do="name one: --data")
    images = images_of.pixels(cohort, rows, header.input.size)
    model = with_integer_weights(convert(Answering(source.network, header), header))
    expected = runtimes.probabilities(torch_runtime.in_torch(source.network, header), images)
    scores = runtimes.probabilities(runtimes.in_onnxruntime(model.SerializeToString(), threads=config.threads), images)
    differences = _differences(expected, scores, header, source.file)
    check = {"images": len(rows), "cohort": cohort.name, "differences": differences}
    say(
        f"  {header.bits['weights']}-bit weights, 8-bit values: probabilities on average within "
        f"{differences['mean']:.1e} of PyTorch's on {len(rows)} images of {cohort.name}"
    )
    if header.bits["weights"] == 8 and not cpu_has_vnni():
        say("warning: this processor has no VNNI: runtimes may clip sums of 8-bit weights; --weight_bits 7 are safe")
    return model, check, _cost(source, rows, scores)


def _cost(source: Source, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, Any]:
    """AUROC and decisions beside those of the float model.

    Raises:
        BadInput: It is not there, or 8 bits cost more than the config allows.
    """
    config, header, cohort = source.config, source.header, source.cohort
    network, before = load(float_model(config, source.file, header), kind="model")
    images = images_of.pixels(cohort, rows, before.input.size)
    reference = runtimes.probabilities(torch_runtime.in_torch(network, before), images)
    targets, patients = images_of.targets(cohort, rows, header), cohort.groups[rows]
    cost: dict[str, Any] = {
        "name": "trained in 8 bits",
        "bits": header.bits,
        **quantise.drop(targets, reference, scores, patients, header),
        **agreement(targets, reference, scores, header, before),
        **resampled(reference, scores, patients, header, before),
    }
    drop, most = cost["drop"], MAX_DROP if config.max_drop is None else config.max_drop
    say(f"  beside its float model, 95 % intervals by patient: {_said(cost)}")
    enough = drop is not None and drop <= most and cost["agreement"] >= config.min_agreement
    if not enough:
        raise BadInput(
            f"AUROC at most {100 * most:g} percentage points below the float model's, and {config.min_agreement:.1%} "
            "of its decisions",
            _said(cost),
            where=source.file,
            do="train longer in 8 bits (--bits_epochs), or allow it: --max_drop, --min_agreement",
        )
    return cost


def float_model(config: ExportConfig, file: Path, header: Header) -> Path:
    """The float model that an 8-bit one was trained on from: the one that is named, else the one in its run.

    Raises:
        BadInput: It is not there, or is another one.
    """
    parent = next(parent for parent in header.parents if parent["role"] == "float")
    place = Path(config.float_model) if config.float_model else file.parent.parent / parent["path"]
    do = "name the float model it was trained on from: --float_model FILE"
    if not place.is_file():
        raise BadInput("the float model beside it", "nothing there", where=place, do=do)
    if sha256(place) != parent["sha256"]:
        raise BadInput("the float model it was trained on from", "another file", where=place, do=do)
    return place


def _differences(
    expected: NDArray[np.float32], scores: NDArray[np.float32], header: Header, file: Path
) -> dict[str, float]:
    task = header.task or "multilabel"
    apart = np.abs(expected - scores)
    same = decide(expected, header.thresholds, task) == decide(scores, header.thresholds, task)
    differences = {"mean": float(apart.mean()), "largest": float(apart.max()), "same_decisions": float(same.mean())}
    if not (differences["mean"] <= TOLERANCE["mean"] and differences["same_decisions"] >= TOLERANCE["same_decisions"]):
        raise BadInput(
            f"probabilities on average within {TOLERANCE['mean']:g} of PyTorch's, "
            f"and {TOLERANCE['same_decisions']:.0%} of its decisions",
            f"{differences['mean']:.2g} and {differences['same_decisions']:.1%}",
            where=file,
            do="" if cpu_has_vnni() else "train with --weight_bits 7: this processor clips sums of 8-bit weights",
        )
    return differences


def _said(cost: dict[str, Any]) -> str:
    if cost["drop"] is None:
        return "AUROC undefined"
    interval = "" if cost["low"] is None else f" ({100 * cost['low']:+.2f} to {100 * cost['high']:+.2f})"
    return (
        f"AUROC {cost['auroc']:.4f}, loss {100 * cost['drop']:+.2f}{interval} percentage points; "
        f"{cost['agreement']:.2%} ({cost['agreement_low']:.2%} to {cost['agreement_high']:.2%}) of its decisions"
    )
