"""The page in headless Chromium, against Python's answers."""

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

import cxr_deploy
from cxr_deploy.web.build import build

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def site(exported, ort_web, tmp_path_factory, serve):
    folder = tmp_path_factory.mktemp("site") / "page"
    build(folder, exported, "student", ort_web)
    return serve(folder)


@pytest.fixture
def page(site, browser):
    address, asked = site
    browser.call("Page.navigate", url="about:blank")
    browser.events.clear()
    browser.call("Page.navigate", url=address)
    browser.until("document.querySelector('#file') && !document.querySelector('#file').disabled")
    return browser, address, asked


@pytest.fixture(scope="module")
def files(shared_data, tmp_path_factory):
    """Real radiographs of every kind the page reads."""
    place = tmp_path_factory.mktemp("radiographs")
    dataset = dcmread(sorted((shared_data / "formats" / "dicom").iterdir())[0])
    dataset.decompress()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.save_as(place / "plain.dcm")
    deep = dcmread(place / "plain.dcm")
    values = deep.pixel_array.astype(np.uint16) * 13 + 100
    deep.PixelData, deep.BitsAllocated, deep.BitsStored, deep.HighBit = values.tobytes(), 16, 12, 11
    deep["PixelData"].VR = "OW"
    deep.WindowCenter, deep.WindowWidth = 1700, 2600
    deep.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    deep.save_as(place / "deep.dcm")
    actual = {
        "small JPEG": sorted((shared_data / "kermany_pneumonia" / "test" / "PNEUMONIA").iterdir())[3],
        "JPEG": sorted((shared_data / "covid_cxr").rglob("*.jpg"))[10],
        "PNG": shared_data / "formats" / "nih_png" / "00000001_000.png",
        "DICOM": place / "plain.dcm",
        "12-bit DICOM with a window": place / "deep.dcm",
    }
    full = sorted((shared_data / "formats" / "kermany_fullsize" / "NORMAL").iterdir())
    return actual | {f"full-size JPEG {i}": file for i, file in enumerate(full[:3])}


def answer(browser, file):
    browser.run("document.querySelector('#status').textContent = document.querySelector('#file').value = ''")
    browser.choose("#file", file)
    browser.until("/called\\.$|cannot be used/.test(document.querySelector('#status').textContent)")
    return browser.run(
        "Object.fromEntries([...document.querySelectorAll('#answers tbody tr')].map("
        "row => [row.dataset.label, [Number(row.dataset.probability), row.dataset.called === 'true']]))"
    )


def set_opacity(browser, value):
    browser.run(
        f"(o => {{ o.value = {value}; o.dispatchEvent(new Event('input')); }})(document.querySelector('#opacity'))"
    )


def explain(browser):
    """Choose the heat map of PNEUMONIA, whether it was called or not."""
    browser.run("document.querySelector('input[name=heat][value=\"1\"]').click()")


def test_answers_are_pythons(page, files, exported):
    browser, _, _ = page
    classifier = cxr_deploy.load(exported, threads=1)
    spread = []
    for kind, file in files.items():
        expected = classifier.answers(classifier.read(file)[None])
        actual = answer(browser, file)
        # Python's decoder shrinks large JPEGs before it rounds to 8 bits, the browser's cannot: one pixel in 25 is one
        # gray level off. All other files give the same pixels to the last bit.
        tolerance = 3e-3 if "full-size" in kind else 1e-3
        for i, label in enumerate(classifier.labels):
            assert actual[label][0] == pytest.approx(expected.probabilities[0, i], abs=tolerance), kind
            assert actual[label][1] == expected.decisions[0, i], kind
        spread.append(expected.probabilities[0, 1])
    assert max(spread) - min(spread) > 0.02  # a page that ignored the image would fail
    assert float(browser.run("document.querySelector('#timing').dataset.milliseconds")) > 0


def test_eight_bits_answer_as_in_python(eight_bits, ort_web, tmp_path, serve, browser, files):
    build(tmp_path / "page", eight_bits, "student", ort_web)
    browser.call("Page.navigate", url=serve(tmp_path / "page")[0])
    browser.until("document.querySelector('#file') && !document.querySelector('#file').disabled")
    classifier = cxr_deploy.load(eight_bits, threads=1)
    for kind in ("small JPEG", "PNG", "DICOM"):
        expected = classifier.answers(classifier.read(files[kind])[None])
        actual = answer(browser, files[kind])
        for i, label in enumerate(classifier.labels):
            assert actual[label][0] == pytest.approx(expected.probabilities[0, i], abs=1e-3), kind


def test_the_heat_map_is_pythons(page, files, exported):
    browser, _, _ = page
    classifier = cxr_deploy.load(exported, threads=1)
    stored = classifier.read(files["PNG"])
    answer(browser, files["PNG"])
    from cxr_deploy.predict.classifier import heat

    maps = classifier.answers(stored[None]).maps
    assert maps is not None
    explain(browser)
    expected = heat(maps[0], 384)[1]
    shades = "[...document.querySelector('#view').getContext('2d').getImageData(0, 0, 384, 384).data]"
    with_heat = np.array(browser.run(shades)).reshape(384, 384, 4)[..., :3].astype(float)
    set_opacity(browser, 0)
    without = np.array(browser.run(shades)).reshape(384, 384, 4)[..., :3].astype(float)
    set_opacity(browser, 45)
    np.testing.assert_allclose(without[..., 0], cv2.resize(stored, (384, 384), interpolation=cv2.INTER_LINEAR), atol=2)
    change = np.abs(with_heat - without).max(axis=2)
    assert np.abs(change[expected == 0]).max(initial=0) <= 2
    assert change[expected > 0.9].mean() > 20
    # The very colours that `predict --heatmaps` draws, but for the steps of its palette.
    stops = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], float)
    colour = np.stack([np.interp(expected, np.linspace(0, 1, 5), stops[:, c]) for c in range(3)], axis=-1)
    weight = 0.45 * expected[..., None]
    np.testing.assert_allclose(with_heat, without * (1 - weight) + colour * weight, atol=3)


def test_what_is_not_called_is_explained_on_request_alone(page, files):
    browser, _, _ = page
    decisions = set()
    for kind in ("small JPEG", "PNG", "DICOM"):
        called = answer(browser, files[kind])["PNEUMONIA"][1]
        decisions.add(called)
        chosen = browser.run("document.querySelector('input[name=heat]:checked')?.value ?? null")
        assert chosen == ("1" if called else None)
        said = browser.run("document.querySelector('#explained').textContent")
        assert ("no finding was called" in said) != called
        before = browser.run("document.querySelector('#view').toDataURL()")
        explain(browser)
        assert (browser.run("document.querySelector('#view').toDataURL()") == before) == called
        assert "PNEUMONIA" in browser.run("document.querySelector('#explained').textContent")
    assert False in decisions


def test_nothing_leaves_the_folder(page, files):
    browser, address, asked = page
    answer(browser, files["PNG"])
    assert browser.requests()
    assert all(url.startswith((address, "about:", "blob:", "data:")) for url in browser.requests()), browser.requests()
    assert {"/", "/app.js", "/model.onnx", "/model.json"} <= set(asked)
    assert not [path for path in asked if "?" in path]
    # The policy of the page, not good manners, holds it: another place is refused.
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'let through', () => 'refused')") == "refused"
    violated = (
        "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective));"
        " fetch('http://localhost:9/').catch(() => setTimeout(() => done('none'), 1000)); })"
    )
    assert browser.run(violated) == "connect-src"


def test_it_is_used_by_keyboard(page, files):
    browser, _, _ = page
    answer(browser, files["PNG"])
    browser.run("document.activeElement.blur()")
    seen = []
    for _ in range(6):
        browser.press("Tab", 9)
        seen.append(browser.run("document.activeElement.id || document.activeElement.name"))
    assert {"file", "opacity", "heat"} <= set(seen)
    explain(browser)
    browser.run("document.querySelector('input[name=heat]:checked').focus()")
    before = browser.run("document.querySelector('#view').toDataURL()")
    browser.press("ArrowUp", 38)
    assert browser.run("document.querySelector('input[name=heat]:checked').getAttribute('aria-label')").endswith(
        "NORMAL"
    )
    assert browser.run("document.querySelector('#view').toDataURL()") != before
    assert "NORMAL" in browser.run("document.querySelector('#view').getAttribute('aria-label')")


@pytest.mark.parametrize(("width", "mobile"), [(360, True), (390, True), (1280, False)])
def test_nothing_is_wider_than_the_screen(page, files, width, mobile):
    browser, _, _ = page
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=2, mobile=mobile)
    try:
        answer(browser, files["PNG"])
        assert browser.run("document.documentElement.scrollWidth") <= width
        outside = browser.run(
            f"[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > {width} + 0.5)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert outside == []
        # No word is broken: each name of a label stands on one line.
        lines = browser.run("[...document.querySelectorAll('th.label')].map(e => e.getClientRects().length)")
        heights = browser.run("[...document.querySelectorAll('th.label')].map(e => e.getBoundingClientRect().height)")
        assert lines == [1, 1]
        assert max(heights) < 90
        # The mark is three pixels wide whatever the width of the bar, and stands out above and below it.
        marks = browser.run(
            "[...document.querySelectorAll('line.threshold')].map(e => [getComputedStyle(e).strokeWidth,"
            " getComputedStyle(e).vectorEffect, e.getBoundingClientRect().height,"
            " e.parentElement.querySelector('.fill').getBoundingClientRect().height])"
        )
        assert len(marks) == 2
        assert all(mark[:2] == ["3px", "non-scaling-stroke"] and mark[2] > mark[3] + 3 for mark in marks), marks
        boxes = browser.run(
            "['#drop', '#view', '#scale', '#answers', '#status'].map(s => { const b = document.querySelector(s)"
            ".getBoundingClientRect(); return [b.left, b.right, b.width]; })"
        )
        assert all(left >= 0 and right <= width and wide > 200 for left, right, wide in boxes), boxes
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def test_it_says_which_model_and_what_a_heat_map_is(page, files, exported):
    browser, _, _ = page
    answer(browser, files["PNG"])
    explain(browser)
    text = browser.run("document.body.innerText")
    assert "student (resnet18, 96 px, float32, " in text
    assert "ab" * 32 in text
    assert "threshold 0.550" in text
    assert "threshold 0.450" in text  # of the other class: one minus that of the positive one
    assert "3 × 3 cells" in text
    assert "made from <b>rad</b>/model.safetensors (hf:org/rad@1): licence MSRLA" in text  # names are no markup
    assert "NOT FOR COMMERCIAL USE" in browser.run("document.querySelector('#forbidden').innerText")
    assert browser.run("document.querySelectorAll('#licences li').length") == 2
    assert browser.run("document.querySelector('b')") is None
    assert "none" in browser.run("document.querySelector('#bar').innerText")
    colours = "[...document.querySelector('#scale').getContext('2d').getImageData(0, 5, 256, 1).data]"
    shades = np.array(browser.run(colours)).reshape(256, 4)
    assert shades[0].tolist() == [0, 0, 4, 255]
    assert shades[-1][:3].min() > 150


def test_it_says_what_is_wrong_and_what_it_is_for(page, files, tmp_path, shared_data):
    browser, _, _ = page
    (tmp_path / "notes.png").write_text("no image")
    answer(browser, tmp_path / "notes.png")
    assert "not a PNG" in browser.run("document.querySelector('#status').textContent")
    assert browser.run("document.querySelector('#answers').hidden")
    answer(browser, sorted((shared_data / "formats" / "dicom").iterdir())[0])
    assert "compressed" in browser.run("document.querySelector('#status').textContent")
    image = cv2.imread(str(files["PNG"]), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    cv2.imwrite(str(tmp_path / "inverted.png"), 255 - image)
    answer(browser, tmp_path / "inverted.png")
    assert "inverted" in browser.run("document.querySelector('#warning').textContent")
    cv2.imwrite(str(tmp_path / "deep.png"), image.astype(np.uint16) * 16)
    answer(browser, tmp_path / "deep.png")
    assert "a PNG of 16 bits" in browser.run("document.querySelector('#status').textContent")
    assert browser.run("document.querySelector('#answers').hidden")
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([image, image, image, np.where(image > 99, 255, 0)]))
    answer(browser, tmp_path / "clear.png")
    assert "a PNG with transparent pixels" in browser.run("document.querySelector('#status').textContent")
    (tmp_path / "cut.jpg").write_bytes(files["JPEG"].read_bytes()[:5000])
    answer(browser, tmp_path / "cut.jpg")
    assert "a truncated JPEG" in browser.run("document.querySelector('#status').textContent")
    answer(browser, files["PNG"])
    assert browser.run("document.querySelector('#warning').hidden")
    assert "research only" in browser.run("document.body.innerText")
