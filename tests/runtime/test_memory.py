"""Memory and cores that are available: cached files count as available, limits of control groups hold."""

from __future__ import annotations

import gc
import types
from pathlib import Path

import psutil
import pytest

from daskreg.runtime import device, memory

MACHINE = 10**12


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of control groups, and a machine with few free pages whose memory is full of cached files."""
    machine = types.SimpleNamespace(available=MACHINE, free=1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_cached_files_are_available(groups: Path) -> None:
    assert memory.available_memory() == MACHINE
    write(groups, membership="0::/")
    assert memory.available_memory() == MACHINE


def test_the_narrowest_group_counts(groups: Path) -> None:
    write(groups, membership="0::/job.slice/step_0")
    write(groups / "job.slice", memory__max=5000, memory__current=1000)
    write(groups / "job.slice/step_0", memory__max="max", memory__current=700)
    assert memory.available_memory() == 4000
    write(groups / "job.slice/step_0", memory__max=2000, memory__current=1900)
    write(groups / "job.slice/step_0", memory__stat="anon 700\nactive_file 400\ninactive_file 800\nfile 1200")
    assert memory.available_memory() == 1300
    write(groups / "job.slice/step_0", memory__current=3500)
    assert memory.available_memory() == 0


def test_groups_of_version_1(groups: Path) -> None:
    write(groups, membership="5:cpu,cpuacct:/other\n4:memory:/job")
    write(groups / "memory/job", memory__limit_in_bytes=9000, memory__usage_in_bytes=8000)
    stat = "active_file 100\ninactive_file 100\ntotal_active_file 1500\ntotal_inactive_file 500"
    write(groups / "memory/job", memory__stat=stat)
    assert memory.available_memory() == 3000


def test_quotas_of_cores(groups: Path) -> None:
    write(groups, membership="0::/job.slice/step_0", cpu__max="max 100000")
    write(groups / "job.slice", cpu__max="250000 100000")
    write(groups / "job.slice/step_0", cpu__max="max 100000")
    assert list(device.quotas()) == [3]
    write(groups / "job.slice/step_0", cpu__max="100000 100000")
    assert list(device.quotas()) == [1, 3]


def test_quotas_of_version_1(groups: Path) -> None:
    write(groups, membership="5:cpu,cpuacct:/job/step\n4:memory:/other")
    write(groups / "cpu/job", cpu__cfs_quota_us=150000, cpu__cfs_period_us=50000)
    write(groups / "cpu/job/step", cpu__cfs_quota_us=-1, cpu__cfs_period_us=50000)
    write(groups / "cpu/other", cpu__cfs_quota_us=50000, cpu__cfs_period_us=50000)
    assert list(device.quotas()) == [3]


def test_a_container_sees_its_own_group_as_the_root(groups: Path) -> None:
    write(groups, membership="0::/../../outside", memory__max=800, memory__current=300)
    assert memory.available_memory() == 500


def test_what_is_made_without_the_collector_is_old_and_not_kept() -> None:
    with memory.without_collector(once=True):
        made = [[k] for k in range(10)]
        assert not gc.isenabled()
    assert gc.isenabled()
    old = {id(thing) for thing in gc.get_objects(generation=2)}
    assert all(id(thing) in old for thing in made)
    assert gc.get_freeze_count() < 1000  # what is frozen is never collected
