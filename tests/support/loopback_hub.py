"""A server on this machine that answers as the Hugging Face Hub does, as far as models are fetched and uploaded."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"
"""The one commit of every repository."""


class Hub(ThreadingHTTPServer):
    """Repositories by name: path -> content. "owner/gated" is gated: all may list it, nobody may read its files."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride] - the only server it is given to

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def said(self, value: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def refused(self, code: str, status: int) -> None:
        self.said({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.server.asked.append("/".join(path))
        api = path[:2] == ["api", "models"]
        name, rest = "/".join(path[2:4] if api else path[:2]), path[4:] if api else path[2:]
        if name == "owner/gated" and not api:
            return self.refused("GatedRepo", 403 if "Authorization" in self.headers else 401)
        if name not in self.server.repositories:
            return self.refused("RepoNotFound", 404)
        files = self.server.repositories[name]
        if len(rest) > 1 and rest[1] not in ("main", SHA):
            return self.refused("RevisionNotFound", 404)
        if api and rest[:1] == ["tree"]:
            entries = [{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()]
            return self.said(entries)
        if api:
            return self.said({"id": name, "modelId": name, "sha": SHA, "siblings": [{"rfilename": p} for p in files]})
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self.refused("EntryNotFound", 404)
        return self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=SHA, Accept_Ranges="none")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def do_POST(self) -> None:
        path = urlsplit(self.path).path.strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append("/".join(path))
        if path[1:] == ["repos", "create"]:
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            self.server.repositories.setdefault(name, {})
            return self.said({"url": f"{self.server.endpoint}/{name}", "name": name})
        if path[1:] == ["validate-yaml"]:
            return self.said({"errors": [], "warnings": []})
        name = "/".join(path[2:4])
        if path[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.said({"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self.said(
            {"commitOid": SHA, "commitUrl": f"{self.server.endpoint}/{name}/commit/{SHA}", "success": True}
        )


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def serving(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """The server, until the block ends."""
    server = Hub(("127.0.0.1", 0), _Handler)
    server.repositories, server.asked = repositories, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
