"""A scheduler that runs already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from daskreg.cluster.network import security_of
from daskreg.cluster.options import ClusterConfig, Tls
from daskreg.errors import InputError, NoWorkersError, OptionError
from daskreg.runtime.regular_files import read_small

if TYPE_CHECKING:
    from distributed import Client

MOST_BYTES = 2**20
"""The size of a scheduler file."""

CONNECT_SECONDS = 30
"""How long the scheduler may take to answer."""


@dataclass(frozen=True)
class AddressConfig(ClusterConfig):
    """A scheduler that runs already, by address or by the file it wrote."""

    address: str | None = None
    scheduler_file: str | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if (self.address is None) == (self.scheduler_file is None):
            raise OptionError("give either address: or scheduler_file:")


def join_scheduler(config: AddressConfig) -> Client:
    """A client of the scheduler; closing it leaves the scheduler and its workers running.

    Raises: InputError for a scheduler file; NoWorkersError where no scheduler answers; OptionError.
    """
    from distributed import Client

    name = config.address or str(config.scheduler_file)
    if config.scheduler_file is not None:
        # distributed waits for ever for a file that is not there.
        try:
            json.loads(read_small(Path(config.scheduler_file), MOST_BYTES))["address"]
        except OSError as error:
            raise InputError(f"scheduler file {name}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{name} is not a scheduler file (JSON with an address)") from error
    target = {"address": config.address} if config.address else {"scheduler_file": config.scheduler_file}
    try:
        return Client(**target, security=security_of(config.tls), timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError) as error:
        raise NoWorkersError(f"no Dask scheduler answers at {name} within {CONNECT_SECONDS} s") from error
    except ValueError as error:
        raise OptionError(f"{name}: {error}") from error
