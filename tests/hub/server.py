"""A Hub on 127.0.0.1: the protocol that huggingface_hub speaks, as far as models are pushed and pulled.

Two servers, as at the real one: the Hub, which knows tokens, and the storage of large files, whose addresses are
signed and which must never see one. Faults can be set: a status, or a connection cut after so many bytes.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.store import Repository

REPO = r"([^/]+/[^/]+)"  # owner and name in a path
TOKEN = "hf_" + "WriterOfAdasRepositories0123456789"
READER = "hf_" + "BobMayReadButNotWriteAnything01234"


@dataclass
class Fault:
    """What happens to the next ``times`` requests that fit."""

    method: str
    path: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hold: threading.Event | None = None
    lose_answer: bool = False


@dataclass
class Hub:
    """The state of the Hub, its addresses, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=lambda: {TOKEN: "ada", READER: "bob"})
    readers: set[str] = field(default_factory=lambda: {READER})
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    corrupt: Callable[[str, bytes], bytes] | None = None
    part_size: int | None = None
    page: int = 1000
    endpoint: str = ""
    storage: str = ""
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def fail(self, method: str, path: str, **fault: object) -> Fault:
        """Set a fault for requests whose method is ``method`` and whose path ``path`` (a pattern) is found in."""
        self.faults.append(Fault(method, path, **fault))  # type: ignore[arg-type]
        return self.faults[-1]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str) -> int:
        """How often it was asked for something."""
        return sum(asked == method and re.search(path, where) is not None for asked, where in self.asked)

    def downloaded(self, repo: str) -> list[str]:
        """The files of a repository that were fetched, in order; large ones by their address in the storage."""
        commits = self.repositories[repo].commits.values()
        large = {f"/{repo}/{blob.sha256}": path for files in commits for path, blob in files.items() if blob.large}
        small = re.compile(rf"/{repo}/resolve/[^/]+/(.+)")
        asked = [where for method, where in self.asked if method == "GET"]
        return [large.get(where) or small.sub(r"\1", where) for where in asked if where in large or small.match(where)]


class Answer(Exception):  # noqa: N818 - it ends a request, and is no error of ours
    """What a request is answered with."""

    def __init__(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
        self.status, self.body, self.headers = status, body, headers or {}


class Handler(BaseHTTPRequestHandler):
    """Finds the method of the class that a path belongs to."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    routes: tuple[tuple[str, str, str], ...] = ()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.hub.lock:
            self.hub.asked.append((self.command, url.path))
        fault = self.hub.take_fault(self.command, url.path)
        try:
            if fault is not None:
                self._suffer(fault)
            self._read_body()
            self._route(url.path)
        except Answer as answer:
            if fault is not None and fault.lose_answer:
                self._hang_up()
                return
            self._send(answer)
        except ConnectionError:
            self.close_connection = True

    def _suffer(self, fault: Fault) -> None:
        if fault.cut_after is not None:
            self.rfile.read(fault.cut_after)
            self._hang_up()
            raise ConnectionResetError
        if fault.hold is not None:
            fault.hold.wait(60)
        if fault.status is not None:
            self._read_body()
            raise Answer(fault.status, {"error": "set by the test"}, fault.headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            self.body = b"".join(pieces)
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _route(self, path: str) -> None:
        for method, pattern, name in self.routes:
            found = re.fullmatch(pattern, path)
            if method in (self.command, "ANY") and found is not None:
                getattr(self, name)(*(unquote(group) for group in found.groups()))
                raise AssertionError(f"{name} gave no answer")
        raise Answer(404, {"error": f"this Hub does not know {self.command} {path}"})

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    def send_bytes(self, data: bytes, headers: dict[str, str]) -> None:
        """Give a file, or the part of it that ``Range`` names."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            raise Answer(200, data, {**headers, "Content-Length": str(len(data))})
        start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
        if start >= len(data):
            raise Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        raise Answer(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


class Quiet(ThreadingHTTPServer):
    """A server whose threads end with the test, and that takes a client's leaving calmly."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed."""
