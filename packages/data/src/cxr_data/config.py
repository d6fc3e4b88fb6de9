"""Options of the commands of ``cxr-data``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxr_data.errors import BadInput


@dataclass(frozen=True)
class PrepareConfig:
    """Read a data set once: check it, split it by patient, store its pixels as a memory map.

    Attributes:
        source: Folder of the data set as it was downloaded, or phantom, phantom:500, phantom-multiclass.
        size: Edge of the network input it is for, pixels; images are stored a little larger, with space
            for crops.
        out: Folder to write; new or empty.
        reader: How to read the folder: auto, kermany, chestxray14, chexpert, padchest, mimic_cxr_jpg, vindr_cxr,
            rsna, covid_radiography, covidx, medmnist, manifest (a table with a column of files), folder (a subfolder a
            class), unlabelled.
        aspect: How images that are not square become square.
        window: Which gray values become black and white.
        max_bad: Share of broken images that is put up with; any share above 0 allows at least one.
        seed: Fixes the split where the data set brings none.
        labels: Labels to use, with commas between them; none means those the data set is known for. NEW=OLD gives a
            label another name, NEW=A|B is present where A or B is, and "NEW=No Finding" where none of the data set's
            labels is.
        task: multiclass keeps the images with one of the labels and none of the others.
        uncertain: What an uncertain label counts as: ones, zeros, ignore (unknown), or by label as in
            "Edema=ones,Cardiomegaly=zeros".
        unmentioned: What a label counts as that the report is silent on.
        votes: What several readers of an image amount to.
        projection: Which projections are used; auto is frontal where the data set says which images are.
        split: "official" keeps the data set's own split where it has one; "patients" draws a new one by patient,
            "images" one by image, which leaks patients and is there to show what that does to figures.
        test_share: Share of the images for testing where the split is drawn anew.
        bits: Bits per stored pixel: 8, or 16 to keep what deeper files hold (twice the size; networks are fed 8).
        shard: I/N decodes one of N parts only, for N machines with one disk; `cxr-data merge` puts them together.
        dask: Address of a Dask scheduler, as in tcp://HOST:8786, whose workers decode; data set and --out lie on a disk
            that all of them have at the same place.
    """

    source: list[str] = field(default_factory=list)
    size: int = 224
    out: Path = Path("cohort")
    reader: str = "auto"
    aspect: Literal["squash", "crop", "pad"] = "squash"
    window: Literal["voi", "full", "percentile"] = "voi"
    max_bad: float = 0.01
    seed: int = 0
    labels: list[str] | str = ""
    uncertain: dict[str, str] | str = "ignore"
    unmentioned: Literal["zeros", "ignore"] = "zeros"
    votes: Literal["majority", "union"] = "majority"
    projection: Literal["auto", "frontal", "lateral", "all"] = "auto"
    task: Literal["auto", "multilabel", "multiclass"] = "auto"
    split: Literal["official", "patients", "images"] = "official"
    test_share: float = 0.2
    bits: Literal[8, 16] = 8
    shard: str = ""
    dask: str = ""

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True)
class MergeConfig:
    """Put together what `cxr-data prepare --shard I/N` prepared in parts.

    Attributes:
        shards: Their folders; none means those beside --out that are called as its shards are.
        out: Folder to write; new or empty.
    """

    shards: list[str] = field(default_factory=list)
    out: Path = Path("cohort")


@dataclass(frozen=True)
class UploadConfig:
    """Write a prepared cohort in chunks to s3://, gs:// or another address, from where training reads it.

    Attributes:
        cohort: Prepared cohort, data set folder, or phantom.
        to: Address to write to: s3://BUCKET/NAME, gs://BUCKET/NAME, file:///FOLDER, or any other that fsspec knows.
        chunk_mb: Megabytes of pixels of a chunk.
        size: Edge of the network input that data not yet prepared is prepared for, pixels.
    """

    cohort: list[str] = field(default_factory=list)
    to: str = ""
    chunk_mb: float = 64.0
    size: int = 224

    def __post_init__(self) -> None:
        if not 0 < self.chunk_mb <= 4096:
            raise BadInput("chunks of more than 0 and at most 4096 megabytes", str(self.chunk_mb), where="--chunk_mb")


@dataclass(frozen=True)
class PreviewConfig:
    """Draw a contact sheet of a cohort, class by class.

    Attributes:
        cohort: Prepared cohort, data set folder, or phantom.
        out: PNG file to write; null is COHORT-sheet.png beside a prepared cohort, else in the working folder.
        columns: Images per label.
        tile: Edge of an image on the sheet, pixels.
        outlines: Whether boxes and masks are drawn where the data set has them.
        views: Whether one image of each label is shown as training augments it, instead of many as they are.
        size: Edge of the network input that data not yet prepared is prepared for, pixels.
    """

    cohort: list[str] = field(default_factory=list)
    out: Path | None = None
    columns: int = 8
    tile: int = 160
    outlines: bool = True
    views: bool = False
    size: int = 224

    def __post_init__(self) -> None:
        if not (1 + self.views <= self.columns <= 64 and 32 <= self.tile <= 1024):
            raise BadInput("1 to 64 columns of 32 to 1024 pixels", f"{self.columns} of {self.tile}")


@dataclass(frozen=True)
class ShowConfig:
    """Count a cohort's images, patients and labels by split.

    Attributes:
        cohort: Prepared cohorts or data set folders (several are counted as one), or phantom.
        size: Edge of the network input that data not yet prepared is prepared for, pixels.
    """

    cohort: list[str] = field(default_factory=list)
    size: int = 224


@dataclass(frozen=True)
class FoldsConfig:
    """Deal the training and validation patients into folds, and write them down in the cohort.

    Attributes:
        cohort: Prepared cohort.
        folds: How many.
        seed: Fixes them; the same seed deals the same folds.
    """

    cohort: list[str] = field(default_factory=list)
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True)
class AuditConfig:
    """Look for leaks, duplicates, broken or odd images, shifts and shortcuts; write a page with thumbnails.

    Without --strict the exit code is 0 whatever is found.

    Attributes:
        cohort: Prepared cohorts or data set folders (several are audited as one), or phantom.
        out: Folder for audit.json and audit.html; null is COHORT-audit beside a prepared cohort, else
            NAME-FINGERPRINT-audit in the working folder.
        strict: Whether errors found (not warnings) end in exit code 1.
        size: Edge of the network input that data not yet prepared is prepared for, pixels.
    """

    cohort: list[str] = field(default_factory=list)
    out: Path | None = None
    strict: bool = False
    size: int = 224


@dataclass(frozen=True)
class CacheConfig:
    """List the cohorts prepared into the cache, and remove them.

    The cache is $CXR_CACHE or ~/.cache/cxr. A cohort that is removed is prepared again when needed.

    Attributes:
        names: Cohorts in question, as listed or with * and ?; none means all.
        clean: Whether they are removed instead of listed.
        unused_days: Only cohorts not opened for so many days.
    """

    names: list[str] = field(default_factory=list)
    clean: bool = False
    unused_days: float = 0.0


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise BadInput("a seed of at least 0", str(seed), where="--seed")


CONFIGS = {
    "prepare": PrepareConfig,
    "merge": MergeConfig,
    "upload": UploadConfig,
    "preview": PreviewConfig,
    "show": ShowConfig,
    "folds": FoldsConfig,
    "cache": CacheConfig,
    "audit": AuditConfig,
}
"""Options of each command."""
