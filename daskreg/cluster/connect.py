"""`connect()`: one Dask client from nothing, an address, a scheduler file or a cluster file."""

from __future__ import annotations

import dataclasses
import os
import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.config import AddressConfig, LocalConfig, read_config, start
from daskreg.cluster.options import ClusterConfig
from daskreg.errors import InputError, NoWorkersError, OptionError

if TYPE_CHECKING:
    from distributed import Client

# Defaults of Dask for all clusters that are connected to; the user's own Dask configuration comes before them.
DEFAULTS = {
    "distributed": {
        "scheduler": {"allowed-failures": 10, "worker-ttl": "60s", "no-workers-timeout": "60s"},
        "worker": {"multiprocessing-method": "spawn"},
        "comm": {"retry": {"count": 3}},
    }
}


def connect(
    spec: str | PathLike[str] | ClusterConfig | None = None, *, workers: int | None = None, device: str | None = None
) -> Client:
    """A Dask client, which `write` then uses because it is the current one.

    Args:
        spec: None for worker processes on this machine, reachable from this machine only;
            an address such as "tcp://10.0.0.5:8786"; a scheduler file (JSON); a cluster
            file (YAML, see the folder cluster/); or a config object.
        workers: number of local workers, in place of the config's.
        device: "auto", "cpu" or "cuda" for local workers, in place of the config's.

    Closing the client, or leaving its `with` block, also ends the cluster that was started
    for it; a scheduler that ran before goes on running. A local worker has one thread and its share
    of the memory; torch, numba and codecs use at most its share of the cores. Scripts need
    `if __name__ == "__main__":`.

    Raises:
        InputError: a file that is missing or not understood (OptionError: one of its values).
        NoWorkersError: no scheduler answers, or a GPU was asked for where none is.
        MissingExtraError: dask-jobqueue is needed and not installed.
        RunError: local workers did not start.
    """
    import dask
    import distributed  # noqa: F401 (its defaults must be loaded before ours)

    config = as_config(spec)
    options: dict[str, Any] = {k: v for k, v in {"workers": workers, "device": device}.items() if v is not None}
    if options and not isinstance(config, LocalConfig):
        raise OptionError(f"{' and '.join(options)} can be given for a local cluster only")
    dask.config.update_defaults(DEFAULTS)
    try:
        return start(dataclasses.replace(config, **options) if isinstance(config, LocalConfig) else config)
    except (InputError, NoWorkersError) as error:
        if spec is None or not is_cluster_file(spec):
            raise
        raise type(error)(f"cluster file {spec}: {error}") from error


def as_config(spec: str | PathLike[str] | ClusterConfig | None) -> ClusterConfig:
    """The config that `connect(spec)` starts, without starting anything."""
    if spec is None:
        return LocalConfig()
    if isinstance(spec, ClusterConfig):
        return spec
    text = os.fspath(spec)
    if "://" in text or re.fullmatch(r"[\w.-]+:\d+", text):
        return AddressConfig(address=text)
    if Path(text).suffix == ".json":
        return AddressConfig(scheduler_file=text)
    if is_cluster_file(text):
        return read_config(text)
    raise OptionError(
        f"{text!r} is not an address (tcp://host:port), a scheduler file (.json) or a cluster file (.yaml)"
    )


def is_cluster_file(spec: str | PathLike[str] | ClusterConfig) -> bool:
    """Whether `connect` reads a YAML file for this."""
    return not isinstance(spec, ClusterConfig) and Path(spec).suffix in (".yaml", ".yml")
