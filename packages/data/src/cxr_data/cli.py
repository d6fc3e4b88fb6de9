"""``cxr-data``: prepare a data set, look at it, count it."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr_data.command import as_typed, run_command
from cxr_data.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from cxr_data.cohort import Cohort

_DESCRIPTIONS = {
    "prepare": "Read a data set once: check it, split it by patient, store its pixels as a memory map.",
    "merge": "Put together what `cxr-data prepare --shard I/N` prepared in parts.",
    "preview": "Draw a contact sheet of a cohort, class by class.",
    "show": "Count a cohort's images, patients and labels by split.",
    "folds": "Deal the training and validation patients into folds, and write them down in the cohort.",
    "cache": "List the cohorts prepared into the cache, and remove them.",
    "audit": "Look for leaks, duplicates, broken or odd images, shifts and shortcuts; write a page with thumbnails.",
}


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare, and how.

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
        labels: Labels to use, with commas between them; none means those the data set is known for.
        uncertain: What an uncertain label counts as: ones, zeros, ignore (unknown), or by label as in
            "Edema=ones,Cardiomegaly=zeros".
        unmentioned: What a label counts as that the report is silent on.
        votes: What several readers of an image amount to.
        view: Which views are used; auto is frontal where the data set says which images are.
        split: "official" keeps the data set's own split where it has one; "patients" draws a new one by patient,
            "images" one by image, which leaks patients and is there to show what that does to figures.
        test_share: Share of the images for testing where the split is drawn anew.
        bits: Bits a stored pixel: 8, or 16 to keep what deeper files hold (twice the size; networks are fed 8).
        shard: I/N decodes one of N parts only, for N machines with one disk; `cxr-data merge` puts them together.
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
    view: Literal["auto", "frontal", "lateral", "all"] = "auto"
    split: Literal["official", "patients", "images"] = "official"
    test_share: float = 0.2
    bits: Literal[8, 16] = 8
    shard: str = ""

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True)
class MergeConfig:
    """Which shards to put together.

    Attributes:
        shards: Their folders; none means those beside --out that are called as its shards are.
        out: Folder to write; new or empty.
    """

    shards: list[str] = field(default_factory=list)
    out: Path = Path("cohort")


@dataclass(frozen=True)
class PreviewConfig:
    """What to draw.

    Attributes:
        cohort: Prepared cohort, data set folder, or phantom.
        out: PNG file to write; null is COHORT-sheet.png beside a prepared cohort, else in the working folder.
        columns: Images a label.
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
    """What to count.

    Attributes:
        cohort: Prepared cohorts or data set folders (several are counted as one), or phantom.
        size: Edge of the network input that data not yet prepared is prepared for, pixels.
    """

    cohort: list[str] = field(default_factory=list)
    size: int = 224


@dataclass(frozen=True)
class FoldsConfig:
    """Which folds to write into a prepared cohort's folder.

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
    """What to audit. Without --strict the exit code is 0 whatever is found.

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
    """What to do with the cache, $CXR_CACHE or ~/.cache/cxr. A cohort that is removed is prepared again when needed.

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
    "preview": PreviewConfig,
    "show": ShowConfig,
    "folds": FoldsConfig,
    "audit": AuditConfig,
    "cache": CacheConfig,
}
"""Options of each command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr-data`` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments else "--help"
    description = _DESCRIPTIONS.get(name, "")
    program = as_typed("cxr-data")
    prog = f"{program} {name}"
    if name == "prepare":
        return run_command(
            _prepare, PrepareConfig, prog=prog, description=description, argv=arguments, positional="source"
        )
    if name == "merge":
        return run_command(_merge, MergeConfig, prog=prog, description=description, argv=arguments, positional="shards")
    if name == "preview":
        return run_command(
            _preview, PreviewConfig, prog=prog, description=description, argv=arguments, positional="cohort"
        )
    if name == "show":
        return run_command(_show, ShowConfig, prog=prog, description=description, argv=arguments, positional="cohort")
    if name == "folds":
        return run_command(_folds, FoldsConfig, prog=prog, description=description, argv=arguments, positional="cohort")
    if name == "audit":
        return run_command(_audit, AuditConfig, prog=prog, description=description, argv=arguments, positional="cohort")
    if name == "cache":
        return run_command(_cache, CacheConfig, prog=prog, description=description, argv=arguments, positional="names")
    if name in ("-h", "--help"):
        print(f"usage: {program} COMMAND ...\n")
        print("\n".join(f"  {command:<10}{text}" for command, text in _DESCRIPTIONS.items()))
        print(f"\n`{program} COMMAND --help` lists the options; every command works without any, on the phantom.")
        return 0
    print(f"error: {unknown_name('command', name, _DESCRIPTIONS)}", file=sys.stderr)
    return 2


def _prepare(config: PrepareConfig) -> None:
    from cxr_data.preparation import prepare
    from cxr_data.selection import parse_selection
    from cxr_data.shards import parse_shard
    from cxr_data.sizes import pixel_size_for
    from cxr_data.sources import is_phantom

    selection = parse_selection(config.labels, config.uncertain, config.unmentioned, config.votes, config.view)
    source = _only(config.source)
    pixel_size = pixel_size_for(config.size)
    if is_phantom(source):
        if chosen := [
            *selection.options(),
            *(["shard"] if config.shard else []),
            *(["bits"] if config.bits > 8 else []),
        ]:
            raise BadInput("labels, views, depth and shards for a data set", f"{', '.join(chosen)} for a phantom")
        return _say_prepared(_prepare_phantom(source, config, pixel_size), config.out, config.size)
    options: dict[str, Any] = {
        "pixel_size": pixel_size,
        "reader": config.reader,
        "aspect": config.aspect,
        "window": config.window,
        "max_bad": config.max_bad,
        "seed": config.seed,
        "bits": config.bits,
        "selection": selection,
        "resplit": None if config.split == "official" else (config.split, config.test_share),
    }
    if config.shard:
        return _prepare_shard(source, config.out, *parse_shard(config.shard), options)
    _say_prepared(prepare(source, config.out, **options), config.out, config.size)


def _prepare_shard(source: str, out: Path, number: int, count: int, options: dict[str, Any]) -> None:
    from cxr_data.preparation import plan
    from cxr_data.shards import prepare_shard

    folder = prepare_shard(plan(source, **options), out, number, count)
    print(f"wrote {folder}")
    print(f"next, when all {count} are there:  uv run cxr-data merge --out {shlex.quote(str(out))}")


def _merge(config: MergeConfig) -> None:
    from cxr_data.shards import merge, shards_beside

    shards = config.shards or shards_beside(config.out)
    _say_prepared(merge(shards, config.out), config.out)
    print("the shards are no longer needed")


def _say_prepared(cohort: "Cohort", out: Path, size: int | None = None) -> None:
    """Say what was written and what can be done next; every line can be pasted as it is."""
    from cxr_data.suggestions import suggest

    _print_counts(cohort)
    place = shlex.quote(str(out))
    print(f"wrote {out}: {len(cohort)} images of {cohort.pixel_size} x {cohort.pixel_size} pixels")
    print(f"look at it:  uv run cxr-data preview {place}")
    print(f"check it:  uv run cxr-data audit {place}")
    labelled = cohort.has_labels("train", "val")
    command = "finetune" if labelled else "ssl-pretrain"
    if labelled or len(cohort.rows("train")) > 1:
        # finetune takes no less than 32 pixels
        print(suggest(command, data=str(out), run=_run_name(out), size=size and max(size, 32)))


def _prepare_phantom(source: str, config: PrepareConfig, pixel_size: int) -> "Cohort":
    from cxr_data.cohort import is_prepared, load, save
    from cxr_data.sources import open_cohort

    cohort = open_cohort(source, pixel_size=pixel_size, seed=config.seed)
    if is_prepared(config.out) and load(config.out).fingerprint == cohort.fingerprint:
        return cohort
    save(cohort, config.out)
    return cohort


def _preview(config: PreviewConfig) -> None:
    import cv2

    from cxr_data.files import whole_file
    from cxr_data.outlines import outlines
    from cxr_data.preview import contact_sheet, view_sheet
    from cxr_data.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    source = _only(config.cohort)
    cohort = open_cohort(source, pixel_size=pixel_size_for(config.size))
    out = config.out or _beside(source, cohort, "-sheet.png")
    if config.views:
        sheet = view_sheet(cohort, columns=config.columns, tile=config.tile)
    else:
        found = outlines(cohort) if config.outlines else None
        sheet = contact_sheet(cohort, columns=config.columns, tile=config.tile, outlines=found)
    _, png = cv2.imencode(".png", sheet)
    with whole_file(out) as file:
        file.write(png.tobytes())
    print(f"wrote {out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")


def _show(config: ShowConfig) -> None:
    from cxr_data.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    pixel_size = pixel_size_for(config.size)
    _print_counts(open_cohort(config.cohort or "phantom", pixel_size=pixel_size, note_smaller=False))


def _folds(config: FoldsConfig) -> None:
    from cxr_data.cohort import load
    from cxr_data.folds import save_folds, with_fold

    folder = _only(config.cohort)
    cohort = load(folder)
    path = save_folds(cohort, folder, config.folds, seed=config.seed)
    for fold in range(1, config.folds + 1):
        one = with_fold(cohort, fold, config.folds, folder=folder)
        rows = one.rows("val")
        positive = ", ".join(f"{n} {int((one.targets[rows, i] == 1).sum()):,}" for i, n in enumerate(one.labels))
        patients = one.table["patient"].gather(rows).n_unique()
        print(f"fold {fold}: {len(rows):,} images of {patients:,} patients; {positive}")
    print(f"wrote {path}")
    from cxr_data.suggestions import suggest

    fold = f"1of{config.folds}"
    print(suggest("finetune", data=f"{folder}@1/{config.folds}", run=f"{_run_name(Path(folder))}-{fold}"))


def _run_name(folder: Path) -> str:
    """A run called as its cohort, so that it does not meet that of another."""
    return re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-.") or "mine"


def _audit(config: AuditConfig) -> None:
    import polars as pl
    from rich.console import Console

    from cxr_data.auditing import audit, count_table, file_facts, html, totals
    from cxr_data.cohort import is_prepared
    from cxr_data.files import write_json, write_text
    from cxr_data.joined import join
    from cxr_data.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    sources = config.cohort or ["phantom"]
    pixel_size = pixel_size_for(config.size)
    parts = [open_cohort(source, pixel_size=pixel_size, note_smaller=False) for source in sources]
    cohort = join(parts, remove_leaks=False)
    facts = [file_facts(Path(part.source), part.table["image"].to_list()) for part in parts]
    known = [fact for fact in facts if fact is not None]
    found = audit(
        cohort,
        facts=pl.concat(known) if len(known) == len(parts) else None,
        as_downloaded=not any(map(is_prepared, sources)),
    )
    own = sources[0] if len(sources) == 1 else ""
    out = config.out or _beside(own, cohort, "-audit")
    _refuse_other_audit(out, cohort)
    write_json(out / "audit.json", found)
    write_text(out / "audit.html", html(found, cohort))
    Console(highlight=False).print(count_table(found))
    print(totals(found))
    print(f"wrote {out / 'audit.html'} and audit.json")
    if config.strict and found["errors"]:
        raise SystemExit(1)


def _cache(config: CacheConfig) -> None:
    from cxr_data.cache import cache_folder, cached, remove

    entries = cached(config.names, config.unused_days)
    total = sum(entry.size for entry in entries)
    for entry in entries:
        print(f"{entry.size / 1e6:>10,.1f} MB  {entry.unused_days:>6.1f} days unused  {entry.name}")
        if config.clean:
            remove(entry)
    print(
        f"{'removed' if config.clean else 'in all'}: {len(entries)} folders, {total / 1e6:,.1f} MB in {cache_folder()}"
    )
    if entries and not config.clean:
        print("remove them:  uv run cxr-data cache --clean")


def _beside(source: str, cohort: "Cohort", suffix: str) -> Path:
    """Where to write what is about a cohort: beside its folder, or in the working folder under its own name."""
    from cxr_data.cohort import is_prepared

    folder = Path(source).expanduser()
    if source and is_prepared(folder):
        folder = folder.resolve()
        return folder.with_name(folder.name + suffix)
    name = re.sub(r"[^\w.-]+", "-", cohort.name).strip("-.") or "cohort"
    return Path(f"{name}-{cohort.fingerprint[:8]}{suffix}")


def _refuse_other_audit(out: Path, cohort: "Cohort") -> None:
    """Refuse to write over the audit of another cohort."""
    try:
        there = json.loads((out / "audit.json").read_text("utf-8"))["cohort"]
        name, fingerprint = str(there["name"]), there["fingerprint"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput("a folder without another audit", f"one that cannot be read: {error}", where=out) from error
    if fingerprint != cohort.fingerprint and name != cohort.name:
        raise BadInput("a new folder, or an audit of this cohort", f"an audit of {name}", where=out, do="choose --out")


def _only(names: list[str]) -> str:
    if len(names) > 1:
        raise BadInput("one data set", " ".join(names), do="give one folder; options need their -- in front")
    return names[0] if names else "phantom"


def _print_counts(cohort: "Cohort") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(_count_table(cohort))
    kind = cohort.task or "unlabelled"
    print(f"{kind}, {cohort.pixel_size} x {cohort.pixel_size} pixels, fingerprint {cohort.fingerprint[:12]}")
    for note in cohort.notes:
        print(f"note: {note}")
    for file, reason in cohort.broken[:5]:
        print(f"broken: {file}: {reason}")
    if len(cohort.broken) > 5:
        print(f"broken: and {len(cohort.broken) - 5} more, named in cohort.json")


def _count_table(cohort: "Cohort") -> "Table":
    """Images, patients and positives of each label, by split and in all."""
    from rich.markup import escape
    from rich.table import Table

    splits = cohort.describe()["splits"]
    table = Table(title=escape(cohort.name), title_justify="left")
    table.add_column("")
    for name in (*splits, "all"):
        table.add_column(name, justify="right")

    def add(title: str, counts: list[int], total: int) -> None:
        table.add_row(escape(title), *(f"{count:,}" for count in (*counts, total)))

    images = [split["images"] for split in splits.values()]
    add("images", images, sum(images))
    add("patients", [split["patients"] for split in splits.values()], cohort.table["patient"].n_unique())
    for label in cohort.labels:
        positive = [split["positive"][label] for split in splits.values()]
        add(label, positive, sum(positive))
        unknown = [split["unknown"][label] for split in splits.values()]
        if any(unknown):
            add(f"  {label} unknown", unknown, sum(unknown))
    return table


if __name__ == "__main__":
    sys.exit(main())
