"""``cxr-data``: prepare a data set, look at it, count it."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.command_line.command import as_typed, run_command, until_reader_leaves
from cxr_data.command_line.help import paragraphs
from cxr_data.config import (
    CONFIGS,
    AuditConfig,
    CacheConfig,
    FoldsConfig,
    MergeConfig,
    PrepareConfig,
    PreviewConfig,
    ShowConfig,
    UploadConfig,
)
from cxr_data.errors import BadInput, require, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from cxr_data.cohorts.cohort import Cohort


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr-data`` and return its exit code."""
    return until_reader_leaves(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, program = arguments.pop(0) if arguments else "--help", as_typed("cxr-data")
    if name in CONFIGS:
        run, positional = _COMMANDS[name]
        return run_command(run, CONFIGS[name], prog=f"{program} {name}", argv=arguments, positional=positional)
    if name in ("-h", "--help"):
        print(f"usage: {program} COMMAND ...\n")
        print("\n".join(f"  {name:<10}{paragraphs(config)[0]}" for name, config in CONFIGS.items()))
        print(f"\n`{program} COMMAND --help` lists the options; every command works without any, on the phantom.")
        return 0
    print(f"error: {unknown_name('command', name, CONFIGS)}", file=sys.stderr)
    return 2


def _prepare(config: PrepareConfig) -> None:
    from cxr_data.preparation.prepare import prepare
    from cxr_data.preparation.selection import parse_selection
    from cxr_data.preparation.shards import parse_shard
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.sources import is_phantom

    selection = parse_selection(
        config.labels, config.uncertain, config.unmentioned, config.votes, config.projection, config.task
    )
    source = _only(config.source)
    pixel_size = pixel_size_for(config.size)
    if is_phantom(source):
        if chosen := [
            *selection.options(),
            *(["shard"] if config.shard else []),
            *(["dask"] if config.dask else []),
            *(["bits"] if config.bits > 8 else []),
        ]:
            raise BadInput(
                "labels, projection, depth, shards and a cluster for a data set", f"{', '.join(chosen)} for a phantom"
            )
        return _say_prepared(_prepare_phantom(source, config, pixel_size), config.out, config.size)
    options: dict[str, Any] = {
        "pixel_size": pixel_size,
        "size": config.size,
        "reader": config.reader,
        "aspect": config.aspect,
        "window": config.window,
        "max_bad": config.max_bad,
        "seed": config.seed,
        "bits": config.bits,
        "selection": selection,
        "resplit": None if config.split == "official" else (config.split, config.test_share),
    }
    if config.shard and config.dask:
        raise BadInput("--shard or --dask", "both", do="--dask divides the data set by itself")
    if config.dask:
        from cxr_data.preparation.cluster import prepare_on_dask

        cohort = prepare_on_dask(source, config.out, config.dask, **options)
        return _say_prepared(cohort, config.out, config.size)
    if config.shard:
        return _prepare_shard(source, config.out, *parse_shard(config.shard), options)
    _say_prepared(prepare(source, config.out, **options), config.out, config.size)


def _prepare_shard(source: str, out: Path, number: int, count: int, options: dict[str, Any]) -> None:
    from cxr_data.command_line.suggestions import typed
    from cxr_data.preparation.prepare import plan
    from cxr_data.preparation.shards import prepare_shard

    folder = prepare_shard(plan(source, **options), out, number, count)
    print(f"wrote {folder}")
    print(f"next, when all {count} are there:  {typed('cxr-data', 'merge', out=out)}")


def _merge(config: MergeConfig) -> None:
    from cxr_data.preparation.shards import merge, shards_beside

    shards = config.shards or shards_beside(config.out)
    _say_prepared(merge(shards, config.out), config.out)
    print("the shards are no longer needed")


def _say_prepared(cohort: "Cohort", out: Path, size: int | None = None) -> None:
    """Say what was written and what can be done next; every line can be pasted as it is."""
    from cxr_data.command_line.suggestions import suggest, typed

    _print_counts(cohort)
    why = f", for networks that take {size}: the rest is space for crops" if size and size < cohort.pixel_size else ""
    print(f"wrote {out}: {len(cohort)} images of {cohort.pixel_size} x {cohort.pixel_size} pixels{why}")
    print(f"look at it:  {typed('cxr-data', 'preview', out)}")
    print(f"check it:  {typed('cxr-data', 'audit', out)}")
    labelled = cohort.has_labels("train", "val")
    command = "finetune" if labelled else "ssl-pretrain"
    if labelled or len(cohort.rows("train")) > 1:
        # finetune takes no less than 32 pixels
        print(suggest(command, data=str(out), run=_run_name(out), size=size and max(size, 32)))


def _prepare_phantom(source: str, config: PrepareConfig, pixel_size: int) -> "Cohort":
    from cxr_data.cohorts.cohort import is_prepared, load, note_size, save
    from cxr_data.sources import open_cohort

    cohort = open_cohort(source, pixel_size=pixel_size, seed=config.seed)
    if not (is_prepared(config.out) and load(config.out).fingerprint == cohort.fingerprint):
        save(cohort, config.out)
    note_size(config.out, config.size)
    return cohort


def _upload(config: UploadConfig) -> None:
    from cxr_data.cohorts.chunks import about_chunks, chunks_at, upload
    from cxr_data.cohorts.cohort import about, is_prepared, load
    from cxr_data.cohorts.remote import is_url
    from cxr_data.command_line.suggestions import suggest
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    require(is_url(config.to), "an address such as s3://bucket/cohort", repr(config.to), "--to")
    source = _only(config.cohort)
    folder = Path(source).expanduser()
    url = chunks_at(source)
    stored = is_prepared(folder) and url is None  # then with all bits that it has
    cohort = load(folder) if stored else open_cohort(source, pixel_size=pixel_size_for(config.size))
    folds = sorted(folder.glob("folds-*.parquet")) if stored else []
    tables = {path.name: path.read_bytes() for path in folds}
    known = about_chunks(url) if url else about(folder) if stored else {"size": config.size}
    chunks = upload(cohort, config.to, size=known.get("size"), chunk_bytes=int(config.chunk_mb * 1e6), tables=tables)
    print(f"wrote {config.to}: {len(cohort):,} images in {chunks:,} chunks")
    if cohort.masks is not None:
        print("note: lesion masks are not uploaded; evaluate measures no localisation there")
    command = "finetune" if cohort.has_labels("train", "val") else "ssl-pretrain"
    print(suggest(command, data=config.to, run=_run_name(Path(config.to))))


def _preview(config: PreviewConfig) -> None:
    import cv2

    from cxr_data.cohorts.preview import contact_sheet, view_sheet
    from cxr_data.files import whole_file
    from cxr_data.preparation.outlines import outlines
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    source = _only(config.cohort)
    cohort = open_cohort(source, pixel_size=pixel_size_for(config.size))
    out = config.out or _beside(source, cohort, "-sheet.png")
    if config.views:
        sheet = view_sheet(cohort, columns=config.columns, tile=config.tile)
    else:
        drawn = outlines(cohort) if config.outlines else None
        sheet = contact_sheet(cohort, columns=config.columns, tile=config.tile, outlines=drawn)
    _, png = cv2.imencode(".png", sheet)
    with whole_file(out) as file:
        file.write(png.tobytes())
    print(f"wrote {out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")


def _show(config: ShowConfig) -> None:
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    pixel_size = pixel_size_for(config.size)
    _print_counts(open_cohort(config.cohort or "phantom", pixel_size=pixel_size, note_smaller=False))


def _folds(config: FoldsConfig) -> None:
    from cxr_data.cohorts.cohort import load
    from cxr_data.preparation.folds import save_folds, with_fold

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
    from cxr_data.command_line.suggestions import suggest

    fold = f"1of{config.folds}"
    print(suggest("finetune", data=f"{folder}@1/{config.folds}", run=f"{_run_name(Path(folder))}-{fold}"))


def _run_name(folder: Path) -> str:
    """A run called as its cohort, so that it does not meet that of another."""
    return re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-.") or "mine"


def _audit(config: AuditConfig) -> None:
    import polars as pl
    from rich.console import Console

    from cxr_data.auditing import audit, count_table, file_facts, html, totals
    from cxr_data.cohorts.cohort import is_prepared
    from cxr_data.cohorts.joined import join
    from cxr_data.files import write_json, write_text
    from cxr_data.preparation.sizes import pixel_size_for
    from cxr_data.sources import open_cohort

    sources = config.cohort or ["phantom"]
    pixel_size = pixel_size_for(config.size)
    parts = [open_cohort(source, pixel_size=pixel_size, note_smaller=False) for source in sources]
    cohort = join(parts, remove_leaks=False)
    facts = [file_facts(Path(part.source), part.table["image"].to_list()) for part in parts]
    known = [fact for fact in facts if fact is not None]
    report = audit(
        cohort,
        facts=pl.concat(known) if len(known) == len(parts) else None,
        as_downloaded=not any(map(is_prepared, sources)),
    )
    own = sources[0] if len(sources) == 1 else ""
    out = config.out or _beside(own, cohort, "-audit")
    _refuse_other_audit(out, cohort)
    write_json(out / "audit.json", report)
    write_text(out / "audit.html", html(report, cohort))
    Console(highlight=False).print(count_table(report))
    print(totals(report))
    print(f"wrote {out / 'audit.html'} and audit.json")
    if config.strict and report["errors"]:
        raise SystemExit(1)


def _cache(config: CacheConfig) -> None:
    from cxr_data.cohorts.cache import cache_folder, cached, remove
    from cxr_data.command_line.suggestions import typed

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
        print(f"remove them:  {typed('cxr-data', 'cache', clean=True)}")


def _beside(source: str, cohort: "Cohort", suffix: str) -> Path:
    """Where to write what is about a cohort: beside its folder, or in the working folder under its own name."""
    from cxr_data.cohorts.cohort import is_prepared

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


_COMMANDS: dict[str, tuple[Callable[[Any], None], str]] = {
    "prepare": (_prepare, "source"),
    "merge": (_merge, "shards"),
    "upload": (_upload, "cohort"),
    "preview": (_preview, "cohort"),
    "show": (_show, "cohort"),
    "folds": (_folds, "cohort"),
    "cache": (_cache, "names"),
    "audit": (_audit, "cohort"),
}
"""Name -> function, and the option that needs no name."""


if __name__ == "__main__":
    sys.exit(main())
