"""S3 for tests: moto's server in a process of its own, and a proxy before it that fails as real stores do."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY, SECRET = "AKIDTESTS0000", "S3cr3tOfTheTests/not+in=anything"
BUCKET = "bucket"
SIGNED = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request"

Fault = Callable[[str, str], int | float | None]
"""(method, path) -> a status to answer with, seconds to wait as a float, or None."""

CODES = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown", 507: "QuotaExceeded"}


class S3Server:
    """moto's server on loopback, with one bucket, behind a proxy.

    `fault` decides what happens to a request; `lost` is the share of puts that are done and then answered with 500.
    Without the proxy (`proxy=False`), there are none of these, and requests are quicker.
    `requests` counts what came, by method.
    """

    def __init__(self, *, proxy: bool = True) -> None:
        self.direct = not proxy
        self.fault: Fault | None = None
        self.lost = 0.0
        self.requests: list[tuple[str, str]] = []
        self._random = random.Random(0)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.moto_port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.moto_port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self._wait()
        self.make_bucket(BUCKET)

    @property
    def endpoint(self) -> str:
        if self.direct:
            return f"http://127.0.0.1:{self.moto_port}"
        return f"http://127.0.0.1:{self._proxy.server_address[1]}"

    @property
    def options(self) -> dict[str, Any]:
        """`storage_options` for it."""
        return {"endpoint": self.endpoint, "access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1"}

    @property
    def google_options(self) -> dict[str, Any]:
        """`storage_options` for it as Google's store: its XML is that of S3 but for a header of conditional puts."""
        account = {"client_email": "", "private_key_id": "", "private_key": "", "disable_oauth": True}
        return {
            "service_account_key": json.dumps({**account, "gcs_base_url": self.endpoint}),
            "allow_http": True,
        }

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """By moto itself, so that requests are not counted. The header says who asks; moto takes anybody."""
        connection = http.client.HTTPConnection("127.0.0.1", self.moto_port, timeout=30)
        connection.request("PUT", f"/{name}", headers={"Authorization": SIGNED})
        assert connection.getresponse().status == 200
        connection.close()

    def reset(self) -> None:
        """No faults, and nothing counted."""
        self.fault, self.lost, self._random = None, 0.0, random.Random(0)
        self.requests.clear()

    def fail_often(self, share: float) -> None:
        """Answer a share of the requests with 500, 503 or 429."""
        self.fault = lambda *_: self._random.choice((500, 503, 429)) if self._random.random() < share else None

    def count(self, pattern: str) -> int:
        """How many requests, "METHOD path", came that a pattern matches."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in list(self.requests))

    def stop(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self.process.terminate()
        self.process.wait()

    def _wait(self) -> None:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.moto_port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, "moto's server has ended"
                time.sleep(0.1)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests.append((self.command, self.path))
                what = server.fault(self.command, self.path) if server.fault else None
                if isinstance(what, float):
                    time.sleep(what)
                elif what is not None:
                    self.answer(what, {}, f"<Error><Code>{CODES[what]}</Code></Error>".encode())
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                if headers.get("authorization", "").startswith("Bearer"):
                    del headers["authorization"]  # of Google's client
                if headers.pop("x-goog-if-generation-match", None) == "0":
                    headers["If-None-Match"] = "*"
                headers.setdefault("Authorization", SIGNED)  # a public bucket
                connection = self.connection_to_moto()
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                data = response.read()
                if self.command == "PUT" and server._random.random() < server.lost:
                    self.answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
                else:
                    self.answer(response.status, dict(response.getheaders()), data)

            def connection_to_moto(self) -> http.client.HTTPConnection:
                """One for each connection of a client."""
                if not hasattr(self, "moto"):
                    self.moto = http.client.HTTPConnection("127.0.0.1", server.moto_port, timeout=60)
                return self.moto

            def finish(self) -> None:
                super().finish()
                if hasattr(self, "moto"):
                    self.moto.close()

            def answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

        class Quiet(Handler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # a client that was killed, or gave up waiting
                    super().handle()

        return Quiet
