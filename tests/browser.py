"""Chromium without a window, over the protocol of its developer tools: open a page, evaluate, see what is logged."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

PROGRAM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian: chromium)")


class Page:
    """An open page. `logged` holds errors and refusals that the browser told."""

    def __init__(self, socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.socket, self.loop = socket, loop
        self.numbers = itertools.count(1)
        self.logged: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self.numbers)
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await asyncio.wait_for(self.socket.read_message(), 30))
            if message.get("id") == number:
                return dict(message.get("result", message))
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.logged.append(json.dumps(message["params"]))

    def evaluate(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.resolve().as_uri())
        for _ in range(200):
            if self.evaluate("document.readyState") == "complete" and self.evaluate("location.href") != "about:blank":
                return
            time.sleep(0.05)
        raise AssertionError("the page was not loaded")


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser of its own, with a window of 1000 x 800."""
    from tornado.websocket import websocket_connect

    assert PROGRAM is not None
    profile.mkdir(exist_ok=True)
    options = ["--headless", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}",
               "--window-size=1000,800"]  # fmt: skip
    options += ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    process = subprocess.Popen([PROGRAM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        port = _port(profile / "DevToolsActivePort")
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            address = next(t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page")

        async def connected() -> Any:
            return await websocket_connect(address, max_message_size=64 * 2**20)

        page = Page(loop.run_until_complete(connected()), loop)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        yield page
        page.socket.close()
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        loop.close()


def _port(file: Path) -> int:
    for _ in range(300):
        with suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.1)
    raise AssertionError("Chromium did not start")
