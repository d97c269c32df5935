"""A local stand-in of the Hugging Face hub's HTTP interface: downloads and commits of models."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field

_MODEL = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_POST = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<action>preupload|commit)/[^/]+")


@dataclass
class Hub:
    """The models of a hub and the requests it has seen.

    Attributes:
        models: repository -> revision -> file -> content.
        gated: repositories that ask for an access token.
        seen: (method, path) of every request.
        address: URL of the server.
    """

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    seen: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    def publish(self, repo, folder, revision="main"):
        """Add the files of a directory as a model."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.models.setdefault(repo, {})[revision] = files

    def fetched(self):
        """Return the names of the files whose content was sent."""
        matches = (_FILE.fullmatch(path) for method, path in self.seen if method == "GET")
        return {match["file"] for match in matches if match}

    def find(self, repo, revision):
        """Return the commit and the files of a revision, which may be a commit; None without."""
        for name, files in self.models.get(repo, {}).items():
            commit = hashlib.sha1(f"{repo} {name} {sorted(files)}".encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self):
        self.hub.seen.append((self.command, self.path))
        match = _MODEL.fullmatch(self.path) or _FILE.fullmatch(self.path)
        if match is None or match["repo"] not in self.hub.models:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if match["repo"] in self.hub.gated:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        found = self.hub.find(match["repo"], match["revision"] or "main")
        if found is None:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if "file" not in match.groupdict():
            siblings = [{"rfilename": name} for name in files]
            return self.reply({"id": match["repo"], "sha": commit, "siblings": siblings})
        if match["file"] not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = files[match["file"]]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": commit})

    do_HEAD = do_GET

    def do_POST(self):
        self.hub.seen.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization', 'me')}/{wanted['name']}"
            self.hub.models[repo] = {"main": {}}
            return self.reply({"url": f"{self.hub.address}/{repo}"})
        if self.path == "/api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        match = _POST.fullmatch(self.path)
        if match is None:
            return self.answer(404, b"")
        if match["action"] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self.reply({"files": modes})
        files = self.hub.models[match["repo"]]["main"]
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                files[value["path"]] = base64.b64decode(value["content"])
        address = f"{self.hub.address}/{match['repo']}/commit/{40 * '0'}"
        return self.reply({"success": True, "commitOid": 40 * "0", "commitUrl": address})

    def reply(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        """Stay silent."""


@contextlib.contextmanager
def serve():
    """Yield a running hub without models."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
