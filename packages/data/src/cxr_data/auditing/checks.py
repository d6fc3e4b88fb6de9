"""The list of audit checks, and the message of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cxr_data.auditing import appearance, duplicates, leakage, shortcuts
from cxr_data.auditing.measures import Measures, measure
from cxr_data.cohorts.cohort import Cohort
from cxr_data.errors import listed
from cxr_data.readers import extras

LEVELS = ("error", "warning", "note", "ok", "unknown")
"""error: figures computed on this are wrong. warning: they may mislead. unknown: it could not be checked."""
_NAMED = 200
_CATEGORIES = ("projection", "sex", "labelled_by", "cohort")


def audit(cohort: Cohort, *, facts: pl.DataFrame | None = None, as_downloaded: bool = False) -> dict[str, Any]:
    """Look for what makes results on a cohort wrong or misleading.

    Args:
        cohort: The cohort.
        facts: Of its files, from :func:`cxr_data.auditing.measures.file_facts`; None when they are not at hand.
        as_downloaded: Whether the data set itself is judged: splits its folders suggest are then errors where they
            leak, though the cohort does not follow them.

    Returns:
        ``cohort`` (what it is), ``checks`` (a list of dicts with ``name``, ``level`` (one of :data:`LEVELS`),
        ``count``, ``text``, ``details``, ``images``), ``errors`` and ``warnings`` (how many), all JSON types.

    >>> from cxr_data import audit, open_cohort
    >>> result = audit(open_cohort("phantom:40", pixel_size=64, show=False))
    >>> result["errors"], next(check["text"] for check in result["checks"] if check["name"] == "patients in two splits")
    (0, 'none')
    """
    measures = measure(cohort)
    images = cohort.table["image"].to_list()
    checks = [
        *_patients(cohort, images, as_downloaded),
        *_identical(cohort, images, measures),
        *_near(cohort, images, measures),
        _broken(cohort),
        *_looks(images, measures),
        *_balance(cohort, images),
        *_folders(cohort, images),
        *_confounding(cohort, measures, facts),
        _thumbnails(cohort, measures),
        *(_check("preparation", "note", 0, note) for note in cohort.notes),
    ]
    described = {**cohort.describe(), "images": len(cohort)}
    counts = {f"{level}s": sum(check["level"] == level for check in checks) for level in LEVELS[:2]}
    return {"schema": 1, "cohort": described, **counts, "checks": checks}


def _check(
    name: str,
    level: str,
    count: int,
    text: str,
    details: dict[str, Any] | None = None,
    images: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "name": name,
        "level": level,
        "count": count,
        "text": text,
        "details": details or {},
        "images": list(images[:_NAMED]),
    }


def _patients(cohort: Cohort, images: list[str], as_downloaded: bool) -> list[dict[str, Any]]:
    """Patients in two splits: of the split in use, and of the one that folders suggest."""
    patients, split = cohort.table["patient"].to_list(), cohort.table["split"].to_list()
    cautions = (extras(name).patient_caution for name in cohort.name.split(" + "))
    careful = "; ".join(filter(None, cautions))
    checks = []
    for name, parts, level in (
        ("patients in two splits", split, "error"),
        ("patients in two split folders", leakage.folder_split(images), "error" if as_downloaded else "warning"),
    ):
        if parts is None or (parts is not split and parts == split):
            continue
        shared = leakage.shared_patients(patients, parts)
        rows = shared.pop("rows")
        if not shared["shared"]:
            alone = shared["patients"] == len(images) > 1
            said = "each image counts as one patient of its own: this cannot be seen" if alone else "none"
            checks.append(_check(name, "unknown" if alone else "ok", 0, said, shared))
            continue
        pairs = ", ".join(f"{count} in {pair.replace('-', ' and ')}" for pair, count in shared["pairs"].items())
        text = f"{shared['shared']} of {shared['patients']} patients ({pairs}), {shared['images']} images"
        if parts is not split:
            text += "; the split in use does not follow the folders"
        if careful:
            text += f"; {careful}"
        level = "warning" if careful else level
        checks.append(_check(name, level, shared["shared"], text, shared, [images[row] for row in rows]))
    return checks


def _identical(cohort: Cohort, images: list[str], measures: Measures) -> list[dict[str, Any]]:
    groups = duplicates.identical_groups(measures.digest)
    name = f"identical images at {cohort.pixel_size} pixels"
    if not groups:
        return [_check(name, "ok", 0, "none")]
    split, patients = cohort.table["split"].to_list(), cohort.table["patient"].to_list()
    parts = leakage.folder_split(images)
    crossing = [rows for rows in groups if len({split[row] for row in rows}) > 1]
    at_odds = [rows for rows in groups if leakage.labels_differ(cohort.targets, rows)]
    strangers = [rows for rows in groups if len({patients[row] for row in rows}) > 1]
    details = {
        "groups": len(groups),
        "images": sum(map(len, groups)),
        "across_splits": len(crossing),
        "labels_differ": len(at_odds),
        "patients_differ": len(strangers),
        "by_split": leakage.by_part(groups, split),
        **({"by_folder": leakage.by_part(groups, parts)} if parts else {}),
    }
    text = f"{details['groups']} groups of {details['images']} images; {len(crossing)} groups lie across splits, "
    text += f"{len(at_odds)} have labels that differ, {len(strangers)} are filed under several patients"
    level = "error" if crossing or at_odds else "note"
    worst_first = [*crossing, *at_odds, *groups]
    shown = list(dict.fromkeys(images[row] for rows in worst_first for row in rows))
    return [_check(name, level, len(groups), text, details, shown)]


def _near(cohort: Cohort, images: list[str], measures: Measures) -> list[dict[str, Any]]:
    pairs = duplicates.near_pairs(measures.thumbs, measures.digest)
    name = f"near duplicates (correlation of fine structure {duplicates.ALIKE} or more)"
    if not len(pairs.rows):
        return [_check(name, "ok", 0, "none")]
    split, patients = cohort.table["split"].to_numpy(), cohort.table["patient"].to_numpy()
    one, other = pairs.rows.T
    crossing = split[one] != split[other]
    at_odds = np.array([leakage.labels_differ(cohort.targets, pair) for pair in pairs.rows])
    details = {
        "pairs": len(pairs.rows),
        "across_splits": int(crossing.sum()),
        "labels_differ": int(at_odds.sum()),
        "patients_differ": int((patients[one] != patients[other]).sum()),
        "inverted": int((pairs.correlation < 0).sum()),
        "mirrored_or_turned": int((pairs.orientation > 0).sum()),
        "complete": pairs.complete,
    }
    text = f"{details['pairs']} pairs; {details['across_splits']} lie across splits, {details['labels_differ']} have "
    text += f"labels that differ, {details['patients_differ']} are of two patients, {details['inverted']} are negatives"
    turned = details["mirrored_or_turned"]
    text += f", {turned} mirrored or turned" if turned else ""
    text += "" if pairs.complete else "; there are so many that the search was ended"
    level = "error" if crossing.any() else "warning" if at_odds.any() else "note"
    order = np.lexsort((~at_odds, ~crossing))
    shown = list(dict.fromkeys(images[row] for pair in pairs.rows[order] for row in pair))
    return [_check(name, level, len(pairs.rows), text, details, shown)]


def _broken(cohort: Cohort) -> dict[str, Any]:
    details = {"files": [{"file": file, "reason": reason} for file, reason in cohort.broken[:_NAMED]]}
    if not cohort.broken:
        return _check("broken files", "ok", 0, "none")
    file, reason = cohort.broken[0]
    text = f"{len(cohort.broken)} were set aside; the first is {file}: {reason}"
    return _check("broken files", "warning", len(cohort.broken), text, details)


def _looks(images: list[str], measures: Measures) -> list[dict[str, Any]]:
    looks = appearance.looks(measures)
    checks = []
    if looks.whole < appearance.INVERTED_FEW:
        text = f"most images look like the negative of a chest (correlation {looks.whole:.2f}): air must be dark"
        checks.append(_check("inverted cohort", "error", len(images), text, {"correlation": looks.whole}))
    limit = f"correlation with the typical image below {appearance.INVERTED}"
    for name, rows, level in (
        (f"nearly blank (gray levels spread less than {appearance.FLAT:g} of 255)", looks.flat, "warning"),
        (f"inverted ({limit}, its negative looks like a chest)", looks.inverted, "warning"),
        ("unlike a chest: look at them", looks.unlike, "warning"),
    ):
        if rows is None:
            checks.append(_check(name, "unknown", 0, f"fewer than {appearance.LEAST} images: nothing is typical"))
            continue
        named = [images[row] for row in rows]
        text = f"{len(named)} of {len(images)} images" if named else "none"
        checks.append(_check(name, level if named else "ok", len(named), text, images=named))
    return checks


def _balance(cohort: Cohort, images: list[str]) -> list[dict[str, Any]]:
    if not cohort.labels:
        return []
    balance = leakage.balance(cohort)
    shifts, scarce = balance["shifts"], balance["scarce"]
    said = [f"{s['label']} {s['share']:.1%} of {s['split']}, {s['train']:.1%} of train" for s in shifts]
    said += [
        f"always answering {a['class']} scores {a['accuracy']:.3f} accuracy on {split}"
        for split, a in balance["always"].items()
        if split == "test"
    ]
    text = "; ".join(said) or "the share of every label is alike in all splits"
    checks = [_check("class balance by split", "warning" if shifts else "ok", len(shifts), text, balance)]
    if scarce:
        named = ", ".join(f"{s['label']} in {s['split']} ({s['positive']} of {s['known']})" for s in scarce[:8])
        text = f"fewer than {shortcuts.LEAST} positives or negatives: {named}{', …' if len(scarce) > 8 else ''}"
        checks.append(_check("labels too scarce to measure", "warning", len(scarce), text, {"labels": scarce}))
    parts = leakage.folder_split(images)
    if parts is not None and parts != cohort.table["split"].to_list():
        counts = leakage.folder_counts(cohort, parts)
        text = "; ".join(f"{part}: {count['images']:,} images" for part, count in counts.items())
        small = [part for part, count in counts.items() if count["images"] < 100]
        text += f"; too small to choose a model by: {', '.join(small)}" if small else ""
        checks.append(_check("split folders", "warning" if small else "note", len(small), text, {"folders": counts}))
    return checks


def _folders(cohort: Cohort, images: list[str]) -> list[dict[str, Any]]:
    disagreements = leakage.folder_disagreements(cohort)
    if disagreements is None:
        return []
    wrong = [images[row] for row in disagreements.pop("rows")]
    text = "folders and labels agree"
    if wrong:
        lie = "1 image lies" if len(wrong) == 1 else f"{len(wrong)} images lie"
        text = f"{lie} in the folder of another class than their labels say, as {wrong[0]}"
    return [_check("folder and label", "warning" if wrong else "ok", len(wrong), text, disagreements, wrong)]


def _confounding(cohort: Cohort, measures: Measures, facts: pl.DataFrame | None) -> list[dict[str, Any]]:
    """Labels that something beside the lungs tells: from the table and the files, and from the look of images."""
    vectors = shortcuts.label_vectors(cohort)
    if not vectors:
        return []
    table = cohort.table
    numbers: dict[str, NDArray[np.float64]] = {}
    categories = {name: _texts(table[name]) for name in _CATEGORIES if name in table.columns}
    if "age" in table.columns:
        numbers["age"] = _floats(table["age"])
        categories["age given"] = ["yes" if given else "no" for given in table["age"].is_not_null()]
    if facts is not None:
        numbers["file size"] = _floats(facts["bytes"])
        numbers["image size"] = _floats(facts["width"] * facts["height"])
        numbers["width / height"] = _floats(facts["width"] / facts["height"])
        categories["file kind"] = _texts(facts["kind"])
    looks = {name: getattr(measures, name) for name in ("brightness", "contrast", "sharpness")}
    rows = [*shortcuts.numeric_confounders(vectors, numbers), *shortcuts.category_confounders(vectors, categories)]
    limits = f"|AUROC - 0.5| from {shortcuts.AUROC} or Cramér's V from {shortcuts.CRAMER}"
    checks = [_told(f"labels told by other things ({limits})", "warning", rows)]
    if facts is None:
        text = "the files are not at hand: file and image sizes were not looked at"
        checks.append(_check("file and image sizes", "unknown", 0, text))
    checks.append(_told("labels told by exposure", "note", shortcuts.numeric_confounders(vectors, looks)))
    return checks


def _told(name: str, level: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: -_strength(row))
    told = [row for row in rows if row["confounded"]]
    text = listed([f"{row['label']} by {row['by']} ({_figure(row)})" for row in told], 6) or "none"
    return _check(name, level if told else "ok", len(told), text, {"confounders": rows})


def _strength(row: dict[str, Any]) -> float:
    return 2 * abs(row["auroc"] - 0.5) if "auroc" in row else row["cramers_v"]


def _figure(row: dict[str, Any]) -> str:
    return f"AUROC {row['auroc']:.2f}" if "auroc" in row else f"V {row['cramers_v']:.2f}"


def _thumbnails(cohort: Cohort, measures: Measures) -> dict[str, Any]:
    name = "what 16 x 16 thumbnails and a ridge regression reach on test"
    aurocs = shortcuts.thumbnail_baseline(cohort, measures)
    if not aurocs:
        return _check(name, "unknown", 0, "too few labelled images in train or test")
    named = ", ".join(f"{label} {value:.2f}" for label, value in list(aurocs.items())[:6])
    text = f"AUROC {named}{', …' if len(aurocs) > 6 else ''}: a network should clear it before it is called useful"
    return _check(name, "note", 0, text, {"auroc": aurocs})


def _floats(column: pl.Series) -> NDArray[np.float64]:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _texts(column: pl.Series) -> list[str]:
    return column.cast(pl.String).fill_null("unknown").to_list()
