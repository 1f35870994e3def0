"""Serve the files of a folder as a hub that has one data set, and print the address for `HF_ENDPOINT`."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "me/news"
COMMIT = "fedcba9876" * 4


class _Hub(BaseHTTPRequestHandler):
    root: Path

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _entry(self, path: Path) -> dict[str, Any]:
        kind = "directory" if path.is_dir() else "file"
        return {"type": kind, "path": str(path.relative_to(self.root)), "oid": "0" * 40, "size": path.stat().st_size}

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.+)", path):
            file = self.root / found[1]
            if not file.is_file():
                return self._send(404, X_Error_Code="EntryNotFound")
            content = file.read_bytes()
            return self._send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
        if found := re.fullmatch(rf"/api/datasets/{NAME}/tree/[^/]+/?(.*)", path):
            folder = self.root / found[1]
            if not folder.is_dir():
                return self._send(404, X_Error_Code="EntryNotFound")
            entries = [self._entry(entry) for entry in sorted(folder.iterdir())]
            return self._send(200, json.dumps(entries).encode(), Content_Type="application/json")
        if re.fullmatch(rf"/api/datasets/{NAME}/revision/[^/]+", path):
            info = {"id": NAME, "sha": COMMIT, "tags": [], "siblings": []}
            return self._send(200, json.dumps(info).encode(), Content_Type="application/json")
        return self._send(404, X_Error_Code="RepoNotFound")

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815


if __name__ == "__main__":
    _Hub.root = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()
