"""Where a run takes place, and whether the process that runs it is still there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from daskreg.runtime.machine import process_runs, this_machine

PROCESS, THREAD, CLUSTER = "process", "thread", "cluster"
"""Kinds of places: the process that called, a thread of that process which it does not wait for, a worker."""


@dataclass(frozen=True)
class ProcessId:
    """One process among all machines and times.

    Args:
        host: name of the machine, and when it was started.
        pid: its number there.
        started: when it was started, by the clock of its machine; a number is used again after a while.
    """

    host: str = ""
    pid: int = 0
    started: float = 0.0

    @classmethod
    def own(cls) -> ProcessId:
        pid = os.getpid()
        return cls(this_machine(), pid, psutil.Process(pid).create_time())

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == this_machine()

    @property
    def runs(self) -> bool:
        """Whether it runs; only to be asked for where it is of this machine."""
        return process_runs(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition(' ')[0]}"


@dataclass(frozen=True)
class Place:
    """Where a run takes place.

    Args:
        token: of the run; another run of the same output has another one.
        kind: "process", "thread" or "cluster".
        scheduler: address of the Dask scheduler whose workers compute; None for threads.
        dashboard: its page; None where it has none, or one whose address is a secret.
        tls: files with which the scheduler can be reached: `ca_file`, `cert`, `key`.
    """

    token: str
    kind: str = PROCESS
    scheduler: str | None = None
    dashboard: str | None = None
    tls: dict[str, str] | None = None


def place_of(client: Any | None, token: str, kind: str) -> Place:
    """The place of a run whose blocks a client's workers compute; None for threads of this process."""
    if client is None:
        return Place(token, kind)
    return Place(token, kind, client.scheduler.address, public_dashboard(client), _tls_files(client))


def ends_with_this_process(client: Any | None) -> bool:
    """Whether the scheduler of a client was started for this process and ends with it."""
    cluster = getattr(client, "cluster", None)
    return client is None or (cluster is not None and bool(getattr(cluster, "shutdown_on_close", True)))


def public_dashboard(client: Any) -> str | None:
    """The dashboard of a scheduler that runs on its own; None for one of ours, whose address is a secret."""
    return dashboard_of(client) if getattr(client, "cluster", None) is None else None


def dashboard_of(client: Any) -> str | None:
    """The dashboard of a client's scheduler; None where it has none."""
    with suppress(Exception):
        link = client.dashboard_link
        return str(link) if link else None
    return None


def _tls_files(client: Any) -> dict[str, str] | None:
    """The files of a client's certificates; None where it has none, or has them in memory only."""
    security = getattr(client, "security", None)
    found = {
        "ca_file": getattr(security, "tls_ca_file", None),
        "cert": getattr(security, "tls_client_cert", None),
        "key": getattr(security, "tls_client_key", None),
    }
    if not all(isinstance(value, str) and "\n" not in value for value in found.values()):
        return None
    return {name: os.path.abspath(str(value)) for name, value in found.items()}
