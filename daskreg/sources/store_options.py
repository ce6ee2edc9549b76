"""`storage_options` for the workers of a cluster: sent beside graphs and tasks, and kept in memory only.

A worker plugin carries them to the workers that are there and to those that come later; the scheduler keeps it. They
are in no task, key, ledger or file. Workers that find credentials in their own environment need none of this.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from daskreg.errors import DaskregWarning
from daskreg.sources.handles import forget
from daskreg.sources.storage.access import is_object_url, remember_options, remembered_options, split_url

_ENCRYPTED = ("tls://", "inproc://", "wss://")
_shared: WeakKeyDictionary[Any, dict[str, dict[str, Any]]] = WeakKeyDictionary()
"""By client: what its workers were sent."""


def use_options(url: Any, options: dict[str, Any] | None) -> None:
    """Keep the options for the bucket of a URL in this process; None changes nothing.

    Raises: OptionError for a URL with credentials.
    """
    if options is not None and isinstance(url, str) and is_object_url(url):
        remember_options(url, options)
        forget()  # arrays that were opened with other options


def share_options(client: Any, urls: Iterable[Any]) -> None:
    """Send the workers of a client what this process uses for the buckets of some URLs, once.

    Warns where the connection to the scheduler is not encrypted.
    """
    roots = {split_url(url)[0] for url in urls if isinstance(url, str) and is_object_url(url)}
    options = {root: known for root, known in remembered_options().items() if root in roots}
    before = _shared.setdefault(client, {})
    options = {root: known for root, known in options.items() if before.get(root) != known}
    if not options:
        return
    address = str(client.scheduler.address)
    if not address.startswith(_ENCRYPTED):
        warnings.warn(
            f"storage_options are sent to the scheduler {address} without encryption, and to every worker that "
            "joins it: use TLS, or set the credentials in the environment of the workers and leave storage_options out",
            DaskregWarning,
            stacklevel=3,
        )
    before.update(options)
    for root, known in options.items():  # a plugin of the same name would replace what another client has sent
        client.register_plugin(_plugin({root: known}), name=f"daskreg-storage-options-{root}")


def _plugin(options: dict[str, dict[str, Any]]) -> Any:
    from distributed import WorkerPlugin

    class StorageOptions(WorkerPlugin):
        """Options of object stores, for `remember_options` on each worker."""

        def setup(self, worker: Any) -> None:
            del worker
            receive_options(options)

        def __repr__(self) -> str:
            return f"StorageOptions({', '.join(options)})"

    return StorageOptions()


def receive_options(options: dict[str, dict[str, Any]]) -> None:
    """Keep what the client has sent; runs on a worker."""
    for root, known in options.items():
        remember_options(root, known)
    forget()
