"""metrics.json as pydantic models; ``metrics.schema.json`` beside this file is their JSON schema.

``python -m cxr_eval.document`` prints the schema. A metric of ``METRICS`` needs nothing here: figures are kept by name.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import GenerateJsonSchema

from cxr_common.typed_files import Typed, read
from cxr_data.errors import BadInput
from cxr_eval.document_parts import (
    EvaluatedCohort,
    Explanations,
    Gain,
    Intervals,
    ModelDifference,
    ModelResult,
    Noninferiority,
    Provenance,
    Subgroups,
)

SCHEMA = 4
"""Version of metrics.json: raised when a key changes its meaning or goes, not when one is added."""
SCHEMA_FILE = Path(__file__).parent / "metrics.schema.json"
"""The JSON schema of metrics.json."""


class Report(Typed):
    """What evaluate writes as metrics.json; docs/metrics.md explains it.

    Examples:
        >>> from cxr_eval import Report
        >>> Report.__annotations__["models"]
        dict[str, cxr_eval.document_parts.ModelResult]
    """

    version: int = Field(alias="schema")
    task: Literal["multilabel", "multiclass"]
    split: str
    labels: list[str]
    headline: str
    """What the overall figures are: the label of a two-class task, else a macro average."""
    images: int
    patients: int
    intervals: Intervals
    cohort: EvaluatedCohort
    models: dict[str, ModelResult]
    """The reference first."""
    differences: dict[str, ModelDifference]
    gains: dict[str, Gain]
    noninferiority: dict[str, Noninferiority]
    subgroups: Subgroups
    notes: list[str]
    """Sentences a reader must know."""
    provenance: Provenance
    explanations: Explanations | None = None
    """With --explain alone."""


def read_report(path: str | Path) -> Report:
    """Read a metrics.json.

    Args:
        path: The file, or the report folder that holds it.

    Returns:
        The report; ``report.models["student"].overall["auroc"].value`` is a float.

    Raises:
        BadInput: No such file, no JSON, or not of this version's form.

    Examples:
        >>> from cxr_eval import read_report
        >>> report = read_report("runs/quickstart/report")  # doctest: +SKIP
        >>> report.models["teacher"].overall["auroc"].value  # doctest: +SKIP
        0.93
    """
    file = Path(path) / "metrics.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput("a metrics.json that evaluate wrote", str(error), where=file) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = repr(content.get("schema")) if isinstance(content, dict) else type(content).__name__
        raise BadInput(f"a metrics.json of schema {SCHEMA}", found, where=file, do="evaluate the models again")
    return read(Report, content, str(file))


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """The document as its models write it, without what is null by its absence.

    Raises:
        ValueError: A key or a type that the models do not have, which is an error of ours.
    """
    return Report.model_validate(document).model_dump(by_alias=True, exclude_defaults=True)


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of metrics.json, from the models."""
    described = Report.model_json_schema()
    about = described["description"].partition("\n\n")[0]  # without the examples
    return {"$schema": GenerateJsonSchema.schema_dialect, **described, "description": about}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
