"""``predict``: classify image files, one row of the table per image."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.cohorts.prefetch import prefetch
from cxr_data.command_line.terminal import counting, say
from cxr_data.errors import BadInput
from cxr_data.file_names import file_names
from cxr_data.images.header import BrokenImage
from cxr_data.models.decisions import unfitted
from cxr_data.preparation.image_files import find_images, spelt
from cxr_deploy import demo
from cxr_deploy.config import PredictConfig
from cxr_deploy.predict import overlay, tables, unusual
from cxr_deploy.predict.classifier import Classifier, find_model, heat, load
from cxr_deploy.predict.tables import Row

SPOKEN = 20
"""Images up to which each answer is also said on the terminal."""

MEASURED_FROM = 500
"""Images from which the search for the fastest runtime takes less time than it saves."""


@dataclass(frozen=True)
class Picture:
    """A file on its way to the network: its pixels (P, P), or the reason there are none."""

    name: str
    pixels: NDArray[np.uint8] | None
    warnings: Sequence[str] = ()
    error: str | None = None


def predict(config: PredictConfig) -> None:
    """Classify files and write the table and the pictures that are asked for.

    Raises:
        BadInput: No model, no image, no image that can be read, heat maps of a network without, or a place that
            cannot be written to.
    """
    given = [str(demo.MODEL), *config.paths] if config.demo else config.paths
    if len(given) < 2:
        raise BadInput(
            "images or folders" if config.demo else "a model, then images or folders",
            f"{len(config.paths)} arguments",
            do=f"for example: predict {'--demo' if config.demo else 'model.onnx'} radiographs/ --out answers.csv",
        )
    model = find_model(given[0])
    files = list_files(given[1:])
    if len(files) > SPOKEN and not (config.out or config.heatmaps):  # else nothing would be told of the answers
        expected = f"--out for the answers of more than {SPOKEN} images"
        raise BadInput(expected, f"none, and {len(files):,} images", do="for example: --out answers.csv")
    many = len(files) >= MEASURED_FROM
    classifier = load(model, runtime=config.runtime, threads=config.threads, device=config.device, measure=many)
    refused: list[Row] = []
    warned = answered = drawn = 0
    stems = file_names((name for name, _ in files), longest=150) if config.heatmaps else {}
    endings = list(file_names(classifier.labels).values())
    with ExitStack() as stack:
        write = stack.enter_context(tables.writing(Path(config.out), classifier.labels)) if config.out else None
        advance = stack.enter_context(
            counting(f"predict: {_plural(len(files), 'image')} by {classifier.path}", len(files))
        )
        for row, maps, pixels in _rows(classifier, files, config.batch_size):
            if write is not None:
                write(row)
            if row.error is not None:
                refused.append(row)
            else:
                answered += 1
                warned += bool(row.warnings)
                if len(files) <= SPOKEN:
                    say(_line(row, classifier.labels))
                if config.heatmaps:
                    for label, picture in _pictures(row, maps, pixels, classifier, config.heatmaps_of == "all"):
                        overlay.write(Path(config.heatmaps, f"{stems[row.file]}.{endings[label]}.png"), picture)
                        drawn += 1
            advance(1)
        if not answered:
            raise _none_usable(refused)
    header = classifier.header
    without = unfitted(header.thresholds, header.labels, header.task or "multilabel")
    _report(config, refused, warned, answered, without)
    for place, written in ((config.out, True), (config.heatmaps, drawn)):
        if place:
            say(f"wrote {place}" if written else "no heat map: no label was called (--heatmaps_of all draws them too)")
    say(demo.NOTICE if config.demo else "for research only: not a medical device")


def list_files(paths: Sequence[str]) -> list[tuple[str, Path]]:
    """Every image that is asked for, with its name in the table.

    Args:
        paths: Files, and folders whose images are taken at any depth.

    Returns:
        (name, file): a file's name is its path as given, with the folder it was found in before it.

    Raises:
        BadInput: A path that is not there, or a folder without images.
    """
    files: list[tuple[str, Path]] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            images = find_images(path.resolve())
            files += [(f"{given.rstrip('/')}/{name}", path / name) for name in images.paths]
            for note in images.notes:
                say(f"{given}: {note}")
        elif path.is_file():
            files.append((given, path))
        else:
            there = "a pipe or a device" if path.exists() else "nothing there"
            raise BadInput("an image or a folder of images", there, where=given, do="check the path")
    return list(dict.fromkeys((spelt(name), path) for name, path in files))


def _rows(
    classifier: Classifier, files: Sequence[tuple[str, Path]], batch_size: int
) -> Iterator[tuple[Row, NDArray[np.float32] | None, NDArray[np.uint8] | None]]:
    """Row, maps (L, h, w) and pixels (P, P) of every file in order; batches are decoded ahead on threads."""

    def decode(start: int) -> list[Picture]:
        return [_read(classifier, name, path) for name, path in files[start : start + batch_size]]

    for pictures in prefetch(decode, range(0, len(files), batch_size)):
        usable = [picture.pixels for picture in pictures if picture.pixels is not None]
        answers = classifier.answers(np.stack(usable)) if usable else None
        at = 0
        for picture in pictures:
            if picture.pixels is None or answers is None:
                yield Row(picture.name, error=picture.error), None, None
                continue
            p, called = answers.probabilities[at], answers.decisions[at]
            maps = None if answers.maps is None else answers.maps[at]
            yield Row(picture.name, p.tolist(), called.tolist(), picture.warnings), maps, picture.pixels
            at += 1


def _read(classifier: Classifier, name: str, path: Path) -> Picture:
    try:
        pixels = classifier.read(path)
        return Picture(name, pixels, unusual.warnings(path, pixels))
    except BrokenImage as error:
        return Picture(name, None, error=str(error))


def _pictures(
    row: Row, maps: Any, pixels: Any, classifier: Classifier, uncalled: bool
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Each shown label and its picture."""
    if maps is None:
        raise BadInput(
            "a network with heat maps",
            f"{classifier.header.architecture}, which does not end in global average pooling and a linear layer",
            where=classifier.path,
            do="leave --heatmaps out",
        )
    assert row.decisions is not None
    assert row.probabilities is not None
    heats = heat(maps, max(overlay.EDGE, pixels.shape[0]))
    called, task = np.array(row.decisions), classifier.header.task or "multilabel"
    for label in overlay.shown_labels(called, task, uncalled=uncalled):
        words = "called" if called[label] else "not called"
        answer = f"{classifier.labels[label]}: probability {row.probabilities[label]:.2f}, {words}"
        yield label, overlay.with_legend(overlay.draw(pixels, heats[label]), answer, maps.shape[1:])


def _line(row: Row, labels: Sequence[str]) -> str:
    answers = zip(labels, row.probabilities or (), row.decisions or (), strict=True)
    said = "  ".join(f"{label} {p:.3f}{' *' if called else ''}" for label, p, called in answers)
    return f"  {row.file}: {said}" + (f"  (warning: {'; '.join(row.warnings)})" if row.warnings else "")


def _report(config: PredictConfig, refused: Sequence[Row], warned: int, answered: int, without: Sequence[str]) -> None:
    if answered <= SPOKEN:
        say("  * called at the threshold stored in the file")
    if without:
        say(f"no threshold was fitted for {', '.join(without)}: 0.5 decides")
    if warned:
        say(f"{_plural(warned, 'image')} unlike the radiographs that classifiers are trained on: see the warnings")
    if refused:
        say(f"{_plural(len(refused), 'file')} could not be read:")
        for row in refused[:SPOKEN]:
            say(f"  {row.file}: {row.error}")
        if len(refused) > SPOKEN:
            say(f"  and {len(refused) - SPOKEN} more" + (f", all listed in {config.out}" if config.out else ""))


def _none_usable(refused: Sequence[Row]) -> BadInput:
    first = refused[0]
    more = f", nor any of {len(refused) - 1} more" if len(refused) > 1 else ""
    return BadInput(
        "an image (JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000 or DICOM)",
        f"{first.error}{more}",
        where=first.file,
        do="check the files",
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
