import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from cxr_eval.report.svg import Axis, Chart, Series, figure, interval_bar, log_axis, nice_ticks, standalone


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
    assert ".line.s0,.bar.s0{stroke:#1762a8}" in words


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


def test_interval_bar_tells_whether_zero_is_inside():
    assert "away" in interval_bar(0.2, 0.1, 0.3, 0.3)
    assert "around" in interval_bar(0.1, -0.1, 0.3, 0.3)
    circle = parse(interval_bar(0.0, -0.1, 0.1, 0.3)).find("circle")
    assert circle is not None
    assert float(circle.get("cx", 0)) == 60
