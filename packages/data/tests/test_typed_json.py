from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.errors import BadInput
from cxr_data.typed_json import FLAT, from_json, json_schema, to_json


@dataclass
class Leaf:
    """A leaf. More is not told.

    Not this.
    """

    value: float | None
    """What it is."""
    note: str | None = None


@dataclass
class Tree:
    """A tree."""

    kind: Literal["oak", "ash"]
    count: int
    leaves: list[Leaf]
    named: dict[str, Leaf] = field(metadata=FLAT)


texts = st.text(max_size=5)
leaves = st.builds(Leaf, st.none() | st.floats(allow_nan=False), st.none() | texts)
names = texts.filter(lambda name: name not in ("kind", "count", "leaves"))
trees = st.builds(
    Tree, st.sampled_from(["oak", "ash"]), st.integers(), st.lists(leaves, max_size=2), st.dictionaries(names, leaves)
)


@settings(max_examples=30)
@given(trees)
def test_what_is_written_is_read(tree):
    assert from_json(Tree, to_json(tree), "t") == tree


def test_absent_is_not_null():
    assert to_json(Tree("oak", 1, [Leaf(None)], {"x": Leaf(1.0, "n")})) == {
        "kind": "oak",
        "count": 1,
        "leaves": [{"value": None}],
        "x": {"value": 1.0, "note": "n"},
    }


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"kind": "elm"}, "t.kind"),
        ({"count": True}, "t.count"),
        ({"count": 1.5}, "t.count"),
        ({"leaves": [{"value": "1"}]}, "t.leaves[0].value"),
        ({"x": {"note": "n"}}, "t.x"),
        ({"x": {"value": 1, "nots": ""}}, "t.x"),
    ],
)
def test_what_does_not_fit_says_where(change, where):
    with pytest.raises(BadInput) as refused:
        from_json(Tree, {"kind": "oak", "count": 1, "leaves": []} | change, "t")
    assert where in str(refused.value)


def test_schema():
    described = json_schema(Tree)
    assert described["$ref"] == "#/$defs/Tree"
    leaf = described["$defs"]["Leaf"]
    assert leaf["description"] == "A leaf. More is not told."
    assert leaf["properties"]["value"]["description"] == "What it is."
    assert leaf["required"] == ["value"]
    assert leaf["additionalProperties"] is False
    assert described["$defs"]["Tree"]["additionalProperties"] == {"$ref": "#/$defs/Leaf"}
