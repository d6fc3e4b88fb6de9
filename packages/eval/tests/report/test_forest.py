import xml.etree.ElementTree as ElementTree

from markupsafe import Markup

from cxr_eval.report.forest import Forest, figure, standalone

ROWS = [("F (20)", [(0, 0.8, 0.7, 0.9), (1, 0.6, None, None)]), ("<M>", [None, None])]


def test_figures_lie_on_the_axis_and_what_is_missing_is_said():
    drawn = ElementTree.fromstring(figure(Forest("By sex", "AUROC", ROWS), Markup("<ul></ul>")))
    svg = drawn.find("svg")
    assert svg is not None
    circles = list(svg.iter("circle"))
    assert len(circles) == 2
    assert float(circles[0].get("cx", 0)) > float(circles[1].get("cx", 0))
    bars = [path for path in svg.iter("path") if "bar" in path.get("class", "")]
    assert len(bars) == 1  # the second figure has no interval
    words = [text.text for text in svg.iter("text")]
    assert {"F (20)", "<M>", "too few to say", "AUROC"} <= set(words)
    assert "F (20) 0.800, 0.600" in svg.get("aria-label", "")


def test_as_a_file_it_names_the_models():
    root = ElementTree.fromstring(standalone(Forest("By sex", "AUROC", ROWS), [(0, "teacher"), (1, "a<b")]))
    assert {"teacher", "a<b", "By sex"} <= {element.text for element in root.iter()}
