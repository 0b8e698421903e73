"""A Hub of one repository on 127.0.0.1: what the real client asks when it downloads, and what it was asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


@dataclass
class StandIn:
    """A running server.

    Attributes:
        endpoint: for HF_ENDPOINT.
        downloaded: the files that were fetched, in order.
    """

    endpoint: str
    downloaded: list[str] = field(default_factory=list)


@contextmanager
def serve(repo: str, folder: Path) -> Iterator[StandIn]:
    """Serve the files under ``folder`` as the main branch of the model ``repo``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    hub = StandIn(f"http://127.0.0.1:{server.server_port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._file(with_content=False)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
                self._json({"id": repo, "sha": COMMIT, "siblings": []})
            elif path == f"/api/models/{repo}/tree/{COMMIT}":
                self._json([_entry(folder, file) for file in sorted(folder.rglob("*")) if file.is_file()])
            else:
                self._file(with_content=True)

        def _file(self, *, with_content: bool) -> None:
            name = self.path.partition("?")[0].removeprefix(f"/{repo}/resolve/").partition("/")[2]
            file = folder / name
            if not name or not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = file.read_bytes()
            if with_content:
                hub.downloaded.append(name)
            headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            self._send(200, content, headers, with_content=with_content)

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: dict[str, str], *, with_content: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server.RequestHandlerClass = Handler
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(folder: Path, file: Path) -> dict[str, object]:
    content = file.read_bytes()
    path = file.relative_to(folder).as_posix()
    return {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
