"""JSON documents as dataclasses: written, read and described by a JSON schema, all from the type annotations.

A field without a default is always written, ``None`` as null; a field whose default is None is left out while it is
None. A field with the metadata ``FLAT`` is a dict whose entries stand beside the other fields of its object.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from cxr_data.errors import BadInput, unknown_name

T = TypeVar("T")
_JSON_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
FLAT = {"flat": True}
"""Metadata of a dict field whose entries stand in the object itself."""
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def to_json(value: Any) -> Any:
    """Plain JSON types of a dataclass and all it holds.

    Args:
        value: A dataclass, or lists, tuples, dicts and plain values of them.

    Examples:
        >>> @dataclasses.dataclass
        ... class Row:
        ...     count: int
        ...     figures: dict[str, float] = dataclasses.field(metadata=FLAT)
        >>> to_json(Row(2, {"auroc": 0.5}))
        {'count': 2, 'auroc': 0.5}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        written: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            content = getattr(value, field.name)
            if field.metadata.get("flat"):
                written |= to_json(content)
            elif content is not None or field.default is dataclasses.MISSING:
                written[field.name] = to_json(content)
        return written
    if isinstance(value, Mapping):
        return {key: to_json(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(content) for content in value]
    return value


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Read a dataclass from plain JSON types.

    Args:
        kind: The dataclass.
        value: What ``to_json`` wrote, or ``json.load`` read.
        where: The file, for the message.

    Raises:
        BadInput: A key that is missing or unknown, or a value of another type; ``where`` says which.

    Examples:
        >>> @dataclasses.dataclass
        ... class Point:
        ...     x: float
        ...     note: str | None = None
        >>> from_json(Point, {"x": 1})
        Point(x=1, note=None)
    """
    return _read(kind, value, where)


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _read(next(part for part in arguments if part is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise BadInput(f"one of {', '.join(map(repr, arguments))}", repr(value), where=where)
        return value
    if dataclasses.is_dataclass(kind):
        return _object(kind, _of_type(dict, value, where), where)
    if origin is dict:
        items = _of_type(dict, value, where).items()
        return {key: _read(arguments[1], content, f"{where}.{key}") for key, content in items}
    if origin is list:
        return [_read(arguments[0], content, f"{where}[{i}]") for i, content in enumerate(_of_type(list, value, where))]
    return _of_type(kind, value, where)


def _object(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    left = dict(value)
    read: dict[str, Any] = {}
    rest = None
    for field in dataclasses.fields(kind):
        if field.metadata.get("flat"):
            rest = field.name
        elif field.name in left:
            read[field.name] = _read(hints[field.name], left.pop(field.name), f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise BadInput(f"the key {field.name!r}", "none", where=where)
    if rest is not None:
        read[rest] = _read(hints[rest], left, where)
    elif left:
        raise unknown_name(f"key of {where}", next(iter(left)), [field.name for field in dataclasses.fields(kind)])
    return kind(**read)


def _of_type(kind: Any, value: Any, where: str) -> Any:
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"a value of type {kind.__name__}", repr(value)[:80], where=where)
    return value


def json_schema(kind: type, identifier: str = "") -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a dataclass, its docstrings as descriptions.

    Args:
        kind: The dataclass.
        identifier: The schema's ``$id``, where it has one.
    """
    definitions: dict[str, Any] = {}
    top = _describe(kind, definitions)
    head = {"$schema": _DIALECT} | ({"$id": identifier} if identifier else {})
    return {**head, **top, "$defs": dict(sorted(definitions.items()))}


def _describe(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_describe(part, definitions) for part in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # pyright: ignore[reportAttributeAccessIssue] - a class
        if name not in definitions:
            definitions[name] = {}  # it may hold itself
            definitions[name] = _describe_object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is dict:
        return {"type": "object", "additionalProperties": _describe(arguments[1], definitions)}
    if origin is list:
        return {"type": "array", "items": _describe(arguments[0], definitions)}
    if kind is dict:
        return {"type": "object"}
    return {"type": _JSON_NAMES[kind]}


def _describe_object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, about = typing.get_type_hints(kind), dict(_docstrings(kind))
    properties: dict[str, Any] = {}
    required = []
    more: Any = False
    for field in dataclasses.fields(kind):
        described = _describe(hints[field.name], definitions)
        if field.metadata.get("flat"):
            more = described["additionalProperties"]
            continue
        properties[field.name] = described | ({"description": about[field.name]} if field.name in about else {})
        if field.default is dataclasses.MISSING:
            required.append(field.name)
    return {
        "description": (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": more,
    }


def _docstrings(kind: type) -> Iterator[tuple[str, str]]:
    """Fields and the strings that stand below them in the source, of the class and those it derives from."""
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, after in zip(body.body, body.body[1:], strict=False):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and text:
                yield statement.target.id, " ".join(str(text).split())
