"""The pages of a scheduler (dashboard, logs, metrics), which only those can read who know a token.

Any user of a machine can open a port of its loopback interface, and the pages of a scheduler have no password. All of
them lie below a path that is a secret of this run, which `client.dashboard_link` has; every other path, the one that
would lead there included, is not found. Workers have no pages.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from contextlib import suppress
from functools import cache
from typing import Any

from daskreg.cluster.options import Network
from daskreg.runtime.private_apis import with_scheduler_type

NO_WORKER_PAGES: dict[str, Any] = {"distributed.worker.http.routes": []}
"""Dask's configuration for workers that show no pages."""

NO_WORKER_PAGES_ENVIRONMENT = {"DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]"}
"""The same as environment of the workers."""

NO_PAGES: dict[str, Any] = {**NO_WORKER_PAGES, "distributed.scheduler.http.routes": []}
"""The same for a scheduler on another machine, whose pages cannot be hidden."""


def page_options(config: Network) -> dict[str, Any]:
    """Options of a scheduler whose pages are on the loopback interface, below a secret path.

    Without an address distributed would serve them on every interface.
    """
    return {
        "dashboard_address": f"127.0.0.1:{config.dashboard_port or 0}",
        "dashboard": config.dashboard_port is not None,
        "http_prefix": f"/{secrets.token_urlsafe(24)}",
    }


@cache
def with_private_pages(cluster_type: type[Any]) -> type[Any]:
    """A type of distributed's clusters, made with `page_options`, whose scheduler hides its pages."""

    class PrivatePages(with_scheduler_type(cluster_type, _scheduler_type)):  # type: ignore[misc]
        @property
        def dashboard_link(self) -> str:
            head, slash, page = super().dashboard_link.rpartition("/")
            return f"{head}{self.scheduler_spec['options']['http_prefix']}/{page}" if slash else ""

    PrivatePages.__name__ = PrivatePages.__qualname__ = cluster_type.__name__
    return PrivatePages


@cache
def _scheduler_type() -> type[Any]:
    from distributed import Scheduler

    class PrivateScheduler(Scheduler):
        """Its server listens when `__init__` ends, and is asked for pages only after that."""

        def __init__(self, *args: Any, http_prefix: str, dashboard_address: str, **options: Any) -> None:
            host, _, port = dashboard_address.rpartition(":")
            super().__init__(*args, http_prefix=http_prefix, dashboard_address=f"{host}:0", **options)
            _hide_other_paths(self.http_application, http_prefix)
            if port != "0":
                _prefer_port(self.http_server, host, int(port))

    return PrivateScheduler


def _prefer_port(server: Any, host: str, port: int) -> None:
    """Let a server that listens at some free port listen at this one too, and name it, unless it is taken.

    distributed warns, and leaves a socket open, where it is asked for a port that is taken.
    """
    with suppress(OSError):
        wanted = socket.create_server((host, port))
        wanted.setblocking(False)
        server.add_socket(wanted)
        server.port = port


def _hide_other_paths(application: Any, prefix: str) -> None:
    """Let a tornado application find what is below a path, and nothing else."""
    from tornado.web import ErrorHandler

    find = application.find_handler
    known = prefix.encode()

    def find_handler(request: Any, **options: Any) -> Any:
        first = f"/{request.path.removeprefix('/').partition('/')[0]}"
        if hmac.compare_digest(first.encode(), known):
            return find(request, **options)
        return application.get_handler_delegate(request, ErrorHandler, {"status_code": 404})

    application.find_handler = find_handler
