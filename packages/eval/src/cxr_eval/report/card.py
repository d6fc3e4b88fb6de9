"""A model card for every model, in the format of the Hugging Face hub: front matter in YAML, then Markdown."""

from collections.abc import Mapping
from typing import Any

import yaml

from cxr_data.file_names import file_names
from cxr_data.markdown import plain, table
from cxr_data.models import licences
from cxr_eval import entries
from cxr_eval.metrics import records
from cxr_eval.metrics.records import METRICS
from cxr_eval.notes import counted_images


def cards(document: Mapping[str, Any]) -> dict[str, str]:
    """Model cards.

    Returns:
        Folder name -> text of its README.md, one for every model.
    """
    folders = file_names(document["models"])
    return {folders[name]: card(document, name) for name in document["models"]}


def card(document: Mapping[str, Any], name: str) -> str:
    """The card of one model."""
    model = document["models"][name]
    sections = [
        f"# {plain(name)}",
        "**Research use only. Not a medical device; not for diagnosis, triage or any decision about a patient.**",
        _what_it_is(document, model),
        _intended_use(),
        _data(document, model),
        _results(document, model),
        _subgroups(document, model),
        _corruptions(model),
        _calibration(model),
        _comparison(document, name),
        _limits(document, model),
        _how_to_use(),
        _licences(model),
        _provenance(document, model),
    ]
    return _front_matter(document, name, model) + "\n" + "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(document: Mapping[str, Any], name: str, model: Mapping[str, Any]) -> str:
    metrics = [
        {"type": metric.hub, "name": metric.title, "value": round(model["overall"][key]["value"], 4)}
        for key, metric in METRICS.items()
        if metric.hub and model["overall"][key]["value"] is not None
    ]
    cohort = document["cohort"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": cohort["name"], "type": cohort["name"], "split": document["split"]},
        "metrics": metrics,
    }
    matter = {
        **licences.card_fields(model["file"].get("licence")),
        "library_name": "cxr-common",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "radiology", "research-only", document["task"], model["file"]["architecture"]],
        "model-index": [{"name": name, "results": [result]}],
    }
    return "---\n" + yaml.safe_dump(matter, sort_keys=False, allow_unicode=True) + "---\n"


def _what_it_is(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    file, size = model["file"], model["size"]
    kind = "one class of several" if document["task"] == "multiclass" else "several findings side by side"
    lines = [
        f"A {plain(file['architecture'])} that reads one frontal chest radiograph ({file['input_size']} px, gray) and "
        f"answers with probabilities for {kind}: {_listed(file['labels'])}.",
        "",
        f"- {size['parameters'] / 1e6:.2f} M parameters, {size['macs'] / 1e6:.0f} M multiply-accumulates an image, "
        f"{size['bytes'] / 1e6:.1f} MB",
    ]
    if model["speed"]:
        speed = model["speed"]
        lines.append(
            f"- {speed['latency_ms_p50']:.1f} ms an image (median) on {plain(speed['device'])}, {speed['threads']} "
            f"thread{'s' if speed['threads'] > 1 else ''}, {plain(speed['runtime'])}"
        )
    for parent in file["parents"]:
        lines.append(f"- {plain(parent['role'])}: `{_code(parent['path'])}` (SHA-256 `{parent['sha256'][:16]}…`)")
    return "\n".join(lines)


def _intended_use() -> str:
    return (
        "## Intended use\n\n"
        "For research on classifiers of chest radiographs: comparing methods, reproducing results, teaching. Out of "
        "scope: use on patients, on other kinds of images, on views or age groups that the training data below do "
        "not hold, and any use in which nobody checks the answer."
    )


def _data(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    trained, cohort = model["file"]["cohort"], document["cohort"]
    known = {
        "internal": _internal(document),
        "overlapping": "trained on data that shares a data set with the evaluated cohort; the figures are neither "
        "internal nor external",
        "other state": f"trained on another state of this data set; some of the {_images(document)} may have been seen "
        "in training",
        "external": "an external cohort: the model was trained on other data",
        "unknown": "the file does not say what the model was trained on",
    }[model["cohort"]]
    lines = [
        "## Data",
        "",
        f"- Trained on: {plain(trained.get('name') or 'unknown')}, fingerprint "
        f"`{trained.get('fingerprint') or 'none'}`",
        f"- Evaluated on: {plain(cohort['name'])}, {counted_images(document['images'], document['split'])} "
        f"of {document['patients']} patients, fingerprint `{cohort['fingerprint']}`",
        f"- Relation: {known}",
        "- Epoch, temperature and thresholds come from validation images of the training cohort, never from test.",
    ]
    return "\n".join(lines)


def _images(document: Mapping[str, Any]) -> str:
    return "images" if document["split"] == "all" else f"{document['split']} images"


def _internal(document: Mapping[str, Any]) -> str:
    """How the images of the training cohort that were evaluated relate to those trained on."""
    split, origin = document["split"], "the data set the model was trained on"
    if split == "train":
        return f"these are training images of {origin}"
    if split == "all":
        return f"these are all images of {origin}, training images among them"
    shared = document["cohort"]["shared_patients"].get(f"train and {split}")
    people = f"{shared} patients lie in train too" if shared else "of other patients than its training images"
    return f"the {split} images come from {origin}, {people}"


def _results(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    intervals = document["intervals"]
    drawn = "no intervals were computed"
    if intervals["resamples"]:
        drawn = f"{intervals['level']:.0%} intervals with patients as the unit"
    averaged = len(model["labels"])
    chosen = [(key, metric) for key, metric in METRICS.items() if metric.places & {"summary", "card"}]
    rows = [(metric.title, figure(model["overall"][key], averaged)) for key, metric in chosen]
    lines = ["## Results", "", f"{plain(document['headline'])}; {drawn}.", "", *table(["metric", "value"], rows)]
    if averaged > 1:
        keys = records.shown("label")
        of_labels = [
            [
                plain(label),
                f"{values['positives']} of {values['positives'] + values['negatives']}",
                values["positive_patients"],
                *(figure(values[key]) for key in keys),
            ]
            for label, values in model["labels"].items()
        ]
        heads = ["label", "positive images", "patients", *(METRICS[key].title for key in keys)]
        lines += ["", *table(heads, of_labels)]
    return "\n".join(lines)


def _subgroups(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    if not model["subgroups"]:
        return ""
    keys, rows = records.shown("gap"), []
    for column, groups in model["subgroups"].items():
        of_column = document["subgroups"]["columns"][column]
        for about in of_column["groups"]:
            overall = groups[about["name"]]["overall"]
            cells = (figure(overall[key], len(of_column["labels"])) for key in keys)
            rows.append([f"{plain(column)}: {plain(about['name'])}", about["images"], *cells])
    heads = ["group", "images", *(METRICS[key].title for key in keys)]
    return "\n".join(["## Subgroups", "", *table(heads, rows)])


def _corruptions(model: Mapping[str, Any]) -> str:
    if not model.get("corruptions"):
        return ""
    rows = [
        [f"{kind['strength']}: {kind['name']}", figure(kind["auroc"]), figure(kind["difference"])]
        for kind in model["corruptions"]
    ]
    return "\n".join(["## Corrupted copies", "", *table(["copies", "AUROC", "difference"], rows)])


def _calibration(model: Mapping[str, Any]) -> str:
    scope = model["macro"] if len(model["labels"]) > 1 else model["overall"]
    lines = ["## Calibration", ""]
    before = model["calibration"]["before"]
    if before:
        temperature = model["calibration"]["temperature"]
        scaled = "scaled and shifted by label" if temperature is None else f"divided by {temperature:.3g}"
        lines += [f"Logits are {scaled}, as fitted on validation images.", ""]
    rows = []
    for key in records.of_family("calibration"):
        first = [figure(before[key], len(model["labels"]))] if before else []
        rows.append([METRICS[key].title, *first, figure(scope[key], len(model["labels"]))])
    heads = ["", "before", "as the model answers"] if before else ["", "value"]
    return "\n".join([*lines, *table(heads, rows)])


def _comparison(document: Mapping[str, Any], name: str) -> str:
    lines = []
    if name in document["differences"]:
        difference = document["differences"][name]
        entry = difference["overall"]["auroc"]
        if entry["value"] is not None:
            interval = "" if entry["low"] is None else f" ({entry['low']:+.3f} to {entry['high']:+.3f})"
            p = "" if entry["p_holm"] is None else f", p {entry['p_holm']:.2g} after Holm's adjustment"
            over = _over(entry, len(document["models"][name]["labels"]))
            lines.append(f"- AUROC {entry['value']:+.3f}{interval} against {plain(difference['reference'])}{p}{over}")
    test = document["noninferiority"].get(name)
    if test and test["noninferior"] is not None:
        verdict = "non-inferior" if test["noninferior"] else "not shown to be non-inferior"
        lines.append(
            f"- {verdict} to {plain(test['against'])} with a margin of {test['margin']:g} AUROC (lower bound "
            f"{test['low']:+.3f}, one-sided p {test['p_holm']:.2g} after Holm's adjustment)"
        )
    return "\n".join(["## Beside other models", "", *lines]) if lines else ""


def _limits(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    limits = [
        "Labels are those of the data set; many are mined from reports and wrong in part.",
        "Figures hold for radiographs like the evaluated ones; other scanners, hospitals and prevalences change them.",
        "Precision and NPV depend on how common a finding is among the evaluated images.",
        "Shortcuts (markers, tubes, bedside projections) can carry a score without the finding being seen.",
    ]
    few = [label for label, values in model["labels"].items() if values["positive_patients"] < 30]
    if few:
        limits.append(f"Fewer than 30 patients with the finding, so wide intervals: {_listed(few)}.")
    small = [
        f"{column} {group['name']}"
        for column, about in document["subgroups"]["columns"].items()
        for group in about["groups"]
        if group["reason"]
    ]
    if small:
        limits.append(f"Groups too small to judge: {_listed(small)}.")
    limits += [plain(note) for note in document["notes"]]
    limits += [plain(note) for note in document["cohort"]["notes"]]
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)])


def _how_to_use() -> str:
    return (
        "## How to use\n\n"
        "```python\nfrom cxr_common import checkpoint\n\n"
        'network, header = checkpoint.load("model.safetensors")\n```\n\n'
        "The network takes (B, 1, size, size) uint8 and gives logits in the order of `header.labels`; "
        "`header.calibration` holds the temperature, `header.thresholds` the decision thresholds."
    )


def _licences(model: Mapping[str, Any]) -> str:
    lines = licences.trail(model["file"].get("licence"), model["file"].get("ancestors") or ())
    return "## Licences\n\n" + "\n".join(f"- {plain(line)}" for line in lines)


def _provenance(document: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    made = document["provenance"]
    versions = ", ".join(f"{package} {version}" for package, version in model["file"]["versions"].items())
    return "\n".join(
        [
            "## Provenance",
            "",
            f"- File SHA-256 `{model['file']['sha256']}`",
            f"- Trained with {plain(versions) or 'unknown versions'}, source revision "
            f"`{model['file']['git'] or 'not in a checkout'}`, seed {model['file']['seed']}",
            f"- Written {made['created']} by `{_code(made['command'])}`, source revision "
            f"`{made['git'] or 'not in a checkout'}`",
        ]
    )


def figure(entry: Mapping[str, Any], labels: int = 0) -> str:
    """A metric as text: value and interval, or why there is none; of so many labels where it is an average."""
    if entry["value"] is None:
        return f"– ({plain(entry['reason'])})"
    interval = "" if entry["low"] is None else f" ({entry['low']:.3f} to {entry['high']:.3f})"
    if entry.get("interval_reason", entries.NO_RESAMPLES) != entries.NO_RESAMPLES:
        interval = f" (no interval: {entry['interval_reason']})"
    return f"{entry['value']:.3f}{interval}{_over(entry, labels)}"


def _over(entry: Mapping[str, Any], labels: int) -> str:
    return f", mean of {entry['labels']} of {labels} labels" if "labels" in entry else ""


def _listed(names: list[str]) -> str:
    return ", ".join(plain(name) for name in names)


def _code(value: str) -> str:
    return " ".join(str(value).split()).replace("`", "'")
