"""Which client does the work: the one that a caller names, the current one, or none."""

from __future__ import annotations

from typing import Any

from daskreg.errors import OptionError
from daskreg.runtime.device import loaded


def current_client() -> Any | None:
    """The `distributed.Client` that is current, without importing distributed where it is not in use."""
    # Another thread may be importing it right now: then it has no Client yet.
    client_type = getattr(loaded("distributed"), "Client", None)
    if client_type is None:
        return None
    try:
        return client_type.current()
    except ValueError:
        return None


def chosen_client(client: Any) -> Any | None:
    """What the public argument `client` means: None is the current client if there is one, False none (local threads).

    Raises: OptionError for anything else that is no client.
    """
    if client is None:
        return current_client()
    if client and not hasattr(client, "submit"):
        raise OptionError(f"client={client!r} is not a distributed.Client: make one by daskreg.connect({client!r})")
    return client or None
