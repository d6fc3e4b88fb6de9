import itertools
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from cxr_data.charts import SHAPES, Axis, Chart, Series, figure, log_axis, nice_ticks, standalone


def parse(markup) -> Any:
    return ElementTree.fromstring(str(markup))


def test_chart_places_values_on_its_axes():
    series = [Series("m", 1, [0, 0.5, 1], [0, 0.5, 1], mark=(1, 0), key="k")]
    svg = parse(figure(Chart("T", series, Axis("across"), Axis("up")))).find("svg")
    left, top, width, height = map(float, svg.get("data-plot").split())
    line = next(path for path in svg.iter("path") if path.get("class") == "line s1")
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line.get("d"))[1:]]
    assert points == [(left, top + height), (left + width / 2, top + height / 2), (left + width, top)]
    mark = next(circle for circle in svg.iter("circle") if circle.get("data-mark") == "k")
    assert (float(mark.get("cx")), float(mark.get("cy"))) == (left + width, top + height)
    assert {"across", "up"} <= {text.text for text in svg.iter("text")}


def test_names_are_escaped():
    drawn = Chart("a<b", [Series("<b>&", 0, [0], [0], note='"x"')], Axis("<x>"), Axis("y"))
    markup = figure(drawn)
    assert "<b>" not in str(markup)
    texts = [element.text for element in parse(markup).iter() if element.text]
    assert "<b>&" in texts
    assert "<x>" in texts


def test_an_empty_series_draws_no_line_but_stays_in_the_legend():
    drawn = parse(figure(Chart("t", [Series("m", 0, [], [])], Axis("x"), Axis("y"))))
    assert not [path for path in drawn.find("svg").iter("path") if "line" in path.get("class", "")]
    assert [span.text for span in drawn.iter("span")] == ["m"]


def test_a_file_of_its_own_names_its_models_and_knows_its_colours():
    drawn = Chart("a<b", [Series("<m>", 0, [0, 1], [0, 1], note="AUROC 0.9")], Axis("x"), Axis("y"), ((0, 0), (1, 1)))
    text = standalone(drawn)
    root = parse(text)
    assert root.tag.endswith("svg")
    words = "".join(root.itertext())
    assert "<m> AUROC 0.9" in words
    assert "a<b" in words
    assert ".line.s0 { stroke: #1762a8;" in words
    assert "var(" not in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.93, 0.99, [0.92, 0.94, 0.96, 0.98, 1.0]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert nice_ticks(low, high) == expected


def test_log_axis_has_decades_and_their_fifths():
    axis = log_axis("ms", 3, 40)
    assert (axis.low, axis.high) == (2, 50)
    assert list(axis.ticks) == [2, 5, 10, 20, 50]
    assert axis.place(10) == pytest.approx(0.5)


def test_a_value_that_is_not_finite_leaves_a_gap():
    series = Series("m", 0, [0, 0.25, 0.5, 0.75, 1], [0.1, 0.2, float("nan"), 0.4, 0.5], radius=2)
    svg = parse(figure(Chart("t", [series], Axis(), Axis()))).find("svg")
    line = next(path for path in svg.iter("path") if path.get("class") == "line s0")
    assert re.sub("[^ML]", "", line.get("d")) == "MLML"
    assert len(list(svg.iter("circle"))) == 4


def test_intervals_stand_beside_their_points_and_may_be_missing():
    series = Series("m", 0, [0.2, 0.8], [0.5, 0.5], line=False, radius=4, x_interval=[(0.1, 0.3), None])
    chart = Chart("t", [series], Axis(), Axis(low=1, high=0, ticks={0.5: "<row>"}), texts=[(0.5, 0.5, "a text")])
    svg = parse(figure(chart)).find("svg")
    (bar,) = [path.get("d") for path in svg.iter("path") if path.get("class") == "bar s0"]
    (left, middle), (right, _) = chart.at(0.1, 0.5), chart.at(0.3, 0.5)
    assert bar == f"M{left} {middle}H{right}"
    assert {"<row>", "a text"} <= {text.text for text in svg.iter("text")}


@pytest.mark.parametrize("shape", SHAPES)
def test_points_of_every_shape_tell_their_hint(shape):
    series = Series("m", None, [0.5], [0.5], line=False, radius=5, shape=shape, hints=["a<b"])
    drawn = parse(standalone(Chart("t", [series], Axis(), Axis())))
    assert [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")] == ["t", "a<b"]


def test_names_of_near_points_do_not_cover_each_other():
    series = [Series(f"model {i}", i, [0.5], [0.5], line=False, radius=5, text=True) for i in range(4)]
    svg = parse(figure(Chart("t", series, Axis(), Axis()))).find("svg")
    heights = sorted(float(text.get("y")) for text in svg.iter("text") if (text.get("class") or "").startswith("name"))
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 14
