"""The kinds of clusters, and the cluster files that describe them.

A new kind is one module (see `slurm`), with a frozen dataclass of its options and a function that makes a client
from it, and one line in KINDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from daskreg.cluster.address import AddressConfig, join_scheduler
from daskreg.cluster.allocation import AllocationConfig, start_allocation
from daskreg.cluster.batch import start_batch
from daskreg.cluster.kubernetes import KubernetesConfig, start_kubernetes
from daskreg.cluster.local import LocalConfig, start_local
from daskreg.cluster.lsf import LSF, LsfConfig
from daskreg.cluster.options import ClusterConfig, Tls, build, suggestion
from daskreg.cluster.pbs import PBS, PbsConfig
from daskreg.cluster.sge import SGE, SgeConfig
from daskreg.cluster.slurm import SLURM, SlurmConfig
from daskreg.cluster.ssh import SshConfig, start_ssh
from daskreg.errors import InputError
from daskreg.runtime.messages import reason
from daskreg.runtime.paths import local_path
from daskreg.runtime.regular_files import read_small

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["KINDS", "AddressConfig", "ClusterKind", "LocalConfig", "SlurmConfig", "read_config", "start"]


MOST_BYTES = 2**16
"""The size of a cluster file."""


class ClusterKind(NamedTuple):
    """One kind of cluster.

    Args:
        config: the frozen dataclass of its options, which are the keys of a cluster file. Their types may be int,
            str, bool, None, a list of text (`tuple[str, ...]`) and `Tls`.
        start: makes a `distributed.Client` from such a config.
    """

    config: type[ClusterConfig]
    start: Callable[[Any], Any]


KINDS: Mapping[str, ClusterKind] = {
    "local": ClusterKind(LocalConfig, start_local),
    "slurm": ClusterKind(SlurmConfig, partial(start_batch, SLURM)),
    "pbs": ClusterKind(PbsConfig, partial(start_batch, PBS)),
    "lsf": ClusterKind(LsfConfig, partial(start_batch, LSF)),
    "sge": ClusterKind(SgeConfig, partial(start_batch, SGE)),
    "ssh": ClusterKind(SshConfig, start_ssh),
    "kubernetes": ClusterKind(KubernetesConfig, start_kubernetes),
    "allocation": ClusterKind(AllocationConfig, start_allocation),
    "address": ClusterKind(AddressConfig, join_scheduler),
}


def start(config: ClusterConfig) -> Client:
    """A client of the cluster that a config describes."""
    (kind,) = (kind for kind in KINDS.values() if isinstance(config, kind.config))
    client: Client = kind.start(config)
    return client


def read_config(path: str | PathLike[str]) -> ClusterConfig:
    """The config that a YAML file holds; `kind:` says which of KINDS it is.

    Raises: InputError naming the file, and the key or value that is wrong.
    """
    import yaml

    try:
        data = yaml.safe_load(_checked_text(local_path(path)))
    except OSError as error:
        raise InputError(f"cluster file {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        # PyYAML raises several types for values such as dates that do not exist.
        raise InputError(f"cluster file {path} is not YAML: {reason(error)}") from error
    if not isinstance(data, dict):
        raise InputError(f"cluster file {path} holds no keys; it needs kind: and its options")
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        hint = suggestion(str(kind), KINDS)
        raise InputError(f"cluster file {path}: kind: {kind!r} is not one of {', '.join(KINDS)}{hint}")
    try:
        if isinstance(data.get("tls"), dict):
            data["tls"] = build(Tls, data["tls"])
        return build(KINDS[kind].config, data)
    except InputError as error:
        raise type(error)(f"cluster file {path}: {error}") from error


def _checked_text(path: Path) -> str:
    """The text of a cluster file: a page or two, without anchors, by which a few lines stand for gigabytes.

    Raises: ValueError, OSError.
    """
    import yaml

    text = read_small(path, MOST_BYTES).decode()
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise ValueError(f"it refers to itself (*{token.value}), which a cluster file does not need")
    return text
