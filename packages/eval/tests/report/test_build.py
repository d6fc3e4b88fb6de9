import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cxr_eval.report.build import big, figure, pvalue, render, short, signed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "input", "br"}


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
    html = render(*make_document(task, labels, MODELS))
    page = Page(html)
    assert page.open == []
    assert page.addresses == []
    assert "url(" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    assert len(page.ids) == len(set(page.ids))
    assert html.count("Research use only") >= 2
    for name in MODELS:
        assert name in html
    assert ("Confusion matrices" in html) == (case == "four classes")


def test_figures_of_the_document_are_on_the_page(make_document):
    document, targets, answers = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    html = render(document, targets, answers)
    for model in document["models"].values():
        entry = model["overall"]["auroc"]
        assert f"<b>{figure(entry['value'])}</b><small>{figure(entry['low'])}–{figure(entry['high'])}</small>" in html
    assert signed(document["differences"]["resnet18"]["overall"]["f1"]["value"]) in html
    assert 'title="no positive image"' in html
    assert "A note." in html
    assert "Split by us." in html
    assert "2 unreadable files" in html


def test_operating_points_of_the_script_are_those_of_the_metrics(make_document):
    document, targets, answers = make_document("multiclass", ["NORMAL", "PNEUMONIA"], MODELS)
    html = render(document, targets, answers)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found
    (data,) = json.loads(found[1])
    for model, points in zip(document["models"].values(), data["models"], strict=True):
        start, label = points["start"], model["labels"]["PNEUMONIA"]
        assert points["t"][start] == 0.5
        assert (points["tp"][start], points["fp"][start]) == (label["tp"], label["fp"])
        assert points["tp"] == sorted(points["tp"], reverse=True)


def test_one_model_without_timing_needs_no_comparison(make_document):
    html = render(*make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"teacher": 2.0}, speed=False))
    Page(html)
    assert "Differences to" not in html
    assert "Latency" not in html


def test_a_cohort_without_any_positive_still_makes_a_page(make_document):
    html = render(*make_document("multilabel", ["Hernia"], MODELS))
    Page(html)
    assert "AUROC –" in html
    assert "undefined for one of the two" in html


def test_names_from_files_cannot_inject(make_document):
    evil = "</script><img src=x onerror=alert(1)>"
    html = render(*make_document("multilabel", [evil, "Edema", "Hernia"], {evil: 1.0, "b": 2.0}))
    page = Page(html)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2


def test_numbers_are_short():
    assert big(11_176_512) == "11.2 M"
    assert big(94_000_000, "B") == "94 MB"
    assert big(12) == "12"
    assert short(1283.4) == "1280"
    assert short(0.00001234) == "0.0000123"
    assert pvalue(0.0318) == "0.032"
    assert pvalue(3e-9) == "< 0.0001"
    assert signed(-0.0123) == "−0.012"
    assert figure(None) == "–"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_sliders_update_the_counts_and_nothing_complains(make_document, tmp_path: Path):
    document, targets, answers = make_document("multilabel", ["Mass", "Edema", "Hernia"], MODELS)
    probe = """
    <script>
      const card = document.querySelectorAll("[data-card]")[1], slider = card.querySelector("input");
      const read = () => Object.fromEntries([...card.querySelectorAll("[data-c]")].map((x) => [x.dataset.c,
      x.textContent])); const mark = () =>
      document.querySelector('[data-mark="roc-0-1"]').getAttribute("cx"); const seen = { before: read(),
      mark: [mark()] }; slider.value = 0; slider.dispatchEvent(new Event("input"));
      seen.all = read(); seen.mark.push(mark());
      slider.value = slider.max; slider.dispatchEvent(new Event("input"));
      seen.none = read(); seen.output = card.querySelector("output").textContent;
      card.querySelector(".reset").click();
      seen.reset = read();
      const pick = document.getElementById("label");
      pick.value = "2"; pick.dispatchEvent(new Event("change"));
      seen.shown = [...document.querySelectorAll("[data-panel]")].filter((x) => !x.hidden).map((x) =>
      x.dataset.panel); seen.wide = document.documentElement.scrollWidth >
      document.documentElement.clientWidth; document.body.innerHTML = "<pre>" + JSON.stringify(seen) +
      "</pre>";
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(render(document, targets, answers).replace("</body>", probe), "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=500,900", "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0
    assert "CONSOLE" not in ran.stderr, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r"<pre>(.*?)</pre>", ran.stdout, re.S)
    assert found, ran.stdout[-2000:]
    seen = json.loads(found[1])

    label = document["models"]["resnet18"]["labels"]["Mass"]
    assert seen["before"]["tp"] == str(label["tp"])
    assert seen["before"]["f1"] == figure(label["f1"]["value"])
    assert seen["all"]["fn"] == "0"
    assert seen["all"]["tp"] == str(label["positives"])
    assert seen["all"]["fp"] == str(label["negatives"])
    assert seen["none"]["tp"] == "0"
    assert seen["none"]["precision"] == "–"
    assert seen["output"] == "∞"
    assert seen["reset"] == seen["before"]
    assert seen["mark"][0] != seen["mark"][1]
    assert seen["shown"] == ["2"]
    assert seen["wide"] is False
