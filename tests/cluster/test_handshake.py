"""Workers that cannot do the work are named before any block is given to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import daskreg as dr
from daskreg.cluster.handshake import Handshake, difference
from daskreg.cluster.worker_facts import facts
from daskreg.errors import UnfitWorkerError

pytestmark = pytest.mark.slow


@contextmanager
def worker_with(path: Path) -> Iterator[Client]:
    """A client of a scheduler with one worker, which finds packages in `path` first."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        address = cluster.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
        worker = subprocess.Popen(command, env=environment, cwd=path, stderr=subprocess.DEVNULL)
        try:
            with Client(cluster) as client:
                client.wait_for_workers(1, timeout=60)
                yield client
        finally:
            worker.terminate()
            worker.wait(timeout=30)


def copied_package(folder: Path) -> Path:
    shutil.copytree(Path(dr.__file__).parent, folder / "daskreg", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "daskreg"


def workers_of(client: Client) -> list[str]:
    return list(client.scheduler_info(n_workers=-1)["workers"])


def test_a_worker_with_the_same_package_in_another_place_is_fit_until_its_source_differs(tmp_path: Path) -> None:
    package = copied_package(tmp_path)
    with worker_with(tmp_path) as client:
        Handshake(client, reads=[str(tmp_path)], writes=[str(tmp_path)]).check(workers_of(client))
        with pytest.raises(
            UnfitWorkerError, match=r"on .* cannot do this work: it does not see /not/shared/in.zarr: use a"
        ):
            Handshake(client, reads=["/not/shared/in.zarr"]).check(workers_of(client))
        with (package / "errors.py").open("a") as file:
            file.write("# changed\n")
        with pytest.raises(UnfitWorkerError, match="its daskreg has other source code"):
            Handshake(client).check(workers_of(client))


def test_a_worker_without_the_package_is_told_from_one_that_has_it(tmp_path: Path) -> None:
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += "        if name == 'daskreg': raise ValueError(name)\nsys.meta_path.insert(0, Hide())\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    with (
        worker_with(tmp_path) as client,
        pytest.raises(UnfitWorkerError, match="daskreg is not installed there: install it"),
    ):
        Handshake(client).check(workers_of(client))


def test_each_difference_is_named() -> None:
    own = facts()
    assert difference(own, facts()) is None
    for key, value, words in (
        ("python", "3.10", "runs Python 3.10"),
        ("versions", {**own["versions"], "zarr": "2.18"}, "it has zarr 2.18 and the client"),
        ("not writable", ["/out"], "cannot write to /out"),
    ):
        assert words in str(difference(own, {**own, key: value}))
