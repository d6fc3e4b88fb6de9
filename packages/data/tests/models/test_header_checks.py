"""Headers that were edited or damaged: what no network can be used with is named, and nothing else refused."""

import json
import math

import pytest

from cxr_data.errors import BadInput
from cxr_data.models.header import Header, Input, header_text, parse_header

GOOD = Header(
    "model",
    "resnet18",
    Input(32, 0.5, 0.25, pixels={"window": "voi", "aspect": "pad"}),
    task="multilabel",
    labels=("Edema", "Mass"),
    thresholds=(0.3, 0.6),
    calibration={"temperature": 1.5},
)
NUMBERS = (math.nan, math.inf, None, "x", True)
CHANGES = [
    *(("input", "mean", one) for one in (*NUMBERS, 128, -2, [0.5, math.nan])),
    *(("input", "std", one) for one in (*NUMBERS, 0, -0.2, 58, 1e-30, [0.2, 0])),
    *(("input", "size", one) for one in (*NUMBERS, 0, -1, 31.5, "32")),
    *(("input", "channels", one) for one in (*NUMBERS, 0, -1)),
    *(("input", "pixels", one) for one in (None, [], {"window": "x"}, {"aspect": "y"})),
    *(("thresholds", one) for one in ([0.5], [0.5] * 3, [1.5, 0.5], [-0.1, 0.5], [math.nan, 0.5], ["a", "b"], 0.5)),
    *(("labels", one) for one in (None, "AB", ["A"], ["A", "A"], ["A", ""], [1, 2])),
    *(("task", one) for one in (None, "x", 3)),
    *(("calibration", {"temperature": one}) for one in (*NUMBERS, 0, -1, 1e-300)),
    *(("calibration", one) for one in ([1.2], "x", {"foo": 1}, {"scale": [1, 1]}, {"scale": [1], "shift": [0]})),
    *(("calibration", {"scale": [one, 1], "shift": [0, 0]}) for one in (0, -1, math.nan)),
    *(("kind", one) for one in ("x", None)),
    *(("architecture", one) for one in ("", None, 3)),
    *(("bits", one) for one in (8, {"x": 1})),
    *(("schema", one) for one in (2, "1", None, 1.5, -1, True)),
    *((name, 5) for name in ("licence", "git")),
    *(("seed", one) for one in ("x", 1.5)),
    *(("cohort", {name: []}) for name in ("name", "source", "pixel_size")),
    *((name, [{}]) for name in ("parents", "ancestors")),
    *((name, "x") for name in ("config", "parents", "ancestors", "cohort", "metrics", "versions", "input")),
    ("parents", [1]),
]


def changed(*way) -> str:
    values = json.loads(header_text(GOOD))
    *path, last, value = way
    place = values
    for name in path:
        place = place[name]
    place[last] = value
    return json.dumps(values)


@pytest.mark.parametrize("way", CHANGES, ids=str)
def test_what_no_network_can_be_used_with_is_refused(way):
    with pytest.raises(BadInput, match=r"expected a (complete )?header"):
        parse_header(changed(*way), "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '"x"', "{}", '{"a":' * 5000])
def test_what_is_no_header_is_refused(text):
    with pytest.raises(BadInput):
        parse_header(text, "file")


@pytest.mark.parametrize(
    "way",
    [
        ("input", "mean", [0.485, 0.456, 0.406]),
        ("input", "std", 1 / 2048),
        ("input", "pixels", {}),
        ("thresholds", None),
        ("thresholds", []),
        ("thresholds", [0, 1]),
        ("calibration", None),
        ("calibration", {"scale": [0.05, 20], "shift": [-3, 4]}),
        ("cohort", {"pixel_size": 32}),
        ("bits", {"activations": 8, "weights": 7}),
        ("licence", "CC-BY-4.0"),
    ],
    ids=str,
)
def test_what_is_sound_is_read(way):
    assert parse_header(changed(*way), "file").labels == ("Edema", "Mass")
