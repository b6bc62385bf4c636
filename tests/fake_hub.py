"""A Hugging Face hub of this process's own, as far as huggingface_hub 0.36 and 2.x ask it.

`conftest.py` makes the fixture `fake_hub` of it. huggingface_hub reads HF_ENDPOINT when it is imported,
so its client is another process: `FakeHub.python`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """What the hub holds under one name: each commit's files, and the commits by branch or tag."""

    gated: bool = False
    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """The hub: `add` repositories, then let `python` ask for them.

    Attributes:
        url: what HF_ENDPOINT must be.
        requests: each request so far as "GET /path".
        after_info: called once, after the next list of a repository's files.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[str] = []
        self.repositories: dict[str, Repository] = {}
        self.after_info: Callable[[], Any] | None = None

    def add(
        self,
        name: str,
        files: Path | Mapping[str, bytes],
        *,
        revisions: tuple[str, ...] = ("main",),
        gated: bool = False,
    ) -> str:
        """Publish a directory, or file names with their bytes; returns the commit, 40 hexadecimal digits.

        A name that is there already gets another commit, to which `revisions` then point.
        """
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        digest = hashlib.sha1(name.encode())
        for path, data in files.items():
            digest.update(path.encode() + b"\0" + data)
        commit = digest.hexdigest()
        repository = self.repositories.setdefault(name, Repository())
        repository.gated = gated
        repository.commits[commit] = files
        repository.revisions |= dict.fromkeys((*revisions, commit), commit)
        return commit

    def python(self, code: str, *arguments: Any, home: Path, **environment: str) -> Any:
        """Run `code` in a fresh interpreter whose hub this is, HF_HOME being `home`.

        `arguments` reach it as JSON in `sys.argv[1:]`; the last line that it prints, JSON too, is returned.
        """
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(("HF_", "HUGGING_FACE_"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(json.dumps, arguments)],
            env=inherited | ours | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answer the request for `path`: (status, headers, body)."""
        kind, name, revision, file = self._read(path)
        repository = self.repositories.get(name)
        if repository is None:
            return _refusal(404, "RepoNotFound", "Repository not found")
        if revision not in repository.revisions:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = repository.revisions[revision]
        files = repository.commits[commit]
        if kind == "info":
            hook, self.after_info = self.after_info, None
            if hook is not None:
                hook()
            siblings = [{"rfilename": file} for file in files]
            return _json({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})
        if kind == "tree":
            return _json([
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ])  # fmt: skip
        if repository.gated:
            return _refusal(403, "GatedRepo", f"Access to model {name} is restricted")
        if file not in files:
            status, headers, body = _refusal(404, "EntryNotFound", "Entry not found")
            return status, headers | {"X-Repo-Commit": commit}, body
        data = files[file]
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}, data

    def _read(self, path: str) -> tuple[str, str, str, str]:
        """Return (kind, repository, revision, file) of a request's path."""
        path = urlsplit(path).path
        if path.startswith("/api/models/"):
            rest = path.removeprefix("/api/models/")
            for kind, word in (("info", "/revision/"), ("tree", "/tree/")):
                name, found, revision = rest.partition(word)
                if found:
                    return kind, name, unquote(revision), ""
            return "info", rest, "main", ""
        name, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        return "file", name, unquote(revision), unquote(file)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """Start a hub on a free port of 127.0.0.1, for as long as the `with` lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, body = hub.find(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        hub = FakeHub(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _json(document: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _refusal(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
    return status, headers, json.dumps({"error": message}).encode()
