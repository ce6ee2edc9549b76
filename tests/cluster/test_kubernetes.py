"""Manifests for Kubernetes: valid by the schemas that the operator of dask-kubernetes installs, and what they ask for.

No Kubernetes runs here. The schemas, of which those of the pods are Kubernetes' own, are files of the package
dask-kubernetes, which need not be imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

import daskreg as dr
from daskreg.cluster.config import read_config
from daskreg.cluster.kubernetes import KubernetesConfig, cluster_manifest, worker_group_manifest
from daskreg.errors import InputError, MissingExtraError, OptionError

SHIPPED = Path(__file__).parents[2] / "cluster"
CONFIG = KubernetesConfig(image="registry.example.org/daskreg:0.2.0", claim="volumes", tls_secret="daskreg-tls")
GPUS = dataclasses.replace(CONFIG, workers=2, cores=8, memory="64 GiB", gpu=True)
CRDS = "operator/deployment/helm/dask-kubernetes-operator/crds"


def schema(kind: str) -> dict[str, Any]:
    """The schema of a resource, in which a misspelt field is an error."""
    spec = importlib.util.find_spec("dask_kubernetes")
    if spec is None or spec.origin is None:
        pytest.skip("dask-kubernetes, which has the schemas, is not installed")
    data = yaml.safe_load((Path(spec.origin).parent / CRDS / f"{kind.lower()}.yaml").read_text())
    found: dict[str, Any] = strict(data["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    return found


def strict(part: Any) -> Any:
    """The schema with no field allowed that it does not name; Kubernetes drops such fields without a word."""
    if isinstance(part, list):
        return [strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: strict(value) for key, value in part.items()}
    if isinstance(part.get("properties"), dict) and part["properties"]:
        free = "additionalProperties" in part or part.get("x-kubernetes-preserve-unknown-fields")
        made.setdefault("additionalProperties", bool(free))
    if part.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return made


def check(manifest: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    found = schema(manifest["kind"])
    found["properties"].setdefault("apiVersion", {"type": "string"})
    found["properties"].setdefault("kind", {"type": "string"})
    found["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    jsonschema.Draft7Validator(found).validate(manifest)


@pytest.mark.parametrize("config", [CONFIG, GPUS, KubernetesConfig(image="daskreg", insecure=True)])
def test_what_connect_asks_for_is_valid(config: KubernetesConfig) -> None:
    check(cluster_manifest(config))
    check(worker_group_manifest(config, "more"))


def test_a_wrong_manifest_is_found() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for where, key, value in (("spec", "volume", []), ("spec", "containers", [{"name": 3}]), ("", "replicas", "four")):
        manifest = cluster_manifest(CONFIG)
        worker = manifest["spec"]["worker"]
        (worker[where] if where else worker)[key] = value
        with pytest.raises(jsonschema.ValidationError):
            check(manifest)


def test_the_shipped_files_are_valid_and_those_that_the_config_makes() -> None:
    cluster, gpus = (
        yaml.safe_load((SHIPPED / "kubernetes" / f"{name}.yaml").read_text()) for name in ("cluster", "gpu-workers")
    )
    assert cluster == cluster_manifest(CONFIG)
    assert gpus == worker_group_manifest(GPUS, "gpu")
    check(cluster)
    check(gpus)


def test_the_network_policy_selects_the_pods_of_the_cluster() -> None:
    policy = yaml.safe_load((SHIPPED / "kubernetes" / "network-policy.yaml").read_text())
    label = {"dask.org/cluster-name": CONFIG.name}
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": label}}]}]


def test_what_the_pods_are_told() -> None:
    workers = cluster_manifest(CONFIG)["spec"]["worker"]
    (container,) = workers["spec"]["containers"]
    told = {one["name"]: one["value"] for one in container["env"]}
    assert workers["replicas"] == 4
    assert container["resources"]["limits"] == {"cpu": "1", "memory": str(8 * 2**30)}
    assert told["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
    assert told["DASK_SCHEDULER_ADDRESS"] == "tls://daskreg-scheduler.default:8786"
    assert told["OMP_NUM_THREADS"] == "1"
    (container,) = cluster_manifest(GPUS)["spec"]["worker"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["command"][container["command"].index("--resources") + 1] == "GPU=8"


def test_the_shipped_cluster_file() -> None:
    config = read_config(SHIPPED / "kubernetes.yaml")
    assert config == KubernetesConfig(image=CONFIG.image, insecure=True)
    if importlib.util.find_spec("dask_kubernetes") is None:
        with pytest.raises(MissingExtraError, match=r"daskreg\[kubernetes\]"):
            dr.connect(config)


@pytest.mark.slow
def test_pods_without_tls_are_an_explicit_choice(tmp_path: Path) -> None:
    for config in (dataclasses.replace(CONFIG, tls_secret=None), CONFIG):
        with pytest.raises(OptionError, match="insecure: true"):
            dr.connect(config)
    for text, words in (
        ("image: a\nname: Daskreg", "name: 'Daskreg' is not"),
        ("image: a\nmemory: lots", "memory: 'lots'"),
        ("image: a\nworker: 3", "did you mean workers"),
        ("name: a", "missing key image"),
    ):
        (tmp_path / "k.yaml").write_text(f"kind: kubernetes\n{text}\n")
        with pytest.raises(InputError, match=words):
            read_config(tmp_path / "k.yaml")
