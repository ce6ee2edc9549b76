"""Scheduler and workers as pods, through the operator of dask-kubernetes."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskreg.cluster.network import remote_environment
from daskreg.cluster.options import ClusterConfig, positive, size_of
from daskreg.cluster.owned_cluster import owning_client
from daskreg.cluster.preload import PRELOAD
from daskreg.errors import DaskregWarning, MissingExtraError, NoWorkersError, OptionError
from daskreg.runtime.messages import reason

if TYPE_CHECKING:
    from distributed import Client

API = "kubernetes.dask.org/v1"
CERTIFICATES = "/etc/daskreg-tls"
"""Where pods find the certificates of a secret: ca.pem, cert.pem and key.pem."""
PORT, PAGES = 8786, 8787


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig(ClusterConfig):
    """Pods of a cluster on which the operator of dask-kubernetes is installed.

    Args:
        image: with this daskreg in it, such as cluster/Dockerfile makes.
        name, namespace: of the cluster.
        workers: pods of workers, each with one task at a time (a GPU: 8).
        cores, memory: of each worker, such as 4 and "16 GiB".
        gpu: a GPU for each worker.
        claim: the PersistentVolumeClaim with the data, which all pods and this machine see; None: none.
        mount: path of the data in the pods, the same as on this machine.
        wait: minutes that pods may take to start.
        tls_secret: secret with certificates; for the files that `kubectl apply` takes, since connect cannot use it.
        insecure: no TLS between the pods and on the port that is forwarded to this machine.
    """

    image: str
    name: str = "daskreg"
    namespace: str = "default"
    workers: int = 4
    cores: int = 1
    memory: str = "8 GiB"
    gpu: bool = False
    claim: str | None = None
    mount: str = "/data"
    wait: int = 10
    tls_secret: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        positive(self, "workers", "cores", "wait")
        size_of("memory", self.memory)
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?", self.name):
            raise OptionError(f"name: {self.name!r} is not up to 50 of a-z, 0-9 and -, with no - at an end")


def start_kubernetes(config: KubernetesConfig) -> Client:
    """A client of new pods; closing it deletes them.

    Raises: OptionError without `insecure`; NoWorkersError where the operator or the image cannot be reached;
    MissingExtraError.
    """
    if not config.insecure or config.tls_secret:
        raise OptionError(
            "connect starts pods without TLS only, since dask-kubernetes knows no other (insecure: true): for TLS, run "
            "`kubectl apply -f cluster/kubernetes/` and use a cluster file of kind: address (cluster/README.md)"
        )
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise MissingExtraError("dask-kubernetes", "kubernetes") from error
    warnings.warn(
        "the pods of the cluster talk without TLS (insecure: true): whoever reaches them, and every user of this "
        f"machine while port {PORT} of the scheduler is forwarded to it, can run code as you",
        DaskregWarning,
        stacklevel=3,
    )
    try:
        cluster = KubeCluster(
            custom_cluster_spec=cluster_manifest(config),
            namespace=config.namespace,
            shutdown_on_close=True,
            resource_timeout=60 * config.wait,
            quiet=True,
        )
    except Exception as error:
        raise NoWorkersError(
            f"pods of {config.image} could not be started in the namespace {config.namespace} ({reason(error)}): try "
            "`kubectl get daskclusters`; the operator of dask-kubernetes must be installed"
        ) from error
    return owning_client(cluster, 0, awaited=_pending(config))


def _pending(config: KubernetesConfig) -> Callable[[], str | None]:
    """For so long as pods may take to start, what is waited for."""
    deadline = time.monotonic() + 60 * config.wait

    def awaited() -> str | None:
        name = f"pods of {config.name} (kubectl get pods -l dask.org/cluster-name={config.name})"
        return name if time.monotonic() < deadline else None

    return awaited


def cluster_manifest(config: KubernetesConfig) -> dict[str, Any]:
    """The DaskCluster: a scheduler and a group of workers."""
    address = {"dask.org/cluster-name": config.name, "dask.org/component": "scheduler"}
    ports = {"tcp-comm": PORT, "http-dashboard": PAGES}
    scheduler = _container(config, "scheduler", ["dask", "scheduler", *_protocol(config)], ports)
    scheduler["readinessProbe"] = {"tcpSocket": {"port": "tcp-comm"}, "periodSeconds": 2, "failureThreshold": 60}
    service = [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports.items()]
    return {
        "apiVersion": API,
        "kind": "DaskCluster",
        "metadata": {"name": config.name},
        "spec": {
            "scheduler": {
                "spec": _pod(config, scheduler),
                "service": {"type": "ClusterIP", "selector": address, "ports": service},
            },
            "worker": _workers(config),
        },
    }


def worker_group_manifest(config: KubernetesConfig, name: str) -> dict[str, Any]:
    """A DaskWorkerGroup: more workers of the cluster, such as some with GPUs."""
    spec = {"cluster": config.name, "worker": _workers(config)}
    return {"apiVersion": API, "kind": "DaskWorkerGroup", "metadata": {"name": f"{config.name}-{name}"}, "spec": spec}


def _workers(config: KubernetesConfig) -> dict[str, Any]:
    memory = str(size_of("memory", config.memory))
    threads = min(8, config.cores) if config.gpu else 1
    command = ["dask", "worker", *_protocol(config), "--name", "$(DASK_WORKER_NAME)", "--nthreads", str(threads)]
    command += ["--memory-limit", memory, "--no-dashboard"]
    if config.gpu:
        command += ["--resources", f"GPU={threads}"]
    command += ["--preload", PRELOAD]
    container = _container(config, "worker", command, {})
    container["env"] += [{"name": k, "value": v} for k, v in remote_environment(threads, config.cores).items()]
    if config.tls_secret:
        container["env"].append(
            {"name": "DASK_SCHEDULER_ADDRESS", "value": f"tls://{config.name}-scheduler.{config.namespace}:{PORT}"}
        )
    amount = {"cpu": str(config.cores), "memory": memory, **({"nvidia.com/gpu": "1"} if config.gpu else {})}
    container["resources"] = {"requests": amount, "limits": dict(amount)}
    return {"replicas": config.workers, "spec": _pod(config, container)}


def _protocol(config: KubernetesConfig) -> list[str]:
    return ["--protocol", "tls"] if config.tls_secret else []


def _container(config: KubernetesConfig, name: str, command: list[str], ports: dict[str, int]) -> dict[str, Any]:
    mounts = [{"name": "data", "mountPath": config.mount}] if config.claim else []
    environment: list[dict[str, str]] = []
    if config.tls_secret:
        mounts.append({"name": "tls", "mountPath": CERTIFICATES})
        values = {"REQUIRE_ENCRYPTION": "true", "TLS__CA_FILE": f"{CERTIFICATES}/ca.pem"}
        for role in ("SCHEDULER", "WORKER", "CLIENT"):
            values |= {f"TLS__{role}__CERT": f"{CERTIFICATES}/cert.pem", f"TLS__{role}__KEY": f"{CERTIFICATES}/key.pem"}
        environment = [{"name": f"DASK_DISTRIBUTED__COMM__{k}", "value": v} for k, v in values.items()]
    return {
        "name": name,
        "image": config.image,
        "command": command,
        "env": environment,
        "ports": [{"name": n, "containerPort": port, "protocol": "TCP"} for n, port in ports.items()],
        "volumeMounts": mounts,
    }


def _pod(config: KubernetesConfig, container: dict[str, Any]) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = []
    if config.claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": config.claim}})
    if config.tls_secret:
        volumes.append({"name": "tls", "secret": {"secretName": config.tls_secret, "defaultMode": 0o440}})
    return {"containers": [container], "volumes": volumes}
