"""A stand-in for the Hub on 127.0.0.1, and load_corpus run against it in a process of its own."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[2]

# A shared machine stalls now and then: no test fails for being slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# HF_ENDPOINT and HF_HUB_OFFLINE are read when huggingface_hub is imported: hence a process.
DRIVER = """
import json, sys
from llmprune.calibration.corpora import load_corpus
answers = []
for spec, purpose in json.load(sys.stdin):
    try:
        corpus = load_corpus(spec, purpose=purpose)
        answers.append({"name": corpus.name, "rows": corpus.rows, "separator": corpus.separator,
                        "origin": corpus.origin, "note": corpus.note})
    except Exception as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps(answers))
"""


class StandInHub:
    """Data set repositories by (name, revision): path -> bytes. What a test adds is what the Hub has."""

    def __init__(self, home: Path) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.down = False
        self.requests: list[str] = []
        self.home = home
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Add a revision; returns its commit."""
        self.repos[repo, revision] = files
        commit = hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()
        self.repos[repo, commit] = files
        return commit

    def load(self, *specs: str | tuple[str, str], **environment: str) -> list[dict]:
        """load_corpus of each spec, or (spec, purpose); fails if anything appears on stderr."""
        pairs = [(spec, "calibration") if isinstance(spec, str) else spec for spec in specs]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        environment = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), **environment}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRIVER],
            input=json.dumps(pairs),
            env={**kept, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.reply()

            def do_GET(self):
                self.reply()

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(length)
                self.reply()

            def log_message(self, *_):
                pass

            def reply(self):
                hub.requests.append(f"{self.command} {self.path}")
                if hub.down:
                    return self.send(503, b"", {})
                path = unquote(urlsplit(self.path).path).strip("/")
                kind = "api" if path.startswith("api/") else "file"
                name = path.removeprefix("api/").removeprefix("datasets/")
                repo, rest = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
                if repo in hub.gated:
                    return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
                if not any(known == repo for known, _ in hub.repos):
                    return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
                verb, _, rest = rest.partition("/")
                revisions = [rev for known, rev in hub.repos if known == repo and (rest + "/").startswith(rev + "/")]
                if verb and not revisions:
                    return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
                revision = max(revisions, key=len) if verb else "main"
                files = hub.repos[repo, revision]
                rest = rest[len(revision) :].strip("/") if verb else ""
                commit = hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()
                commit = revision if len(revision) == 40 else commit
                if kind == "file":
                    return self.send_file(files, rest, commit)
                return self.send_json(repo, verb, rest, files, commit)

            def send_file(self, files, path, commit):
                if path not in files:
                    return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                etag = hashlib.sha256(files[path]).hexdigest()
                return self.send(200, files[path], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

            def send_json(self, repo, verb, path, files, commit):
                def entry(name):
                    oid = hashlib.sha1(files[name]).hexdigest()
                    return {"type": "file", "path": name, "size": len(files[name]), "oid": oid}

                match verb:
                    case "" | "revision":
                        siblings = [{"rfilename": name} for name in files]
                        answer = {"id": repo, "sha": commit, "siblings": siblings}
                    case "tree":
                        inside = [name for name in files if not path or name.startswith(path + "/")]
                        if path and not inside:
                            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                        folders = {parent.as_posix() for name in inside for parent in Path(name).parents if parent.name}
                        answer = [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]
                        answer += [entry(name) for name in inside]
                    case "paths-info":
                        asked = json.loads(self.body)["paths"]
                        answer = [entry(name) for name in asked if name in files]
                    case _:
                        return self.send(404, b"", {})
                return self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

            def send(self, status, content, headers):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler


@pytest.fixture
def hub(tmp_path):
    hub = StandInHub(tmp_path / "hf-home")
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()
