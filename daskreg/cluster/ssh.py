"""Workers on machines that are reached by ssh, through distributed's SSHCluster."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskreg.cluster.network import for_machines, network_options
from daskreg.cluster.options import Network, positive, size_of
from daskreg.cluster.owned_cluster import give_up_workers_after, owning_client
from daskreg.cluster.pages import NO_PAGES
from daskreg.cluster.preload import PRELOAD, warm_up_environment
from daskreg.cluster.run_folder import run_folder
from daskreg.errors import InputError, MissingExtraError, NoWorkersError, OptionError
from daskreg.runtime.device import thread_environment

if TYPE_CHECKING:
    from distributed import Client

LOST_WORKER_TIMEOUT = "1 day"


@dataclass(frozen=True, kw_only=True)
class SshConfig(Network):
    """Workers on machines that are reached by ssh; the scheduler runs on the first of them.

    Host keys are checked as ssh does: a machine that is not in the file of known hosts is refused.

    Args:
        hosts: names or addresses of the machines.
        processes: workers on each of them.
        cores: that each worker may use for the threads of its libraries; it runs one task at a time.
        memory: limit of each worker, such as "8 GiB"; None: the machine's, shared out.
        user, port, key: as for ssh; `key` is a file. None: what ssh's own configuration says.
        known_hosts: file of host keys; None: ~/.ssh/known_hosts.
        python: interpreter on the machines; None: the one that runs now.
        scratch: folder for temporary files on the machines.
        shared: folder that the machines share, for temporary certificates; None: the current one.
    """

    hosts: tuple[str, ...]
    processes: int = 1
    cores: int = 1
    memory: str | None = None
    user: str | None = None
    port: int | None = None
    key: str | None = None
    known_hosts: str | None = None
    python: str | None = None
    scratch: str | None = None
    shared: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "processes", "cores", "port")
        if self.memory is not None:
            size_of("memory", self.memory)
        if not self.hosts:
            raise OptionError("hosts: name at least one machine")
        if not self.interface:
            raise OptionError("interface: name the network that the machines share, such as eth0")
        for name in ("key", "known_hosts"):
            value = getattr(self, name)
            if value is not None and not Path(value).expanduser().is_file():
                raise InputError(f"{name}: no file {value}")


def start_ssh(config: SshConfig) -> Client:
    """A client of a new scheduler and of workers on the machines; closing it ends them.

    Raises: NoWorkersError where a machine cannot be reached, or is not known; MissingExtraError.
    """
    import dask
    from distributed import SSHCluster

    try:
        import asyncssh  # noqa: F401 (SSHCluster imports it late, and says less)
    except ImportError as error:
        raise MissingExtraError("asyncssh", "cluster") from error
    give_up_workers_after(LOST_WORKER_TIMEOUT)
    folder = run_folder(config.shared or ".")
    try:
        security = for_machines(config, network_options(config).get("security"), folder.path)
        with dask.config.set({**_tls_of_machines(security), **NO_PAGES}):
            cluster = SSHCluster([config.hosts[0], *config.hosts], security=security, **_options(config, security))
        return owning_client(cluster, 0, ended=folder.remove)
    except Exception as error:
        folder.remove()
        cause = error.__cause__ or error
        raise NoWorkersError(
            f"a cluster on {', '.join(config.hosts)} could not be started by ssh ({type(cause).__name__}: {cause}): "
            f"try `ssh {config.hosts[0]} true`; it must work without a question"
        ) from error
    except BaseException:
        folder.remove()
        raise


def _options(config: SshConfig, security: Any | None) -> dict[str, Any]:
    ssh = {
        "username": config.user,
        "port": config.port,
        "client_keys": None if config.key is None else [str(Path(config.key).expanduser())],
        "known_hosts": None if config.known_hosts is None else str(Path(config.known_hosts).expanduser()),
    }
    protocol = {} if security is None else {"protocol": "tls://"}
    values = {**thread_environment(1, config.cores), **warm_up_environment()}
    environment = " ".join(f"{k}={shlex.quote(v)}" for k, v in values.items())
    worker = {
        "n_workers": config.processes,
        "nthreads": 1,
        "interface": config.interface,
        "dashboard": False,
        "memory_limit": config.memory or "auto",
        "local_directory": config.scratch,
        "preload": [PRELOAD],
    }
    return {
        "connect_options": {name: value for name, value in ssh.items() if value is not None},
        "scheduler_options": {
            **{"interface": config.interface, "port": 0, **protocol},
            **{"dashboard_address": "127.0.0.1:0", "dashboard": False},
        },
        "worker_options": {name: value for name, value in {**worker, **protocol}.items() if value is not None},
        # distributed puts it in front of a command line.
        "remote_python": f"env {environment} {config.python or sys.executable}",
    }


def _tls_of_machines(security: Any | None) -> dict[str, Any]:
    """The part of Dask's configuration by which the machines, which inherit it, find their certificates."""
    if security is None:
        return {}
    names = {
        f"distributed.comm.tls.{role}.{what}": getattr(security, f"tls_{role}_{what}")
        for role in ("scheduler", "worker", "client")
        for what in ("cert", "key")
    }
    return {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        **names,
    }
