"""Who can reach a cluster: the loopback interface, or a named one with TLS."""

from __future__ import annotations

import dataclasses
import socket
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.options import Network, Tls
from daskreg.errors import DaskregWarning, InputError, MissingExtraError

if TYPE_CHECKING:
    from distributed.security import Security


def network_options(config: Network) -> dict[str, Any]:
    """Options that keep a cluster on the loopback interface, or open it as the config says."""
    if not config.interface:
        return {"host": "127.0.0.1"}
    if not config.tls:
        warnings.warn(
            f"the cluster listens on {config.interface} without TLS (insecure: true): whoever reaches it can run code",
            DaskregWarning,
            stacklevel=4,
        )
    return {"interface": config.interface, "security": security_of(config.tls)}


def security_of(tls: Tls | str | None) -> Security | None:
    """The certificates of a cluster: those in files, new ones for "temporary", or None.

    Raises: InputError for a file that is missing; MissingExtraError.
    """
    if tls is None:
        return None
    from distributed.security import Security

    if isinstance(tls, str):
        try:
            temporary: Security = Security.temporary()
            return temporary
        except ImportError as error:
            raise MissingExtraError("cryptography", "cluster") from error
    for name in dataclasses.asdict(tls).values():
        if not Path(name).is_file():
            raise InputError(f"tls: no file {name}")
    roles = {
        f"tls_{role}_{what}": getattr(tls, what)
        for role in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    return Security(tls_ca_file=tls.ca_file, require_encryption=True, **roles)


def in_files(security: Any, folder: Path) -> Security | None:
    """The same certificates in files that only this user can read, for workers on other machines."""
    parts = {"ca_file": security.tls_ca_file, "cert": security.tls_worker_cert, "key": security.tls_worker_key}
    for name, text in parts.items():
        (folder / f"{name}.pem").touch(mode=0o600)
        (folder / f"{name}.pem").write_text(text, encoding="utf-8")
    return security_of(Tls(**{name: str(folder / f"{name}.pem") for name in parts}))


def dashboard_options(config: Network) -> dict[str, Any]:
    """Options of a scheduler whose pages, even the plain ones, are on the loopback interface.

    Without an address distributed would serve them on every interface.
    """
    wanted = config.dashboard_port or 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            wanted = 0
    return {"dashboard_address": f"127.0.0.1:{wanted}", "dashboard": config.dashboard_port is not None}
