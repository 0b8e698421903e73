"""What the Hub answers about data sets, which are only read here; their repositories are kept as those of models."""

from __future__ import annotations

from pathlib import PurePosixPath

from tests.hub.api import HubHandler, why
from tests.hub.server import REPO, Answer
from tests.hub.store import Blob


class DataSetHandler(HubHandler):
    """The paths under ``datasets/``."""

    routes = (
        ("GET", f"/api/datasets/{REPO}", "info"),
        ("GET", f"/api/datasets/{REPO}/revision/([^/]+)", "info"),
        ("GET", f"/api/datasets/{REPO}/tree/([^/]+)", "tree"),
        ("GET", f"/api/datasets/{REPO}/tree/([^/]+)/(.+)", "tree"),
        ("POST", f"/api/datasets/{REPO}/paths-info/([^/]+)", "paths_info"),
        ("ANY", f"/datasets/{REPO}/resolve/([^/]+)/(.+)", "resolve"),
    )

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        files = self._files(repo, revision)
        inside = [path for path in files if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            raise Answer(404, {"error": "Entry not found"}, why("Entry not found", "EntryNotFound"))
        folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents if parent.name}
        listed = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        raise Answer(200, listed + [files[path].entry(path) for path in inside])

    def paths_info(self, repo: str, revision: str) -> None:
        files = self._files(repo, revision)
        raise Answer(200, [files[path].entry(path) for path in self.json["paths"] if path in files])

    def _files(self, repo: str, revision: str) -> dict[str, Blob]:
        found = self.readable(repo)
        return found.commits[self.at(found, revision)]
