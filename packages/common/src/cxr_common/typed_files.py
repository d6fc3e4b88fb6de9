"""Contents of JSON and YAML files as pydantic models: what does not fit is one `BadInput`."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from cxr_data.errors import BadInput, unknown_name

_EXPECTED = {
    "string_type": ("text", "put quotes around what shall not be read as a number"),
    "dict_type": ("a mapping", None),
    "model_type": ("a mapping", None),
    "float_type": ("a number", None),
    "list_type": ("a list", None),
    "too_short": ("{min_length} entries or more", None),
    "too_long": ("{max_length} entries or fewer", None),
}
"""Kind of pydantic's error -> what is expected, and what to do."""


class Typed(BaseModel):
    """An object of such a file: nothing is converted, and a key that is no field is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = [name for name in values if name not in known] if isinstance(values, dict) else []
        if unknown and cls.model_config.get("extra") == "forbid":
            raise refusal(unknown_name("field", str(unknown[0]), known))
        return values


T = TypeVar("T", bound=Typed)


def refusal(error: BadInput) -> PydanticCustomError:
    """What a validator raises for bad input, so that `read` can say where it was found."""
    return PydanticCustomError(
        "bad_input", "{expected}", {"expected": error.expected, "found": error.found, "do": error.do}
    )


def read(kind: type[T], values: Any, where: str) -> T:
    """Read a model from what a JSON or YAML file holds.

    Raises:
        BadInput: A field that is missing or unknown, or a value of another kind.

    Examples:
        >>> class Point(Typed):
        ...     x: float
        ...     note: str | None = None
        >>> read(Point, {"x": 1}, "point.json")
        Point(x=1.0, note=None)
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _bad_input(error.errors()[0], where) from error


def _bad_input(error: ErrorDetails, where: str) -> BadInput:
    kind, context = error["type"], error.get("ctx", {})
    path = [part for part in error["loc"] if part != "[key]"]
    if kind == "bad_input":
        expected, found, do = context["expected"], context["found"], context["do"]
    elif kind == "missing":
        expected, found, do = f"the field {path.pop()!r}", "none", None
    else:
        expected, do = _EXPECTED.get(kind, (error["msg"], None))
        expected, found = expected.format(**context), repr(error["input"])[:80]
    places = "".join(f"[{part}]" if isinstance(part, int) else f", {part}" for part in path)
    return BadInput(expected, found, where=where + places, do=do)
