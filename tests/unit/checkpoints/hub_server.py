"""A model hub on this machine: what huggingface_hub asks of one, with faults on request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 33 + "1"
FIRST = re.compile(r"/api/models/(?P<repo>.+?)(/revision/(?P<revision>[^/]+))?$")
FILE = re.compile(r"/(?P<repo>.+?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")


@dataclass
class Hub:
    """``files`` of the one repository ``owner/tiny``; ``asked``: (method, path, range) of each request.

    Faults, by path: ``drops``: bytes after which a connection breaks, once each; ``statuses``: answers in place of it,
    once each; ``stalls``: bytes after which nothing more comes, once, and ``stalled`` is set; ``sent``: what is sent
    instead; ``sizes``: lies of the list. ``refusal``: (status, X-Error-Code) for those without ``token``.
    """

    files: Mapping[str, bytes]
    endpoint: str = ""
    commit: str = COMMIT
    token: str | None = None
    refusal: tuple[int, str | None] = (401, "RepoNotFound")
    drops: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    stalls: dict[str, int] = field(default_factory=dict)
    stalled: Event = field(default_factory=Event)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Files of which bytes were asked."""
        return {match["path"] for method, path, _ in self.asked if method == "GET" and (match := FILE.match(path))}

    def siblings(self) -> list[dict[str, object]]:
        return [self._sibling(name, data) for name, data in self.files.items()]

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        size = self.sizes.get(name, len(data))
        about: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_name(data)}
        if name.endswith(".safetensors"):
            about["lfs"] = {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return about


def git_name(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]} if hub.refusal[1] else {})
            elif match := FIRST.match(path):
                self._list(match["repo"], match["revision"])
            elif match := FILE.match(path):
                self._file(match["path"])
            else:
                self._send(404, b"{}", {})

        def _list(self, repo: str, revision: str | None) -> None:
            if queue := hub.statuses.get("list"):
                self._send(queue.pop(0), b"{}", {})
            elif repo != "owner/tiny":
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif revision not in (None, "main", hub.commit):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                about = {"id": repo, "modelId": repo, "sha": hub.commit, "siblings": hub.siblings()}
                self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

        def _file(self, name: str) -> None:
            if name not in hub.files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            if self.command == "GET" and (queue := hub.statuses.get(name)):
                self._send(queue.pop(0), b"{}", {})
                return
            data, large = hub.files[name], name.endswith(".safetensors")
            etag = hashlib.sha256(data).hexdigest() if large else git_name(data)
            headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{etag}"'}
            if large:
                headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            body, start, status = hub.sent.get(name, data), 0, 200
            asked = self.headers.get("Range")
            if self.command == "GET" and asked and hub.ranges:
                start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
                if start >= len(body):
                    self._send(416, b"", headers)
                    return
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._send(status, body[start:], headers, cut=self._cut(name))

        def _cut(self, name: str) -> int | None:
            if self.command != "GET":
                return None
            if name in hub.stalls:
                return -hub.stalls.pop(name)
            queue = hub.drops.get(name)
            return queue.pop(0) if queue else None

        def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body if cut is None else body[: abs(cut)])
            if cut is not None:
                self.close_connection = True
                self.wfile.flush()
            if cut is not None and cut < 0:
                hub.stalled.set()
                with suppress(ConnectionError):
                    self.rfile.read(1)  # until the other side is gone

    return Handler
