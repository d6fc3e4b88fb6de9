import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import chromium
import pytest

from cxr_data import charts
from cxr_eval import entries
from cxr_eval.metrics.classification import COUNTS
from cxr_eval.report.build import big, figure, forest, interval_bar, points, pvalue, render, short, signed
from cxr_eval.report.panels import RATES, rates

VOID = {"meta", "input", "br", "img"}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63680000008200"
    "81cd17a37a0000000049454e44ae426082"
)
TILES = ["radiograph", "teacher 0.93", "resnet18 0.50", "resnet18-control 0.12"]
EXPLANATIONS = {
    "method": "Grad-CAM",
    "labels": [{"label": "Mass", "cases": [{"png": PNG, "caption": "p <b>0.9</b>", "kind": "wrong", "tiles": TILES}]}],
    "scores": [{"model": "teacher", "name": "pointing game", "label": None, "value": 0.7, "low": 0.6, "high": None}],
}


class Page(HTMLParser):
    """Collects tags, addresses and ids; fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[key] for key in ("src", "href", "action", "srcset", "data") if key in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


CASES = {
    "two classes": ("multiclass", ["NORMAL", "PNEUMONIA"]),
    "four classes": ("multiclass", ["COVID", "Lung_Opacity", "Normal", "Viral"]),
    "findings": ("multilabel", ["Mass", "Edema", "Hernia"]),
    "one finding": ("multilabel", ["Mass", "Hernia"]),
}
MODELS = {"teacher": 2.5, "resnet18": 2.0, "resnet18-control": 1.5}


@pytest.mark.parametrize("case", CASES)
def test_page_is_whole_and_asks_for_nothing(make_document, case):
    task, labels = CASES[case]
    html, plots = render(*make_document(task, labels, MODELS), explanations=EXPLANATIONS)
    page = Page(html)
    assert page.open == []
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert "url(" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    assert len(page.ids) == len(set(page.ids))
    assert html.count("Research use only") >= 2
    for name in MODELS:
        assert name in html
    assert ("Confusion matrices" in html) == (case == "four classes")
    for section in ("Non-inferiority", "Calibration", "Subgroups", "Largest gaps", "Explanations", "Provenance"):
        assert section in html
    assert len(plots) == len({name.lower() for name in plots})
    for drawing in plots.values():
        root = ElementTree.fromstring(drawing)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in drawing
        assert "href" not in drawing


def test_figures_of_the_document_are_on_the_page(make_document):
    document, targets, answers = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    html, _ = render(document, targets, answers)
    for model in document["models"].values():
        entry = model["overall"]["auroc"]
        assert f"<b>{figure(entry['value'])}</b><small>{figure(entry['low'])}–{figure(entry['high'])}</small>" in html
    assert signed(document["differences"]["resnet18"]["overall"]["f1"]["value"]) in html
    assert 'title="no positive image"' in html
    assert "A note." in html
    assert "Split by us." in html
    assert "2 unreadable files" in html


def test_the_gain_by_the_teacher_is_a_table_before_all_other_comparisons(make_document):
    for task, labels in CASES.values():
        document, targets, answers = make_document(task, labels, MODELS)
        html, _ = render(document, targets, answers)
        before, _, after = html.partition('id="gains"')
        section = after.split("<section")[0]
        assert 'id="differences"' not in before
        assert "without teacher: resnet18-control" in section
        for key in ("auroc", "f1", "brier"):
            entry = document["gains"]["resnet18"]["overall"][key]
            assert f"{signed(entry['value'])} <small>{signed(entry['low'])} to {signed(entry['high'])}" in section
    assert 'id="gains"' not in render(*make_document("multiclass", ["a", "b"], {"teacher": 2.5, "resnet18": 2.0}))[0]


def test_an_average_says_how_many_labels_it_is_over(make_document):
    document, targets, answers = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    html, _ = render(document, targets, answers)
    note = "<small>2 of 3 labels</small>"
    entry = document["models"]["teacher"]["overall"]["auroc"]
    assert f"<small>{figure(entry['low'])}–{figure(entry['high'])}</small>{note}" in html
    assert note in html.split('id="differences"')[1].split("<h3")[0]
    assert note in html.split('id="noninferiority"')[1].split("<h2")[0]
    assert note not in render(*make_document("multiclass", ["a", "b", "c"], MODELS))[0]


def test_figures_without_an_interval_are_shown_and_say_why(make_document):
    """Models without an error: AUROC 1 and differences of 0, whichever patient is left out."""
    document, targets, answers = make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"a": 20.0, "b": 30.0})
    assert document["models"]["a"]["overall"]["auroc"]["interval_reason"]
    html, plots = render(document, targets, answers)
    Page(html)
    assert '<b><abbr title="No interval: the same whichever patient is left out' in html
    assert "AUROC 1.000 (no interval: the same whichever patient is left out" in html.split("<nav")[0]
    low = document["models"]["a"]["overall"]["accuracy"]["low"]
    assert 0.95 < low < 0.99
    assert f"<b>1.000</b><small>{figure(low)}–1.000</small>" in html
    assert f'<abbr title="No interval: {entries.ALL_EQUAL}">+0.000' in html
    assert f'<abbr title="{entries.ALL_EQUAL}">' in html.split('id="noninferiority"')[1]
    assert "auroc-latency" in plots


def test_operating_points_of_the_script_are_those_of_the_metrics(make_document):
    document, targets, answers = make_document("multiclass", ["NORMAL", "PNEUMONIA"], MODELS)
    html, _ = render(document, targets, answers)
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert match
    (data,) = json.loads(match[1])
    for model, curve in zip(document["models"].values(), data["models"], strict=True):
        start, label = curve["start"], model["labels"]["PNEUMONIA"]
        assert curve["t"][start] == 0.5
        assert (curve["tp"][start], curve["fp"][start]) == (label["tp"], label["fp"])
        assert curve["tp"] == sorted(curve["tp"], reverse=True)


def test_one_model_without_timing_needs_no_comparison(make_document):
    html, plots = render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"teacher": 2.0}, speed=False))
    Page(html)
    assert "auroc-latency" not in plots
    assert "Explanations" not in html
    assert "Differences to" not in html
    assert "Latency" not in html


def test_of_many_models_the_first_are_told_and_the_others_fold(make_document):
    many = {f"model-{i}": 2.0 for i in range(7)}
    html, _ = render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], many))
    first, rest = html.split('<ul class="lead">')[1:]
    assert (first.count("<li>"), rest.split("</ul>")[0].count("<li>")) == (5, 2)
    assert "<details><summary>2 more models</summary>" in first
    assert "more model" not in render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], MODELS))[0]


def test_a_cohort_without_any_positive_still_makes_a_page(make_document):
    html, _ = render(*make_document("multilabel", ["Hernia"], MODELS))
    Page(html)
    assert "AUROC –" in html
    assert "undefined for one of the two" in html


def test_names_from_files_cannot_inject(make_document):
    evil = "</script><img src=x onerror=alert(1)>"
    html, plots = render(*make_document("multilabel", [evil, "Edema", "Hernia"], {evil: 1.0, "b": 2.0}))
    page = Page(html)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    for name, drawing in plots.items():
        assert re.fullmatch(r"[\w.-]+", name)
        assert not [tag for tag in ElementTree.fromstring(drawing).iter() if tag.tag.endswith(("script", "img"))]


def test_the_page_says_of_patients_and_splits_what_holds(make_document):
    document, targets, answers = make_document("multilabel", ["Mass"], {"teacher": 2.5})
    assert "No patient lies in two splits" in render(document, targets, answers)[0]
    document["cohort"]["shared_patients"] = {"train and val": 2, "train and test": 7}
    html, _ = render(document, targets, answers)
    assert "Some patients lie in two splits: 2 in train and val, 7 in train and test." in html
    assert "No patient lies in two splits" not in html


def test_an_external_cohort_is_called_that(make_document):
    html, _ = render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"guest": 2.0, "b": 1.0}))
    assert '<span class="badge">external cohort</span>' in html
    html, _ = render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"a": 2.0, "b": 1.0}))
    assert "badge" not in html.split("</style>")[1]


def test_explanations_are_shown_where_there_are_any(make_document):
    document = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    html, _ = render(*document, explanations=EXPLANATIONS)
    assert html.count('<img src="data:image/png;base64,iVBORw0KGgo') == 1
    assert "p &lt;b&gt;0.9&lt;/b&gt;" in html
    assert "pointing game" in html
    assert "<b>0.700</b>" in html


def test_numbers_are_short():
    assert big(11_176_512) == "11.2 M"
    assert big(94_000_000, "B") == "94 MB"
    assert big(12) == "12"
    assert short(1283.4) == "1280"
    assert short(0.00001234) == "0.0000123"
    assert pvalue(0.0318) == "0.032"
    assert pvalue(3e-9) == "< 0.0001"
    assert signed(-0.0123) == "−0.012"
    assert points(-0.0123) == "−1.23"
    assert points(None) == "–"
    assert figure(None) == "–"


@pytest.fixture(scope="module")
def page(make_document_once, tmp_path_factory):
    """A report of three findings on disk, and its document."""
    document, targets, answers = make_document_once("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(document, targets, answers, EXPLANATIONS)[0], "utf-8")
    return path, document


READ = """(() => {
  const card = document.querySelector('[data-card="0-1"]');
  const counts = Object.fromEntries([...card.querySelectorAll("[data-c]")].map((x) => [x.dataset.c, x.textContent]));
  const mark = document.querySelector('[data-mark="roc-0-1"]');
  return {...counts, output: card.querySelector("output").textContent, mark: mark.getAttribute("cx")};
})()"""


def test_in_a_browser_the_slider_updates_the_counts_by_keyboard(browser, page):
    path, document = page
    browser.open(path)
    label = document["models"]["resnet18"]["labels"]["Mass"]
    before = browser.run(READ)
    assert before["tp"] == str(label["tp"])
    assert before["f1"] == figure(label["f1"]["value"])
    browser.run("""document.querySelector('[data-card="0-1"] input').focus()""")
    browser.press("ArrowLeft", 37)
    one = browser.run(READ)
    assert one["output"] != before["output"]
    assert int(one["tp"]) + int(one["fp"]) > int(before["tp"]) + int(before["fp"])
    browser.press("Home", 36)
    everyone = browser.run(READ)
    assert (everyone["fn"], everyone["tp"]) == ("0", str(label["positives"]))
    assert everyone["fp"] == str(label["negatives"])
    assert everyone["mark"] != before["mark"]
    browser.press("End", 35)
    nobody = browser.run(READ)
    assert (nobody["tp"], nobody["precision"], nobody["output"]) == ("0", "–", "∞")
    browser.run("""document.querySelector('[data-card="0-1"] .reset').click()""")
    assert browser.run(READ) == before
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [path.as_uri()]


RATES_AT_EVERY_THRESHOLD = """(() => {
  const card = document.querySelector('[data-card="0-1"]'), slider = card.querySelector("input");
  return [...Array(Number(slider.max) + 1).keys()].map((i) => {
    slider.value = i;
    slider.dispatchEvent(new Event("input"));
    return Object.fromEntries([...card.querySelectorAll("[data-c]")].map((x) => [x.dataset.c, x.textContent]));
  });
})()"""


def test_in_a_browser_the_rates_at_every_threshold_are_those_of_the_metrics(browser, page):
    browser.open(page[0])
    points = browser.run(RATES_AT_EVERY_THRESHOLD)
    assert len(points) > 20
    for point in points:
        expected = rates({key: int(point[key]) for key in COUNTS})
        assert expected.keys() == set(RATES)
        for key, value in expected.items():
            if value is None:
                assert point[key] == "–"
            else:
                assert float(point[key]) == pytest.approx(value, abs=0.00051)


def test_in_a_browser_one_choice_of_label_holds_for_all_sections(browser, page):
    browser.open(page[0])
    shown = """[...document.querySelectorAll("[data-panel]")].filter((x) => !x.hidden).map((x) => x.dataset.panel)"""
    assert browser.run(shown) == ["0", "0"]
    browser.run("""document.querySelectorAll(".pick-label")[1].focus()""")
    browser.press("ArrowDown", 40)
    assert browser.run(shown) == ["1", "1"]
    assert browser.run("""[...document.querySelectorAll(".pick-label")].map((x) => x.value)""") == ["1", "1"]
    assert browser.complaints() == []


def test_in_a_browser_a_phone_needs_no_sideways_scrolling_and_keys_reach_everything(browser, page):
    browser.open(page[0], 360, 740, mobile=True)
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = browser.run(wide)
    assert scroll <= client == 360
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    unlabelled = """[...document.querySelectorAll("input, select, button")].filter((x) => !x.labels?.length &&
        !x.ariaLabel && !x.textContent.trim()).length"""
    assert browser.run(unlabelled) == 0
    assert browser.complaints() == []


FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Other finding of the upper abdomen, of which the text of the report says neither side nor cause",
)


@pytest.mark.parametrize(
    "models", [MODELS, {"teacher": 2.0, "same": 2.0, "a-student-with-a-very-long-name-of-its-own": 2.0}]
)
def test_in_a_browser_nothing_is_clipped_overprinted_or_empty(browser, make_document, tmp_path, models):
    html, _ = render(*make_document("multilabel", list(FINDINGS), models), explanations=EXPLANATIONS)
    (tmp_path / "index.html").write_text(html, "utf-8")
    assert chromium.faults(browser, tmp_path / "index.html") == []


def test_in_a_browser_it_prints_every_label(browser, page):
    browser.open(page[0])
    browser.call("Emulation.setEmulatedMedia", media="print")
    looks = """[...document.querySelectorAll("table, .panel, .pick, nav")].map((x) => getComputedStyle(x).display)"""
    assert set(browser.run(looks)) == {"table", "block", "none"}
    browser.call("Emulation.setEmulatedMedia", media="")
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    # Hidden panels and closed details are opened for paper.
    assert browser.run("[...document.querySelectorAll('details')].every((x) => x.open)")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3


def test_a_forest_plot_has_every_group_and_says_which_are_too_small(make_document):
    document, *_ = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    chart = forest(document, "sex")
    groups = document["subgroups"]["columns"]["sex"]["groups"]
    small = [group["name"] for group in groups if group["reason"]]
    assert small == ["O"]
    assert [text for *_, text in chart.texts] == ["too few to say"]
    assert "O (6) too few to say" in chart.spoken
    svg = ElementTree.fromstring(charts.figure(chart)).find("svg")
    assert svg is not None
    assert len(list(svg.iter("circle"))) == len(MODELS) * (len(groups) - 1)
    bars = [path for path in svg.iter("path") if "bar" in path.get("class", "")]
    assert len(bars) == len(MODELS) * (len(groups) - 1)
    assert {f"{group['name']} ({group['images']})" for group in groups} <= {text.text for text in svg.iter("text")}
    first = document["models"]["teacher"]["subgroups"]["sex"]["F"]["overall"]["auroc"]
    assert chart.series[0].x[0] == first["value"]
    assert chart.series[0].x_interval[0] == (first["low"], first["high"])


def test_interval_bar_tells_whether_zero_is_inside():
    assert "away" in interval_bar(0.2, 0.1, 0.3, 0.3)
    assert "around" in interval_bar(0.1, -0.1, 0.3, 0.3)
    circle = ElementTree.fromstring(interval_bar(0.0, -0.1, 0.1, 0.3)).find("circle")
    assert circle is not None
    assert float(circle.get("cx", 0)) == 60
