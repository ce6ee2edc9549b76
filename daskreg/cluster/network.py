"""Who can join a cluster: those who have its certificate, on the loopback interface or a named one.

The loopback interface alone protects nothing on a shared machine: every user of it can connect to any port there,
and who joins a Dask scheduler without TLS can run code as its owner.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.options import Network, Tls
from daskreg.cluster.pages import NO_WORKER_PAGES_ENVIRONMENT
from daskreg.cluster.preload import warm_up_environment
from daskreg.errors import DaskregWarning, InputError, NoWorkersError
from daskreg.runtime.device import thread_environment

if TYPE_CHECKING:
    from distributed.security import Security


def network_options(config: Network) -> dict[str, Any]:
    """Where a cluster listens, and with which certificates.

    Where the config names no certificates, there are new ones for this run alone, which exist in memory only.
    """
    place = {"interface": config.interface} if config.interface else {"host": "127.0.0.1"}
    if config.insecure and not config.tls:
        everyone = f"whoever reaches {config.interface}" if config.interface else "every user of this machine"
        warnings.warn(
            f"the cluster listens on {config.interface or 'the loopback interface'} without TLS (insecure: true): "
            f"{everyone} can run code as you",
            DaskregWarning,
            stacklevel=4,
        )
        return place
    return {**place, "security": security_of(config.tls or "temporary"), "protocol": "tls://"}


def check_interface(name: str, elsewhere: str = "") -> None:
    """Raise NoWorkersError where this machine has no such network interface.

    Args:
        elsewhere: what to do where other machines have it.
    """
    import psutil

    known = sorted(psutil.net_if_addrs())
    if name not in known:
        raise NoWorkersError(
            f"interface: this machine has no network interface {name!r}, but {', '.join(known)}{elsewhere}"
        )


def remote_environment(threads: int, cores: int) -> dict[str, str]:
    """Environment of a worker on another machine, of `threads` tasks at once on `cores` cores."""
    return {
        **thread_environment(threads, max(1, cores)),
        "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "3",
        **NO_WORKER_PAGES_ENVIRONMENT,
        **warm_up_environment(),
    }


def security_of(tls: Tls | str | None) -> Security | None:
    """The certificates of a cluster: those in files, new ones for "temporary", or None.

    Raises: InputError for a file that is missing.
    """
    if tls is None:
        return None
    from distributed.security import Security

    if isinstance(tls, str):
        temporary: Security = Security.temporary()
        return temporary
    for name in dataclasses.asdict(tls).values():
        if not Path(name).is_file():
            raise InputError(f"tls: no file {name}")
    roles = {
        f"tls_{role}_{what}": getattr(tls, what)
        for role in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    return Security(tls_ca_file=tls.ca_file, require_encryption=True, **roles)


def for_machines(config: Network, security: Any | None, folder: Path) -> Security | None:
    """The certificates of `network_options` in files, for workers on other machines; None without TLS.

    Args:
        folder: of this run, where temporary ones are written, so that only this user can read them.
    """
    if security is None or isinstance(config.tls, Tls):
        return security
    parts = {"ca_file": security.tls_ca_file, "cert": security.tls_worker_cert, "key": security.tls_worker_key}
    for name, text in parts.items():
        (folder / f"{name}.pem").touch(mode=0o600)
        (folder / f"{name}.pem").write_text(text, encoding="utf-8")
    return security_of(Tls(**{name: str(folder / f"{name}.pem") for name in parts}))
