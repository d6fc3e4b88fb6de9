import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import chromium
import cv2
import numpy as np
import pytest

from cxr_ssl.method import PagePart
from cxr_ssl.picture_page import page

EVIL = "</script><img src=x onerror=alert(1)>'\""


class Page(HTMLParser):
    """Collects tags and addresses; fails on tags that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def line(epoch: int, **changes: Any) -> dict[str, Any]:
    numbers = {"loss_ratio": 1.02, "code_entropy": 0.8 - epoch / 20, "rank": 10.0 + epoch, "probe_auroc": 0.7}
    return {"epoch": epoch, **numbers, "prototypes_in_use": 0.9, "agreement": 0.5, "probe_auroc_10": None, **changes}


def made(name: str = "NORMAL") -> tuple[str, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    points = random.normal(size=(30, 2))
    first = np.arange(30) < 12
    probe_alone = {"epoch": 0, "probe_auroc": 0.6, "probe_auroc_10": 0.55}
    collapsed = line(2, collapse=name, recovery="sharper codes (epsilon 0.05 -> 0.03)", loss_ratio=None)
    strips = [
        {"heading": "Prototype 1: nearest of 25.0% of the images", "images": images},
        {"heading": f"Prototype 2 {name}", "images": images[:1]},
    ]
    html = page(
        f"Pretraining: {name}",
        {"cohort": name},
        PagePart(f"Prototypes {name}", name, strips, {"Codes": {"loss_ratio": "loss / ln K", "code_entropy": name}}),
        [{"title": f"map {name}", "points": points, "groups": {name: first, "PNEUMONIA": ~first}}],
        [probe_alone, line(1), collapsed, line(2), line(3)],
    )
    return html, images, points


def test_the_page_is_whole_and_asks_for_nothing():
    html, images, _ = made()
    parsed = Page(html)
    assert parsed.open == []
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert not re.search(r"https?:|url\(|@import|<script", html)
    coded = [base64.b64decode(address.partition(",")[2]) for address in parsed.addresses]
    shown: list[Any] = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_UNCHANGED) for one in coded]
    assert len(shown) == 4
    assert np.array_equal(np.stack(shown[:3]), images)
    assert "nearest of 25.0% of the images" in html
    assert "Research use only" in html


def test_every_point_is_inside_its_map_in_its_group():
    html, _, points = made()
    figure = html[html.index("map NORMAL") :]
    groups = re.findall(r'<g class="(dot s\d)">(.*?)</g>', figure[: figure.index("</svg>")])
    assert [len(re.findall("<circle", inside)) for _, inside in groups] == [12, 18]
    assert len({colour for colour, _ in groups}) == 2
    spots = [np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', inside), float) for _, inside in groups]
    placed = np.concatenate(spots)
    assert placed.min() > 0
    assert (placed < [400, 320]).all()
    # Axes are stretched alone, so the order along each is that of the points.
    assert (np.argsort(placed[:, 0]) == np.argsort(points[:, 0])).all()
    assert "NORMAL (12)" in html
    assert "PNEUMONIA (18)" in html


def test_curves_leave_gaps_and_tell_of_collapses():
    html, *_ = made()
    loss = re.search(r'<path class="line s0" d="([^"]*)"', html[html.index("<figcaption>Codes") :])
    assert loss
    assert (loss[1].count("M"), loss[1].count("L")) == (2, 1)  # nothing at epoch 0, a gap at the collapse
    assert "epoch 2: NORMAL; sharper codes (epsilon 0.05 -&gt; 0.03)" in html
    assert "undefined in this run" in page("t", {}, PagePart("", "", []), [], [line(1, probe_auroc=None)])


def test_one_epoch_is_told_in_numbers():
    """A curve through one point shows nothing."""
    html = page("t", {}, PagePart("", "", [], {"Codes": {"loss_ratio": "loss"}}), [], [line(1)])
    for title in ("Codes", "Effective rank", "Validation images"):
        chart = html[html.index(f"<figcaption>{title}") :]
        assert re.search(r"<b>[\d.]+</b>, epoch 1", chart[: chart.index("</figure>")]), title


def test_names_from_files_cannot_inject():
    parsed = Page(made(EVIL)[0])
    assert "script" not in parsed.tags
    assert len(parsed.addresses) == parsed.tags.count("img") == 4
    assert "x" not in parsed.addresses


@pytest.mark.parametrize("log", [[line(1)], [line(epoch) for epoch in range(1, 40)]])
def test_a_browser_shows_it_without_fault(browser, tmp_path: Path, log):
    strips = [{"heading": "Prototype 1", "images": [np.zeros((72, 72), np.uint8)] * 6}]
    whole = PagePart("Prototypes", "", strips, {"Codes": {"loss_ratio": "loss"}})
    (tmp_path / "page.html").write_text(page("t", {"cohort": "c" * 200}, whole, [], log), "utf-8")
    assert chromium.faults(browser, tmp_path / "page.html") == []
    assert browser.complaints() == []
