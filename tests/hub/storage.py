"""What the storage of large files answers, and how it and the Hub are started."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hub.api import HubHandler
from tests.hub.server import REPO, Answer, Handler, Hub, Quiet


class StorageHandler(Handler):
    """The storage of large files: signed addresses, checks of size and SHA-256, no tokens."""

    routes = (
        ("PUT", f"/{REPO}/([0-9a-f]{{64}})", "put"),
        ("PUT", f"/{REPO}/([0-9a-f]{{64}})/([0-9]+)", "put_part"),
        ("ANY", f"/{REPO}/([0-9a-f]{{64}})", "get"),
    )

    def _signed(self) -> None:
        if "Authorization" in self.headers:
            self.hub.leaks.append(self.path)
        if self.query.get("signature") != "s":
            raise Answer(403, {"error": "not signed"})

    def put(self, repo: str, oid: str) -> None:
        self._signed()
        if len(self.body) != int(self.query["size"]):
            raise Answer(400, {"error": "another size than was announced"})
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, {"error": "SHA-256 mismatch"})
        self.hub.repositories[repo].stored[oid] = self.body
        raise Answer(200, b"", {"ETag": f'"{oid[:32]}"'})

    def put_part(self, repo: str, oid: str, number: str) -> None:
        self._signed()
        self.hub.parts[oid, int(number)] = self.body
        raise Answer(200, b"", {"ETag": f'"part-{number}"'})

    def get(self, repo: str, oid: str) -> None:
        self._signed()
        data = self.hub.repositories[repo].stored.get(oid)
        if data is None:
            raise Answer(404, {"error": "NoSuchKey"})
        self.send_bytes(data, {"ETag": f'"{oid[:32]}"'})


@contextmanager
def serving(hub: Hub, *, handler: type[Handler] = HubHandler) -> Iterator[Hub]:
    """A Hub that answers by ``handler``, and its storage, until the context ends."""
    servers = []
    for answering in (handler, StorageHandler):
        bound = type(answering.__name__, (answering,), {"hub": hub})
        servers.append(Quiet(("127.0.0.1", 0), bound))
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
