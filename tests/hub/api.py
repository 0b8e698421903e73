"""What the Hub answers, path by path."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from urllib.parse import quote

import yaml

from tests.hub.server import REPO, Answer, Handler
from tests.hub.store import Repository
from tests.publishing.card_rules import card_errors


class HubHandler(Handler):
    """The Hub itself."""

    routes = (
        ("GET", "/api/whoami-v2", "whoami"),
        ("POST", "/api/repos/create", "create"),
        ("POST", "/api/validate-yaml", "validate_card"),
        ("GET", f"/api/models/{REPO}", "info"),
        ("GET", f"/api/models/{REPO}/revision/([^/]+)", "info"),
        ("GET", f"/api/models/{REPO}/tree/([^/]+)", "tree"),
        ("GET", f"/api/models/{REPO}/refs", "refs"),
        ("POST", f"/api/models/{REPO}/preupload/([^/]+)", "preupload"),
        ("POST", f"/api/models/{REPO}/commit/([^/]+)", "commit"),
        ("POST", f"/api/models/{REPO}/branch/([^/]+)", "create_branch"),
        ("POST", f"/api/models/{REPO}/tag/([^/]+)", "create_tag"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
        ("POST", rf"/{REPO}\.git/info/lfs/verify", "verify"),
        ("POST", rf"/{REPO}\.git/info/lfs/complete", "complete"),
        ("ANY", f"/{REPO}/resolve/([^/]+)/(.+)", "resolve"),
    )

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Answer(401, {"error": "Invalid credentials in Authorization header"}, why("Invalid credentials"))
        return self.hub.users.get(token)

    def readable(self, repo: str) -> Repository:
        """A repository that the asker may see; a private one does not exist for others."""
        found, user = self.hub.repositories.get(repo), self.user
        if found is None or (found.private and found.owner != user):
            if user is None:
                raise Answer(401, {"error": "Invalid username or password."}, why("Invalid username or password."))
            raise Answer(404, {"error": "Repository not found"}, why("Repository not found", "RepoNotFound"))
        return found

    def writable(self, repo: str) -> Repository:
        found = self.readable(repo)
        if self.user is None:
            raise Answer(401, {"error": "Invalid username or password."})
        self.may_write(found.owner)
        return found

    def may_write(self, owner: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.user != owner or token in self.hub.readers:
            message = f"You don't have the rights to write under the namespace {owner!r}"
            raise Answer(403, {"error": message}, why(message))

    def at(self, repository: Repository, revision: str) -> str:
        commit = repository.resolve(revision)
        if commit is None:
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, why("Invalid rev", "RevisionNotFound"))
        return commit

    def whoami(self) -> None:
        if self.user is None:
            raise Answer(401, {"error": "Invalid username or password."})
        raise Answer(200, {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        if self.user is None:
            raise Answer(401, {"error": "Invalid username or password."})
        owner = self.json.get("organization") or self.user
        repo = f"{owner}/{self.json['name']}"
        self.may_write(owner)
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", "url": url})
        self.hub.repositories[repo] = Repository(owner, private=self.json.get("visibility") == "private")
        raise Answer(200, {"url": url, "name": repo, "id": repo})

    def validate_card(self) -> None:
        errors = card_errors(self.json["content"])
        raise Answer(400 if errors else 200, {"errors": [{"message": one} for one in errors], "warnings": []})

    def info(self, repo: str, revision: str = "main") -> None:
        found = self.readable(repo)
        commit = self.at(found, revision)
        files = [{"rfilename": path} for path in found.commits[commit]]
        gated = "manual" if found.gated else False
        told = {"_id": "1", "id": repo, "sha": commit, "private": found.private, "gated": gated, "siblings": files}
        card = found.commits[commit].get("README.md")
        if card is not None and card.data.startswith(b"---\n"):
            told["cardData"] = yaml.safe_load(card.data.split(b"---\n")[1])
        raise Answer(200, told)

    def tree(self, repo: str, revision: str) -> None:
        found = self.readable(repo)
        files = sorted(found.commits[self.at(found, revision)].items())
        start = int(self.query.get("cursor", 0))
        page = files[start : start + self.hub.page]
        headers = {}
        if start + len(page) < len(files):
            where = f"{self.hub.endpoint}/api/models/{repo}/tree/{quote(revision, safe='')}"
            cursor = f"?recursive=True&expand=False&cursor={start + len(page)}"
            headers["Link"] = f'<{where}{cursor}>; rel="next"'
        raise Answer(200, [blob.entry(path) for path, blob in page], headers)

    def refs(self, repo: str) -> None:
        found = self.readable(repo)

        def listed(kind: str, names: dict[str, str]) -> list[dict]:
            return [{"name": name, "ref": f"{kind}{name}", "targetCommit": commit} for name, commit in names.items()]

        branches, tags = listed("refs/heads/", found.branches), listed("refs/tags/", found.tags)
        raise Answer(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def preupload(self, repo: str, revision: str) -> None:
        found = self.readable(repo) if "create_pr" in self.query else self.writable(repo)
        known = found.commits[self.at(found, revision)]
        answers = []
        for file in self.json["files"]:
            blob = known.get(file["path"])
            answer = {"path": file["path"], "uploadMode": found.upload_mode(file["path"], file["size"])}
            answers.append({**answer, "shouldIgnore": False, **({"oid": blob.etag} if blob else {})})
        raise Answer(200, {"files": answers})

    def batch(self, repo: str) -> None:
        found = self.readable(repo)
        if self.user is None:
            raise Answer(401, {"error": "Invalid username or password."})
        assert self.json["operation"] == "upload" and self.json["hash_algo"] == "sha256"
        objects = [self._instructions(repo, found, one["oid"], one["size"]) for one in self.json["objects"]]
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def _instructions(self, repo: str, found: Repository, oid: str, size: int) -> dict:
        described: dict = {"oid": oid, "size": size, "authenticated": True}
        if oid in found.stored:
            return described
        base = f"{self.hub.endpoint}/{repo}.git/info/lfs"
        verify = {"href": f"{base}/verify", "header": {}}
        part = self.hub.part_size
        if part is None or size <= part:
            upload = {"href": f"{self.hub.storage}/{repo}/{oid}?size={size}&signature=s"}
        else:
            count = -(-size // part)
            parts = {str(i): f"{self.hub.storage}/{repo}/{oid}/{i}?signature=s" for i in range(1, count + 1)}
            upload = {"href": f"{base}/complete?signature=s", "header": {"chunk_size": str(part), **parts}}
        return {**described, "actions": {"upload": upload, "verify": verify}}

    def verify(self, repo: str) -> None:
        kept = self.readable(repo).stored.get(self.json["oid"])
        whole = kept is not None and len(kept) == self.json["size"]
        raise Answer(200 if whole else 404, {"message": "ok" if whole else "Object not found"})

    def complete(self, repo: str) -> None:
        assert self.query.get("signature") == "s"  # instead of a token
        oid, parts = self.json["oid"], self.json["parts"]
        assert [part["partNumber"] for part in parts] == list(range(1, len(parts) + 1))
        data = b"".join(self.hub.parts[oid, part["partNumber"]] for part in parts)
        if hashlib.sha256(data).hexdigest() != oid:
            raise Answer(400, {"error": "SHA-256 mismatch"})
        self.hub.repositories[repo].stored[oid] = data
        raise Answer(200, {})

    def commit(self, repo: str, revision: str) -> None:
        as_pull_request = "create_pr" in self.query
        found = self.readable(repo) if as_pull_request else self.writable(repo)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        made = found.commit(lines, parent=self.at(found, revision))
        if not isinstance(made, str):
            raise Answer(made[0], {"error": made[1]}, why(made[1]))
        self._corrupt(found, made)
        answer = {"success": True, "commitOid": made, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{made}"}
        if as_pull_request:
            number = len(found.pull_requests) + 1
            found.pull_requests[f"refs/pr/{number}"] = made
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo}/discussions/{number}"
        elif revision in found.branches:
            found.branches[revision] = made
        raise Answer(200, answer)

    def _corrupt(self, found: Repository, commit: str) -> None:
        if self.hub.corrupt is not None:
            files = found.commits[commit]
            found.commits[commit] = {
                path: replace(blob, data=self.hub.corrupt(path, blob.data)) for path, blob in files.items()
            }

    def create_branch(self, repo: str, branch: str) -> None:
        found = self.writable(repo)
        if branch in found.branches:
            raise Answer(409, {"error": "Reference already exists"})
        found.branches[branch] = self.at(found, self.json.get("startingPoint") or "main")
        raise Answer(200, {})

    def create_tag(self, repo: str, revision: str) -> None:
        found = self.writable(repo)
        if self.json["tag"] in found.tags:
            raise Answer(409, {"error": "Tag reference exists already"})
        found.tags[self.json["tag"]] = self.at(found, revision)
        raise Answer(200, {})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        found = self.readable(repo)
        if found.gated and self.user != found.owner:
            status = 401 if self.user is None else 403
            message = f"Access to model {repo} is restricted and you are not in the authorized list."
            raise Answer(status, {"error": message}, why(message, "GatedRepo"))
        commit = self.at(found, revision)
        blob = found.commits[commit].get(path)
        headers = {"X-Repo-Commit": commit}
        if blob is None:
            raise Answer(404, {"error": "Entry not found"}, {**headers, **why("Entry not found", "EntryNotFound")})
        headers["ETag"] = f'"{blob.etag}"'
        if not blob.large:
            self.send_bytes(blob.data, headers)
        headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        headers["Location"] = f"{self.hub.storage}/{repo}/{blob.sha256}?signature=s"
        raise Answer(302, b"", headers)


def why(message: str, code: str | None = None) -> dict[str, str]:
    """The headers that the Hub's client reads the reason of a refusal from."""
    return {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
