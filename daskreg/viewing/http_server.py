"""Images by URL on this machine only: HTTP of the standard library, read-only, behind a token.

A URL is `http://127.0.0.1:PORT/TOKEN/NAME/KEY`. A key is looked up among the files of an image, which are made in
memory; no path of the disk is ever built of it. Whoever does not know the token gets 404, whatever is asked for.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from daskreg.runtime.device import cores
from daskreg.viewing.chunk_cache import CacheClosedError
from daskreg.viewing.zarr_form import ZarrForm

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

IDLE = 60
"""Seconds after which a connection without a request is closed."""

UNREADABLE = 422
"""Status of a chunk that cannot be computed, since voxels cannot be read: none that clients try again."""

MOST_CONNECTIONS = 256

_LOCAL_ORIGIN = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_METHODS = "GET, HEAD, OPTIONS"


class ImageServer(ThreadingHTTPServer):
    """Serves images by name, each connection in a thread of its own, and computes in as many at a time as cores.

    Args:
        port: 0 for any that is free.
        origins: of web pages that may read, besides those of this machine.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, images: Mapping[str, ZarrForm], *, port: int, origins: tuple[str, ...]) -> None:
        self.images, self.origins = dict(images), origins
        self.token = secrets.token_urlsafe(24)
        self.computing = threading.Semaphore(cores())
        self.connections = threading.Semaphore(MOST_CONNECTIONS)
        self.closed = False
        super().__init__((LOOPBACK, port), _Requests)

    @property
    def root(self) -> str:
        """The URL below which the images are."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}"

    def file(self, path: str) -> bytes | None:
        """The bytes at the path of a request; None where there is nothing, or the token is wrong."""
        _, token, name, key = (*path.partition("?")[0].split("/", 3), "", "", "")[:4]
        if not secrets.compare_digest(token.encode(), self.token.encode()) or name not in self.images or self.closed:
            return None
        image = self.images[name]
        if image.is_metadata(key):
            return image.file(key)
        with self.computing:
            return image.file(key)

    def allows(self, origin: str | None) -> bool:
        """Whether pages of an origin may read."""
        return origin is not None and (origin in self.origins or _LOCAL_ORIGIN.fullmatch(origin) is not None)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own; a connection beyond the most that there may be is closed at once."""
        if not self.connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""
        log.debug("a request from %s ended early", client_address, exc_info=True)


class _Requests(BaseHTTPRequestHandler):
    server: ImageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "daskreg", ""
    timeout = IDLE
    wbufsize = -1  # headers and body leave together

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_OPTIONS(self) -> None:
        """What a page asks before it sends a request with headers."""
        self._send(204, b"", {"Allow": _METHODS}, body=False)

    def _answer(self, *, body: bool) -> None:
        try:
            data = self.server.file(self.path)
        except CacheClosedError:
            data = None
        except Exception as error:
            # What went wrong may name paths of this machine: it is for the log, not for whoever asks.
            log.warning("%r could not be made: %s", self.path.rpartition(self.server.token)[2], error)
            self._send(UNREADABLE, b"", {}, body=body)
            return
        if data is None:
            self._send(404, b"", {}, body=body)
            return
        headers = {"Content-Type": "application/json" if data[:1] == b"{" else "application/octet-stream"}
        asked = self.headers.get("Range")
        part = None if asked is None else _part(asked, len(data))
        if part is None:
            self._send(200, data, headers, body=body)
        elif part.start >= part.stop:
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
            self._send(206, data[part.start : part.stop], headers, body=body)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], *, body: bool) -> None:
        self.close_connection = self.close_connection or self.server.closed
        self.send_response(status)
        for name, value in {**headers, **self._for_pages()}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _for_pages(self) -> dict[str, str]:
        """What lets a page of an allowed origin read the answer, and no other page."""
        origin = self.headers.get("Origin")
        same = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "cross-origin", "Vary": "Origin"}
        if origin is None or not self.server.allows(origin):
            return same
        return same | {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": "Range",
            "Access-Control-Expose-Headers": "Content-Range, Content-Length",
            "Access-Control-Allow-Private-Network": "true",
        }

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the token would be in the log."""


def _part(asked: str, size: int) -> range | None:
    """The bytes that a header `Range` asks for, empty where there are none; None where it is to be ignored.

    Several ranges are answered with the whole, which HTTP allows.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    return range(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)
