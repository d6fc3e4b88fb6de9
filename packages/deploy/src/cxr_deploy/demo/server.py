"""A page on this computer that answers for radiographs: ``cxr demo``.

A small HTTP server on the loopback address. It takes one file at a time, decodes it as ``predict`` does (DICOM and
TIFF too) and keeps nothing. Requests are refused that are larger than :data:`LARGEST`, come from another page
(``Origin``) or ask for another host (``Host``, against DNS rebinding).
"""

import base64
import json
import tempfile
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.command_line.terminal import say
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.images.header import BrokenImage
from cxr_data.models.decisions import in_use
from cxr_deploy import demo
from cxr_deploy.config import DemoConfig
from cxr_deploy.predict import overlay, unusual
from cxr_deploy.predict.classifier import Classifier, heat, load
from cxr_deploy.web.build import licence_lines

LARGEST = 100 * 2**20
"""Bytes of a file, at most."""
PATIENCE = 30
"""Seconds that a connection may be silent."""
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGES = {
    "/": ("demo", "page.html", "text/html; charset=utf-8"),
    "/page.js": ("demo", "page.js", "text/javascript; charset=utf-8"),
    "/bar.js": ("web", "bar.js", "text/javascript; charset=utf-8"),
    "/style.css": ("web", "style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("web", "icon.svg", "image/svg+xml"),
}
"""Path -> folder of the package, file and content type; nothing else can be asked for."""


def serve(config: DemoConfig) -> None:
    """Run the page until Ctrl-C.

    Raises:
        BadInput: The port is taken, or the model file is no model.
    """
    classifier = load(config.model or demo.MODEL)
    server = make_server(classifier, config.port or 0, demo.NOTICE if not config.model else "for research only")
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    say(f"{address}  answers for radiographs on this computer; Ctrl-C ends it")
    if config.browser:
        webbrowser.open(address)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


def make_server(classifier: Classifier, port: int, notice: str) -> ThreadingHTTPServer:
    """The server, bound to 127.0.0.1 but not yet running.

    Args:
        classifier: What answers.
        port: TCP port; 0 takes a free one.
        notice: Sentence shown with every answer.

    Raises:
        BadInput: The port is taken or not allowed.
    """
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        server_version, sys_version = "cxr", ""

        def do_GET(self) -> None:
            if not self._from_here():
                return
            if self.path == "/model.json":
                self._send(200, json.dumps(about(classifier, notice)).encode(), "application/json")
            elif self.path in PAGES:
                folder, name, kind = PAGES[self.path]
                self._send(200, files(f"cxr_deploy.{folder}").joinpath(name).read_bytes(), kind)
            else:
                self._refuse(404, "no such page")

        def do_POST(self) -> None:
            if not self._from_here():
                return
            length = self.headers.get("Content-Length", "")
            if self.path != "/answer":
                self._refuse(404, "no such page")
            elif not length.isdecimal() or not 0 < int(length) <= LARGEST:
                self._refuse(413, f"a file of 1 byte to {LARGEST // 2**20} MiB is expected")
            else:
                content = self.rfile.read(int(length))
                with one_at_a_time:
                    try:
                        self._send(200, json.dumps(answer(classifier, content)).encode(), "application/json")
                    except (BrokenImage, BadInput) as error:
                        self._refuse(422, str(error))

        def _from_here(self) -> bool:
            """Whether the request is of our own page; refuses it otherwise."""
            hosts = {f"{name}:{self.connection.getsockname()[1]}" for name in ("127.0.0.1", "localhost")}
            origin = self.headers.get("Origin")
            if self.headers.get("Host") in hosts and origin in {None, *(f"http://{host}" for host in hosts)}:
                return True
            self._refuse(403, "requests from other pages are refused")
            return False

        def _refuse(self, code: int, why: str) -> None:
            self.close_connection = True
            self._send(code, json.dumps({"error": why}).encode(), "application/json")

        def _send(self, code: int, content: bytes, kind: str) -> None:
            self.send_response(code)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(content))),
                ("Content-Security-Policy", POLICY),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cache-Control", "no-store"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep no log: a request could say whose image it was."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise BadInput("a free TCP port", str(error), where=f"--port {port}", do="leave --port out") from error


def about(classifier: Classifier, notice: str) -> dict[str, Any]:
    """What the page says of the model."""
    return {
        "architecture": classifier.header.architecture,
        "size": classifier.size,
        "precision": classifier.precision,
        "bytes": classifier.path.stat().st_size,
        "sha256": sha256(classifier.path),
        "notice": notice,
        **licence_lines(classifier.header),
        **({"licences": _shipped()} if classifier.path.resolve() == demo.MODEL.resolve() else {}),
    }


def _shipped() -> list[str]:
    """Licences of the model that ships with the package and of what it was made from."""
    record = json.loads(demo.RECORD.read_text("utf-8"))
    starts = [f"start of the {role}: {text}" for role, text in record["starts"].items()]
    data = record["data"]
    return ["licence: Apache-2.0, as the package", f"trained on: {data['name']}, {data['licence']}", *starts]


def answer(classifier: Classifier, content: bytes) -> dict[str, Any]:
    """The answer for one file.

    Args:
        classifier: What answers.
        content: Bytes of an image or DICOM file.

    Returns:
        As JSON types: ``picture``, the radiograph as the network sees it, a PNG in base64; ``warnings``;
        ``heat_edge``, cells along an edge of a heat map; ``explained``, number of the label whose heat map is shown
        first, the most probable of the findings called, -1 for none; and ``labels``, each with name, probability,
        threshold (None where the most probable class is called), called, and ``heat``, a PNG in base64 (None without
        maps, or where there is no evidence for the label).

    Raises:
        BrokenImage: The bytes are no usable image.
        BadInput: The model gives no finite answer.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-demo-") as folder:
        path = Path(folder, "image")
        path.write_bytes(content)
        pixels = classifier.read(path)
        warnings = list(unusual.warnings(path, pixels))
    answers = classifier.answers(pixels[None])
    p, called = answers.probabilities[0], answers.decisions[0]
    edge = max(overlay.EDGE, pixels.shape[0])
    heats = [None] * len(p) if answers.maps is None else list(heat(answers.maps[0], edge))
    labels = []
    for i, name in enumerate(classifier.labels):
        shown = heats[i]
        labels.append(
            {
                "name": name,
                "probability": float(p[i]),
                "threshold": threshold(classifier, i),
                "called": bool(called[i]),
                "heat": None if shown is None or not shown.any() else _png(overlay.draw(pixels, shown)),
            }
        )
    healthy = {0} if classifier.header.task == "multiclass" and len(p) == 2 else set()
    findings = [i for i, label in enumerate(labels) if label["called"] and label["heat"] and i not in healthy]
    return {
        "picture": _png(overlay.draw(pixels, np.zeros_like(pixels, np.float32))),
        "warnings": warnings,
        "explained": max(findings, key=lambda i: p[i], default=-1),
        "labels": labels,
        "heat_edge": 0 if answers.maps is None else answers.maps.shape[-1],
    }


def threshold(classifier: Classifier, label: int) -> float | None:
    """The probability from which a label is called; None where the most probable of the classes is."""
    stored = classifier.header.thresholds
    if not stored:
        return 0.5 if classifier.header.task == "multilabel" else None
    return in_use(stored, len(classifier.labels))[label]


def _png(picture: NDArray[np.uint8]) -> str:
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()
