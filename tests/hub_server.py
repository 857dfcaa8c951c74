"""A hub on this machine: the few routes by which the hub's client reads a model."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

__all__ = ["COMMIT", "served"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def served(models: dict[str, Path], asked: list[str]) -> Iterator[str]:
    """The address of a hub that has these models: folders, by their names. ``asked`` receives what is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            asked.append(path)
            status, content, headers = _found(models, path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _found(models: dict[str, Path], path: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of the answer to a path."""
    for name, folder in models.items():
        files = f"/{name}/resolve/{COMMIT}/"
        if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
            return 200, _about(name, folder), {}
        if path.startswith(f"/api/models/{name}/revision/"):
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        if path.startswith(files) and (folder / path.removeprefix(files)).is_file():
            content = (folder / path.removeprefix(files)).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return 200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
    return 404, b"{}", {"X-Error-Code": "RepoNotFound"}


def _about(name: str, folder: Path) -> bytes:
    """What the hub says of a model; one of the names leads out of the folder."""
    files = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    siblings = [{"rfilename": file} for file in [*files, "../outside.json", "plots/../../outside.png"]]
    about = {"id": name, "sha": COMMIT, "private": True, "tags": [], "downloads": 0, "likes": 0}
    return json.dumps(about | {"siblings": siblings}).encode()
