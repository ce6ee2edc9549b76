"""Cluster files: what they may say, and what is refused in which words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import daskreg as dr
from daskreg.cluster.batch import seconds
from daskreg.cluster.config import KINDS, AddressConfig, ClusterKind, LocalConfig, SlurmConfig, read_config
from daskreg.cluster.options import ClusterConfig, Tls, build
from daskreg.errors import InputError, NoWorkersError, OptionError

SHIPPED = Path(__file__).parents[2] / "cluster"


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_the_shipped_local_file_states_the_defaults() -> None:
    assert read_config(SHIPPED / "local.yaml") == LocalConfig()


def test_the_shipped_slurm_file_is_read() -> None:
    config = read_config(SHIPPED / "slurm.yaml")
    assert isinstance(config, SlurmConfig)
    assert (config.cores, config.workers_per_job, config.tls) == (16, 16, "temporary")
    assert config.walltime == "02:00:00"


def test_lists_become_tuples_and_tls_a_class(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            "kind: slurm\ncores: 4\nmemory: 8 GiB\nwalltime: '10'\ninterface: eth0\nprologue: [module load python]\n"
            "tls: {ca_file: a, cert: b, key: c}\n",
        )
    )
    assert isinstance(config, SlurmConfig)
    assert config.prologue == ("module load python",)
    assert config.tls == Tls("a", "b", "c")


def test_an_address_may_need_certificates(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, "kind: address\naddress: tls://host:8786\n"))
    assert config == AddressConfig(address="tls://host:8786")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("- 1", "holds no keys"),
        ("kind: [", "is not YAML"),
        ("workers: 2", "kind: None is not one of local, slurm, pbs, lsf, sge, ssh, kubernetes, allocation, address"),
        ("kind: local\nworkerz: 2", "unknown key workerz (did you mean workers?); known are interface"),
        ("kind: local\nzzz: 2", "unknown key zzz; known are interface"),
        (
            "kind: slum",
            "kind: 'slum' is not one of local, slurm, pbs, lsf, sge, ssh, kubernetes, allocation, address "
            "(did you mean slurm?)",
        ),
        ("kind: local\nworkers: two", "workers: 'two' must be a whole number"),
        ("kind: local\nworkers: true", "workers: True must be a whole number"),
        ("kind: local\nworkers: 0", "workers: 0 must be at least 1"),
        ("kind: local\nmemory: 4", "put it in quotes"),
        ("kind: local\ndevice: tpu", "device: 'tpu' is not one of"),
        ("kind: local\ntls: always", "neither 'temporary' nor"),
        ("kind: local\ntls: yes please", "neither 'temporary'"),
        ("kind: local\ntls: {ca_file: a}", "missing key cert, key"),
        ("kind: slurm\ncores: 4", "missing key memory, walltime"),
        (
            "kind: slurm\ncores: 4\nmemory: 8 GiB\nwalltime: 12:00:00\ninterface: eth0\ninsecure: true",
            "put it in quotes",
        ),
        ("kind: slurm\ncores: 4\nmemory: 8 GiB\nwalltime: soon\ninterface: eth0\ninsecure: true", "walltime: 'soon'"),
        ("kind: slurm\ncores: 4\nmemory: 8 GiB\nwalltime: '10'", "interface: name the network"),
        ("kind: local\nmemory: 4 potatoes", "memory: '4 potatoes' is not like '4 GiB'"),
        ("kind: local\nmemory: '0'", "memory: '0' must be at least 1 byte"),
        ("kind: slurm\ncores: 4\nmemory: lots\nwalltime: '10'\ninterface: eth0", "memory: 'lots' is not like"),
        ("kind: ssh\nhosts: [a]\ninterface: lo\nmemory: lots", "memory: 'lots' is not like"),
        ("kind: ssh\nhosts: [a]\ninterface: lo\nkey: none", "key: no file none"),
        ("kind: kubernetes\nimage: a\nmemory: lots", "memory: 'lots' is not like"),
        ("kind: local\ndashboard_port: 70000", "dashboard_port: 70000 is not from 0 to 65535"),
        ("kind: address", "either address: or scheduler_file:"),
        ("kind: local\nworkers: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(write(tmp_path, text))
    assert words in str(caught.value)
    assert "cluster.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: local\ninterface: ib9", "interface: this machine has no network interface 'ib9', but"),
        ("kind: local\ntls: {ca_file: a, cert: b, key: c}", "tls: no file a"),
        ("kind: address\naddress: tls://127.0.0.1:1\ntls: {ca_file: a, cert: b, key: c}", "tls: no file a"),
        ("kind: allocation\ninterface: lo", "this process is not in one"),
    ],
)
def test_a_value_that_is_wrong_on_this_machine_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises((InputError, NoWorkersError)) as caught:
        dr.connect(write(tmp_path, text))
    assert f"cluster file {tmp_path / 'cluster.yaml'}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.yaml: No such file"):
        read_config(tmp_path / "nowhere.yaml")


def test_build_names_unknown_keys_that_are_not_text() -> None:
    with pytest.raises(OptionError, match="unknown key 1"):
        build(AddressConfig, {1: "x"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("walltime", "expected"),
    [("10", 600), ("10:30", 630), ("02:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400), ("2-00:00:05", 172805)],
)
def test_walltimes_are_slurms(walltime: str, expected: int) -> None:
    assert seconds(walltime) == expected


@dataclass(frozen=True)
class OneConfig(ClusterConfig):
    """A kind of cluster that nobody knew of."""

    size: int = 1


def test_another_kind_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[OneConfig] = []
    monkeypatch.setitem(KINDS, "one", ClusterKind(OneConfig, started.append))  # type: ignore[arg-type]
    dr.connect(write(tmp_path, "kind: one\nsize: 3\n"))
    dr.connect(OneConfig(2))
    assert started == [OneConfig(3), OneConfig(2)]
    with pytest.raises(OptionError, match="for a local cluster only"):
        dr.connect(OneConfig(), workers=2)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.name)
def test_each_shipped_file_is_read_and_states_every_key(path: Path) -> None:
    config = read_config(path)
    stated = set(yaml.safe_load(path.read_text())) - {"kind"}
    known = {field.name for field in dataclasses.fields(config)}
    left_out = {"interface"} if isinstance(config, LocalConfig) else set()
    assert known - stated == left_out
