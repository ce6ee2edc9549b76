"""What a cluster file may say: frozen dataclasses, read from YAML, unknown keys refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from daskreg.errors import InputError, OptionError
from daskreg.runtime.device import tasks_at_once

T = TypeVar("T")


@dataclass(frozen=True)
class Tls:
    """Certificate files (PEM) that scheduler, workers and client share."""

    ca_file: str
    cert: str
    key: str


@dataclass(frozen=True)
class Network:
    """Who can reach the scheduler: this machine only, unless an interface is named.

    Args:
        interface: name of a network interface, such as "ib0".
        tls: certificate files, or "temporary" for a self-signed pair of this run alone.
        insecure: allow the interface without TLS; anyone who reaches it can run code.
        dashboard_port: port of the dashboard on the loopback interface; None: no dashboard.
    """

    interface: str | None = None
    tls: Tls | str | None = None
    insecure: bool = False
    dashboard_port: int | None = 8787

    def __post_init__(self) -> None:
        if isinstance(self.tls, str) and self.tls != "temporary":
            raise OptionError(f"tls: {self.tls!r} is neither 'temporary' nor ca_file, cert and key")
        if self.interface and not self.tls and not self.insecure:
            raise OptionError(
                f"interface: {self.interface} opens the cluster to a network; add tls: (temporary, or "
                "ca_file, cert and key), or insecure: true where only trusted people can reach it"
            )


@dataclass(frozen=True)
class LocalConfig(Network):
    """Worker processes on this machine.

    Args:
        workers: processes; None: one for each core, or one for each GPU.
        threads: tasks at once in each worker; None: one, or with a GPU one for each of the worker's cores, up to 8.
        memory: limit of each worker, such as "4 GiB"; None: the machine's, shared out.
        device: "auto", "cpu" or "cuda": whether workers are laid out for GPUs.
        scratch: folder for temporary files; None: the system's ($TMPDIR).
    """

    workers: int | None = None
    threads: int | None = None
    memory: str | None = None
    device: str = "auto"
    scratch: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "workers", "threads")
        if self.device not in ("auto", "cpu", "cuda"):
            raise OptionError(f"device: {self.device!r} is not one of 'auto', 'cpu', 'cuda'")


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(Network):
    """Workers as SLURM jobs; the scheduler runs where `connect()` is called.

    Args:
        cores, memory, walltime: of one job, such as 16, "64 GiB", "02:00:00".
        jobs, maximum_jobs: kept running while there is work; jobs that end are replaced.
        processes: workers in one job; None: one for each core, or a single one with a GPU, of up to 8 threads.
        gpu: whether each job gets one GPU; for more GPUs, ask for more jobs.
        account, partition: as for sbatch.
        directives: further #SBATCH options, such as "--constraint=skylake".
        prologue: shell lines before the worker starts, such as "module load python".
        python: interpreter on the nodes; None: the one that runs now.
        scratch: folder for temporary files on the node.
        logs: folder for the jobs' output.
        shared: folder that nodes and this machine share, for temporary certificates.
    """

    cores: int
    memory: str
    walltime: str
    jobs: int = 1
    maximum_jobs: int | None = None
    processes: int | None = None
    gpu: bool = False
    account: str | None = None
    partition: str | None = None
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str | None = None
    scratch: str = "${TMPDIR:-/tmp}"
    logs: str | None = None
    shared: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "cores", "jobs", "maximum_jobs", "processes")
        seconds(self.walltime)
        if not self.interface:
            raise OptionError("interface: name the network that jobs and this machine share, such as ib0 or eth0")

    @property
    def workers_per_job(self) -> int:
        return self.processes or (1 if self.gpu else self.cores)

    @property
    def threads_per_worker(self) -> int:
        return tasks_at_once(self.cores // self.workers_per_job, gpu=self.gpu)


@dataclass(frozen=True)
class AddressConfig:
    """A scheduler that runs already, by address or by the file it wrote."""

    address: str | None = None
    scheduler_file: str | None = None
    tls: Tls | None = None

    def __post_init__(self) -> None:
        if (self.address is None) == (self.scheduler_file is None):
            raise OptionError("give either address: or scheduler_file:")


Config = LocalConfig | SlurmConfig | AddressConfig
KINDS: Mapping[str, type[Config]] = {"local": LocalConfig, "slurm": SlurmConfig, "address": AddressConfig}


def read_config(path: str | PathLike[str]) -> Config:
    """The cluster that a YAML file describes; `kind:` says which of KINDS it is.

    Raises: InputError naming the file, and the key or value that is wrong.
    """
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cluster file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"cluster file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"cluster file {path} holds no keys; it needs kind: and its options")
    kind = data.pop("kind", None)
    if kind not in KINDS:
        raise InputError(f"cluster file {path}: kind: {kind!r} is not one of {', '.join(KINDS)}")
    try:
        if isinstance(data.get("tls"), dict):
            data["tls"] = build(Tls, data["tls"])
        return build(KINDS[kind], data)
    except OptionError as error:
        raise OptionError(f"cluster file {path}: {error}") from error


def build(cls: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass from plain data, with unknown and missing keys named.

    Raises: OptionError.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(k) for k in data if k not in fields]
    if unknown:
        raise OptionError(f"unknown key {', '.join(unknown)}; known are {', '.join(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"missing key {', '.join(missing)}")
    return cls(**{name: _coerced(name, str(fields[name].type), value) for name, value in data.items()})


def positive(config: object, *names: str) -> None:
    """Raises: OptionError where one of these is given and not above zero."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise OptionError(f"{name}: {value} must be at least 1")


def seconds(walltime: str) -> int:
    """Seconds of SLURM's minutes, hours:minutes:seconds or days-hours:minutes:seconds.

    Raises: OptionError.
    """
    days, _, rest = walltime.rpartition("-")
    parts = rest.split(":")
    if not all(p.isdigit() for p in parts) or len(parts) > 3 or (days and not days.isdigit()):
        raise OptionError(f"walltime: {walltime!r} is not like '02:00:00' or '1-12:00:00' (quote it in YAML)")
    numbers = [int(p) for p in parts]
    # With days, and in full, the largest unit comes first; one or two numbers start at minutes.
    hours_first = numbers if days or len(numbers) == 3 else [0, *numbers]
    hours, minutes, rest_seconds = [*hours_first, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_seconds


def _coerced(name: str, kind: str, value: Any) -> Any:
    """`value` where it fits the annotation `kind`, lists as tuples."""
    wanted = [w.strip() for w in kind.split("|")]
    if value is None and "None" in wanted:
        return None
    if isinstance(value, list) and "tuple[str, ...]" in wanted and all(isinstance(v, str) for v in value):
        return tuple(value)
    known: dict[str, type] = {"int": int, "str": str, "bool": bool, "Tls": Tls}
    for word in wanted:
        cls = known.get(word)
        if cls is not None and isinstance(value, cls) and (cls is bool or not isinstance(value, bool)):
            return value
    hint = " (put it in quotes)" if "str" in wanted else ""
    raise OptionError(f"{name}: {value!r} is not of type {kind.replace('tuple[str, ...]', 'list of text')}{hint}")
