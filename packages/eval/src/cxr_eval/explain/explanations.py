"""All that is said about a comparison's explanations: the gallery, and scores of the maps themselves.

Nothing is chosen by its result: the method is the caller's, the level follows from the input size, and the images
that are scored are drawn by seed among those with the label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_common.jackknife import interval, spread
from cxr_common.models.structure import input_channels
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data import pixel_size_for
from cxr_data.augment import whole
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.terminal import say
from cxr_data.errors import require_known
from cxr_data.models.header import Header
from cxr_data.preparation.outlines import boxes_of
from cxr_eval import entries
from cxr_eval.explain import agreement, faithfulness, localisation, regions
from cxr_eval.explain import gallery as pictures
from cxr_eval.explain.activations import default_level, grid
from cxr_eval.explain.cams import finished, is_empty
from cxr_eval.explain.methods import METHODS
from cxr_eval.models import Match
from cxr_eval.predictions import Answers
from cxr_eval.statistics.bootstrap import patient_numbers

TOLERANCE = 0.03
"""By how much the pointing game may miss, as a share of the edge: 15 pixels in photographs of about 500."""
BATCH = 32
STEPS = 20


@dataclass(frozen=True)
class Subject:
    """A model that is explained.

    Attributes:
        name: Its name in the report.
        network: The network.
        header: What its file says of it.
        cohort: The cohort, stored at the pixel size that suits the network.
        method: Name in ``METHODS``.
        level: Feature map that explains.
    """

    name: str
    network: GrayNetwork
    header: Header
    cohort: Cohort
    method: str
    level: str

    @property
    def size(self) -> int:
        """Edge of the input."""
        return self.header.input.size


@dataclass(frozen=True)
class Pairs:
    """Images of which one label is explained each.

    Attributes:
        image: (M,) numbers within the split.
        row: (M,) rows of the cohort.
        label: M names.
    """

    image: NDArray[np.int64]
    row: NDArray[np.int64]
    label: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.row)


def explain(
    method: str,
    networks: Mapping[str, tuple[nn.Module, int]],
    headers: Mapping[str, Header],
    cohorts: Mapping[int, Cohort],
    given: Mapping[str, Answers],
    match: Match,
    targets: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    cases: int = 2,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Explain every model's answers on the images of one split.

    Args:
        method: Name in ``METHODS``.
        networks: Network (a GrayNetwork) and input edge by model name, the reference first.
        headers: Headers by model name.
        cohorts: The cohort by stored pixel size, as the models need it.
        given: Answers by model name; the reference's choose the cases of the gallery.
        match: Labels of the comparison.
        targets: (N, L) in {0, 1, NaN}.
        rows: (N,) rows of the split.
        cases: Most of each sort in the gallery: found, called in error, missed.
        resamples: 0 gives no intervals.
        seed: Seed of samples and random weights.

    Returns:
        - ``method``: its title; ``levels``: the level by model name;
        - ``labels``: a list of ``{"label", "cases": [{"png": bytes, "caption", "tiles" (names above it), "kind":
          "right" | "wrong"}]}``;
        - ``scores``: a list of ``{"model", "name", "label" (None: all), "value", "low", "high", "images"}``;
          value is None, with a ``reason``, where it does not exist;
        - ``curves``: model -> "deletion" and "insertion" -> mean probabilities, evenly spaced from no pixel
          changed to all.

    Raises:
        BadInput: Unknown method, or a network that shows no inner features.
    """
    require_known("explanation method", method, METHODS)
    subjects = []
    for name, (network, size) in networks.items():
        if not isinstance(network, GrayNetwork):
            raise TypeError(f"{name} is a {type(network).__name__}, not a GrayNetwork")
        level = default_level(network, size)
        subjects.append(Subject(name, network, headers[name], cohorts[pixel_size_for(size)], method, level))
    cohort = subjects[0].cohort
    boxes = boxes_of(cohort)
    positive = targets == 1
    chosen = METHODS[method]
    with_lesion = _draw(positive & regions.known(cohort, boxes, match.labels)[rows], rows, match, chosen.located, seed)
    pairs = _draw(positive, rows, match, chosen.tested, seed)
    mean = Mean(patient_numbers(cohort.groups[rows]), intervals=resamples > 0)

    scores: list[dict[str, Any]] = []
    curves = {}
    maps: dict[str, Tensor] = {}
    for subject in subjects:
        say(f"evaluate: {chosen.title} of {subject.name}, {subject.level}")
        scores += _localised(subject, with_lesion, boxes, mean)
        maps[subject.name] = subject_maps(subject, pairs.row, pairs.label)
        scores.append(mean.score(subject.name, "Empty maps", is_empty(maps[subject.name]).numpy(), pairs))
        rows_of_model, curves[subject.name] = _faithful(subject, pairs, maps[subject.name], match.task, mean, seed)
        scores += rows_of_model
        scores += _sane(subject, pairs, maps[subject.name], mean, seed)
    reference = subjects[0].name
    for subject in subjects[1:]:
        scores += _agreeing(subject.name, reference, maps, pairs, mean)
    return {
        "method": chosen.title,
        "levels": {subject.name: subject.level for subject in subjects},
        "labels": gallery(subjects, given, match, targets, rows, cases=cases),
        "scores": scores,
        "curves": curves,
    }


def gallery(
    subjects: Sequence[Subject],
    given: Mapping[str, Answers],
    match: Match,
    targets: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    cases: int = 2,
) -> list[dict[str, Any]]:
    """The most confident correct and wrong answers of the first model, with every model's map.

    Args:
        subjects: The models, the reference first.
        given: Answers by model name.
        match: Labels of the comparison.
        targets: (N, L) in {0, 1, NaN}.
        rows: (N,) rows of the split.
        cases: Most of each sort.

    Returns:
        ``labels`` of :func:`explain`.
    """
    first = subjects[0]
    boxes = boxes_of(first.cohort)
    answers = {subject.name: given[subject.name] for subject in subjects}
    pages = []
    for column, label in enumerate(match.labels):
        chosen = pictures.surest(targets, answers[first.name], column, cases)
        at = rows[[image for image, _, _ in chosen]] if chosen else rows[:0]
        names = (label,) * len(at)
        maps = [subject_maps(subject, at, names).numpy() for subject in subjects]
        # A lesion where the label is absent would be another reader's opinion: none is drawn.
        lesions = regions.masks(first.cohort, boxes, at, names, first.cohort.pixel_size)
        entries = []
        for i, (image, kind, words) in enumerate(chosen):
            lesion = lesions[i] if targets[image, column] == 1 else np.zeros_like(lesions[i])
            shown = [of_model[i] for of_model in maps]
            blank = [name for name, of_model in zip(answers, shown, strict=True) if not of_model.any()]
            text = pictures.caption(words, list(answers), blank, outlined=bool(lesion.any()), row=image)
            picture = pictures.strip(first.cohort.pixels[at[i]], shown, lesion)
            tiles = ["radiograph", *(f"{name} {of.probabilities[image, column]:.2f}" for name, of in answers.items())]
            entries.append({"png": picture, "caption": text, "kind": kind, "tiles": tiles})
        pages.append({"label": label, "cases": entries})
    return pages


def subject_maps(subject: Subject, rows: NDArray[np.int64], labels: Sequence[str]) -> Tensor:
    """Maps of one label in each of some images: (M,) rows and M names to (M, S, S) float32 in [0, 1], on the CPU."""
    maps = [torch.zeros(0, subject.size, subject.size)]
    for pixels, label in _batches(subject, rows, labels):
        maps.append(METHODS[subject.method](subject.network, pixels, label, subject.level).cpu())
    return torch.cat(maps)


class Mean:
    """Means over pairs of image and label, with intervals by leaving out each patient (``cxr_common.jackknife``).

    Args:
        patient: (N,) patient number of each image of the split.
        intervals: Whether to give intervals.
    """

    def __init__(self, patient: NDArray[np.int64], *, intervals: bool = True):
        self.patient, self.intervals = patient, intervals

    def score(self, model: str, name: str, values: NDArray, pairs: Pairs, label: str | None = None) -> dict[str, Any]:
        """An entry of ``scores``: the mean of (M,) values, NaN left out, over all pairs or those of one label."""
        use = ~np.isnan(values.astype(np.float64))
        if label is not None:
            use &= np.array([own == label for own in pairs.label], bool)
        entry = {"model": model, "name": name, "label": label, "images": int(use.sum())}
        if not use.any():
            return {**entry, "value": None, "low": None, "high": None, "reason": "no image in which it is defined"}
        known = values[use].astype(np.float64)
        entry |= {"value": float(known.mean()), "low": None, "high": None}
        if not self.intervals:
            return entry
        number = patient_numbers(self.patient[pairs.image[use]])
        images, total = np.bincount(number), np.bincount(number, known)
        if len(images) < entries.LEAST_OF_CLASS:
            return {**entry, "interval_reason": f"{len(images)} patients: fewer than {entries.LEAST_OF_CLASS}"}
        value = entry["value"]
        inside = bool(np.all((known >= 0) & (known <= 1)))
        about = spread(value, (total.sum() - total) / (images.sum() - images))
        low, high = interval(value, about, "proportion" if inside else "identity", entries.LEVEL)
        if np.isnan(low):
            return {**entry, "interval_reason": entries.ALL_EQUAL}
        return {**entry, "low": low, "high": high}


def _localised(subject: Subject, pairs: Pairs, boxes: Any, mean: Mean) -> list[dict[str, Any]]:
    """Pointing game, energy and IoU against lesions, beside the middle of the image and a random point."""
    if not len(pairs):
        return []
    maps = subject_maps(subject, pairs.row, pairs.label)
    masks = torch.from_numpy(regions.masks(subject.cohort, boxes, pairs.row, pairs.label, subject.size))
    tolerance = round(TOLERANCE * subject.size)
    hits, centre = localisation.pointing(maps, masks, tolerance), localisation.centre_pointing(masks, tolerance)
    chance, overlap = localisation.random_pointing(masks, tolerance), localisation.iou(maps, masks)
    values = {
        "Pointing game": hits,
        "Pointing game of the image centre": centre,
        "Pointing game of a random point": chance,
        "IoU of map and lesion": overlap,
    }
    everywhere = {
        **values,
        "Pointing game above the image centre": hits - centre,
        "Pointing game above a random point": hits - chance,
        "Energy in the lesion": localisation.energy(maps, masks),
        "Energy of an even map": localisation.random_pointing(masks),
    }
    entries = [mean.score(subject.name, name, value, pairs) for name, value in everywhere.items()]
    for label in dict.fromkeys(pairs.label):
        entries += [mean.score(subject.name, name, value, pairs, label) for name, value in values.items()]
    return entries


def _faithful(
    subject: Subject, pairs: Pairs, maps: Tensor, task: str, mean: Mean, seed: int
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Areas of deletion and insertion, by the maps and by random maps of as many cells.

    Random pixels would be no fair rival: taken one by one they leave noise, which no network was trained on.
    """
    if not len(pairs):
        return [], {}
    entries, curves = [], {}
    cells = grid(subject.network, subject.size, subject.level)
    chance = torch.rand((len(pairs), cells, cells), generator=torch.Generator().manual_seed(seed))
    for kind in faithfulness.KINDS:
        for order, suffix in ((maps, ""), (finished(chance, subject.size), " of a random map")):
            rows = []
            for start, (pixels, label) in enumerate(_batches(subject, pairs.row, pairs.label)):
                part = order[start * BATCH : (start + 1) * BATCH]
                options: dict[str, Any] = {"task": task, "calibration": subject.header.calibration}
                rows.append(
                    faithfulness.curve(subject.network, pixels, part, label, kind, steps=STEPS, seed=seed, **options)
                )
            drawn = np.concatenate(rows)
            title = f"{kind.capitalize()} area{suffix}"
            entries.append(mean.score(subject.name, title, faithfulness.area(drawn), pairs))
            if not suffix:
                curves[kind] = drawn.mean(axis=0).tolist()
    return entries, curves


def _sane(subject: Subject, pairs: Pairs, maps: Tensor, mean: Mean, seed: int) -> list[dict[str, Any]]:
    """Similarity of the maps to those of the network after its weights are drawn anew, from the head down."""
    header = subject.header
    channels = input_channels(subject.network.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build(header.architecture, len(header.labels), channels=channels, size=subject.size)
    entries = []
    for level, lost in agreement.cascade(subject.network, fresh):
        without = Subject(subject.name, lost, header, subject.cohort, subject.method, subject.level)
        after = subject_maps(without, pairs.row, pairs.label)
        name = f"Similarity after random weights, head{'' if level == agreement.HEAD else f' to {level}'}"
        entries.append(mean.score(subject.name, name, agreement.spearman(maps, after), pairs))
    return entries


def _agreeing(name: str, reference: str, maps: Mapping[str, Tensor], pairs: Pairs, mean: Mean) -> list[dict[str, Any]]:
    """Similarity of a model's maps to the reference's, at the smaller of the two input sizes."""
    size = min(maps[name].shape[-1], maps[reference].shape[-1])
    ours, theirs = (_shrunk(maps[model], size) for model in (name, reference))
    similarity = {"Spearman": agreement.spearman, "SSIM": agreement.ssim}
    return [
        mean.score(name, f"Agreement with {reference}, {title}", measure(ours, theirs), pairs)
        for title, measure in similarity.items()
    ]


def _shrunk(maps: Tensor, size: int) -> Tensor:
    if maps.shape[-1] == size:
        return maps
    return nn.functional.interpolate(maps[:, None], (size, size), mode="area")[:, 0]


def _draw(wanted: NDArray[np.bool_], rows: NDArray[np.int64], match: Match, most: int, seed: int) -> Pairs:
    """At most so many images of each label among those wanted (N, L), drawn by seed."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for column, label in enumerate(match.labels):
        drawn = rng.permutation(np.flatnonzero(wanted[:, column]))[:most]
        images.append(np.sort(drawn))
        labels += [label] * len(drawn)
    image = np.concatenate(images).astype(np.int64)
    return Pairs(image, rows[image], tuple(labels))


def _batches(subject: Subject, rows: NDArray[np.int64], labels: Sequence[str]):
    """Pixels (B, 1, S, S) uint8 and logits' indices (B,) of BATCH pairs at a time."""
    column = torch.tensor([subject.header.labels.index(label) for label in labels], dtype=torch.int64)
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        images = whole(subject.cohort.pixels[rows[part]], subject.size)
        yield torch.from_numpy(images)[:, None], column[part]
