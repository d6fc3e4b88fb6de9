import json
from dataclasses import replace

import jsonschema
import pytest

from cxr_data.errors import BadInput
from cxr_eval import Metric, read_report
from cxr_eval.document import SCHEMA_FILE, Report, checked, schema
from cxr_eval.document_parts import Entry
from cxr_eval.metrics.records import METRICS

MODELS = {"teacher": 2.0, "guest": 1.0}


@pytest.fixture(scope="module")
def written(make_document_once):
    """The JSON text of a comparison."""
    return json.dumps(checked(make_document_once("multilabel", ["a", "b"], MODELS, 100)[0]))


def test_the_schema_is_that_of_the_dataclasses():
    """To write it anew: python -m cxr_eval.document > packages/eval/src/cxr_eval/metrics.schema.json."""
    written = json.loads(SCHEMA_FILE.read_text("utf-8"))
    assert written == schema()
    jsonschema.Draft202012Validator.check_schema(written)


@pytest.mark.parametrize(("task", "labels"), [("multilabel", ["a", "b", "c"]), ("multiclass", ["a", "b", "c"])])
def test_a_comparison_fits_schema_and_dataclasses(make_document, task, labels):
    document, *_ = make_document(task, labels, MODELS, 100)
    written = checked(document)
    jsonschema.validate(json.loads(json.dumps(written)), schema())
    assert checked(written) == written
    # Nothing is lost but what is null by its absence.
    first, again = (of["models"]["teacher"]["labels"] for of in (document, written))
    for label, figures in first.items():
        assert figures.keys() == again[label].keys()
        for key in METRICS:
            assert {k: v for k, v in figures[key].items() if v is not None or k in ("value", "low", "high")} == again[
                label
            ][key]


def test_a_metric_needs_no_line_in_the_schema(make_document, monkeypatch):
    youden = Metric("youden", "Youden's J", "", "decision", of_counts=lambda tp, fp, fn, tn: tp / (tp + fn) - fp / 9)
    monkeypatch.setitem(METRICS, "youden", replace(youden, scale="identity"))
    document, *_ = make_document("multiclass", ["a", "b"], MODELS, 100)
    written = checked(document)
    jsonschema.validate(written, schema())
    assert written["models"]["guest"]["labels"]["b"]["youden"]["value"] is not None


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("images",), "many", "images"),
        (("models", "guest", "size", "bytes"), None, "models.guest.size.bytes"),
        (("models", "guest", "labels", "a", "auroc", "hihg"), 1.0, "hihg"),
        (("models", "guest", "cohort"), "abroad", "models.guest.cohort"),
        (("noise",), 1, "noise"),
    ],
)
def test_what_does_not_fit_is_refused_by_schema_and_dataclasses_alike(written, place, value, said):
    document = json.loads(written)
    at = document
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())
    with pytest.raises(ValueError, match=said):
        checked(document)


def test_read_report_gives_typed_figures(written, tmp_path):
    (tmp_path / "metrics.json").write_text(written, "utf-8")
    report = read_report(tmp_path)
    assert isinstance(report, Report)
    entry = report.models["guest"].labels["a"].figures["auroc"]
    assert isinstance(entry, Entry)
    assert entry.low is not None
    assert report.model_dump(by_alias=True, exclude_defaults=True) == json.loads(written)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}', '{"schema": 4}'])
def test_another_file_is_bad_input(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(BadInput):
        read_report(tmp_path / "metrics.json")
    with pytest.raises(BadInput):
        read_report(tmp_path / "nowhere.json")
