"""A headless Chromium to look at pages with, driven over its own protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in a headless Chromium, spoken to in JSON over a pair of pipes (``--remote-debugging-pipe``)."""

    def __init__(self, profile: Path):
        (read_theirs, self._write), (self._read, write_theirs) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # The protocol wants descriptors 3 and 4; a shell puts them there.
        command = f'exec "$@" 3<&{read_theirs} 4>&{write_theirs}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(CHROMIUM), *flags, "about:blank"],
            pass_fds=(read_theirs, write_theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        document = json.loads(message)
        if "method" in document:
            self.events.append(document)
        return document

    def open(self, page: Path, width: int = 1200, height: int = 900, *, mobile: bool = False) -> None:
        """Open a page and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def run(self, code: str) -> Any:
        """Value of a JavaScript expression in the page, a promise awaited."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, code: str, seconds: float = 120) -> Any:
        """Wait for an expression to give something true."""
        end = time.monotonic() + seconds
        while not (value := self.run(code)):
            assert time.monotonic() < end, f"{code} stays {value!r}: {self.run('document.body.innerText')}"
            time.sleep(0.1)
        return value

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file as the file dialog would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[str]:
        """What the page wrote on the console, and what it threw."""
        named = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in named]

    def requests(self) -> list[str]:
        """Addresses the page asked for."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def pdf(self) -> bytes:
        """The page as printed."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def close(self) -> None:
        """End Chromium."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)


LOAD_ALL = """Promise.allSettled([...document.images].map((one) => { one.loading = "eager"; return one.decode(); }))"""
"""Waits for pictures that a browser would load when they come into sight."""
FAULTS = Path(__file__).with_name("faults.js").read_text("utf-8")
"""What is wrong with the page that is open: too wide, clipped, overprinted, empty; a list of sentences."""


def faults(browser: Browser, page: Path, folder: Path | None = None) -> list[str]:
    """What is wrong with a page on a desk and on a phone.

    Args:
        browser: The browser.
        page: An HTML file.
        folder: Where to put pictures of both; None takes none.
    """
    actual = []
    for width, height, mobile in ((1280, 900, False), (390, 844, True)):
        browser.open(page, width, height, mobile=mobile)
        browser.call("Runtime.evaluate", expression=LOAD_ALL, awaitPromise=True)
        actual += [f"{page.name} at {width} px: {fault}" for fault in browser.run(f"{FAULTS}({width})")]
        if folder is not None:
            shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, **_whole(browser))
            (folder / f"{page.stem}-{width}.png").write_bytes(base64.b64decode(shot["data"]))
    return actual


def _whole(browser: Browser) -> dict[str, Any]:
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    return {"clip": {**size, "x": 0, "y": 0, "scale": 1}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
