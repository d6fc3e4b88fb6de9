import http.client
import json
import threading
import time

import cv2
import pytest

import cxr_deploy
from cxr_data.synthetic.phantom import phantom
from cxr_deploy import demo
from cxr_deploy.cli import demo as command
from cxr_deploy.demo import server as module
from cxr_deploy.demo.server import make_server, threshold


@pytest.fixture(scope="module")
def classifier():
    return cxr_deploy.load(demo.MODEL, threads=1)


@pytest.fixture(scope="module")
def port(classifier):
    server = make_server(classifier, 0, "for tests")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    return cv2.imencode(".png", phantom(1, size=128, seed=3)["pixels"][0])[1].tobytes()


def ask(port, method="GET", path="/", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def test_the_answer_is_that_of_python(port, classifier, png, tmp_path):
    (tmp_path / "image").write_bytes(png)
    expected = classifier.answers(classifier.read(tmp_path / "image")[None])
    response, content = ask(port, "POST", "/answer", png)
    document = json.loads(content)
    assert response.status == 200
    assert [label["name"] for label in document["labels"]] == list(classifier.labels)
    assert [label["probability"] for label in document["labels"]] == expected.probabilities[0].tolist()
    assert [label["called"] for label in document["labels"]] == expected.decisions[0].tolist()
    assert any(label["heat"] for label in document["labels"])
    # Of two classes the first is healthy: what speaks for it is shown on request alone.
    assert document["explained"] == (1 if document["labels"][1]["called"] and document["labels"][1]["heat"] else -1)


def test_the_page_says_which_file_answers_and_its_licences(port):
    record = json.loads(demo.RECORD.read_text("utf-8"))
    document = json.loads(ask(port, path="/model.json")[1])
    assert document["sha256"] == record["sha256"]
    assert document["bytes"] == record["bytes"]
    assert document["licences"][0].startswith("licence: Apache-2.0")
    assert document["licences"][1].endswith(record["data"]["licence"])
    assert len(document["licences"]) == 2 + len(record["starts"])
    assert document["forbidden"] == ""


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40), b"\xff\xd8\xff" + bytes(100)])
def test_what_is_no_image_is_refused_with_the_reason(port, content):
    response, answered = ask(port, "POST", "/answer", content)
    assert response.status == 422
    assert len(json.loads(answered)["error"]) > 5


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Length": str(module.LARGEST + 1)}, 413),
        ({"Content-Length": "0"}, 413),
        ({"Content-Length": "-1"}, 413),
        ({"Content-Length": "many"}, 413),
    ],
)
def test_requests_of_others_and_without_bounds_are_refused(port, headers, code):
    response, _ = ask(port, "POST", "/answer", None, **headers)
    assert response.status == code


@pytest.mark.parametrize("path", ["/../config.py", "/model.int8.onnx", "/page.html", "//etc/passwd", "/answer"])
def test_nothing_but_the_page_can_be_asked_for(port, path):
    assert ask(port, "GET", path)[0].status == 404


def test_every_part_of_the_page_is_there_and_forbids_foreign_scripts(port):
    for path, (_, _, kind) in module.PAGES.items():
        response, content = ask(port, "GET", path)
        assert (response.status, response.headers["Content-Type"]) == (200, kind)
        assert content
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    about = json.loads(ask(port, "GET", "/model.json")[1])
    assert about["bytes"] == demo.MODEL.stat().st_size
    assert about["notice"] == "for tests"


def test_nothing_is_printed_or_kept(port, png, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ask(port, "POST", "/answer", png)
    ask(port, "GET", "/person-1.png")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_silent_connection_does_not_stop_the_others(port, png):
    silent = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    silent.connect()
    began = time.monotonic()
    assert ask(port, "POST", "/answer", png)[0].status == 200
    assert time.monotonic() - began < module.PATIENCE
    silent.close()


def test_a_taken_port_is_named(port, capsys):
    assert command(["--port", str(port), "--browser", "false"]) == 2
    assert f"--port {port}" in capsys.readouterr().err


def test_a_port_out_of_range_is_refused(capsys):
    assert command(["--port", "70000"]) == 2
    assert "1 to 65535" in capsys.readouterr().err


def test_two_classes_have_one_threshold(classifier):
    first, second = threshold(classifier, 0), threshold(classifier, 1)
    assert first is not None
    assert second is not None
    assert first + second == pytest.approx(1)


@pytest.mark.nightly
def test_the_page_answers_in_a_browser(port, png, tmp_path, browser):
    (tmp_path / "a.png").write_bytes(png)
    browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
    browser.until("document.querySelector('#model')?.textContent.includes('for tests')")
    browser.choose("#file", tmp_path / "a.png")
    browser.until("/called\\.$/.test(document.querySelector('#status').textContent)")
    assert browser.run("document.querySelectorAll('#answers tbody tr').length") == 2
    assert browser.run("document.querySelector('#view').naturalWidth") >= 384
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert len(browser.run("document.querySelector('#hash').textContent")) == 64
    browser.run("document.querySelector('input[name=heat]').click()")
    assert browser.run("document.querySelector('#bar').getBoundingClientRect().height") > 0
