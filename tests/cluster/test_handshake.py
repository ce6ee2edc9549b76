"""Workers that cannot do the work are named before any block is given to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

import daskreg as dr
from daskreg.cluster.handshake import check_paths, check_workers, difference, unusable_paths
from daskreg.cluster.worker_facts import facts, paths
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
        check_workers(client, workers_of(client))
        check_paths(client, reads=[str(tmp_path)], writes=[str(tmp_path)])
        with (package / "errors.py").open("a") as file:
            file.write("# changed\n")
        with Client(client.scheduler.address) as later, pytest.raises(UnfitWorkerError, match="other source code"):
            check_workers(later, workers_of(later))


def test_a_worker_without_the_package_is_told_from_one_that_has_it(tmp_path: Path) -> None:
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += "        if name == 'daskreg': raise ValueError(name)\nsys.meta_path.insert(0, Hide())\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    with (
        worker_with(tmp_path) as client,
        pytest.raises(UnfitWorkerError, match="daskreg is not installed there: install it"),
    ):
        dr.write(np.zeros((4, 8, 8), np.float32), tmp_path / "out.zarr", client=client, progress=False)


def test_each_difference_is_named() -> None:
    own = facts()
    assert difference(own, facts()) is None
    assert unusable_paths(paths([__file__], [str(Path(__file__).parent)])) is None
    assert "does not see /not/shared: use a path" in str(unusable_paths(paths(["/not/shared"], [])))
    assert "cannot write to /out" in str(unusable_paths({"unseen": [], "not writable": ["/out"]}))
    for key, value, words in (
        ("python", "3.10", "runs Python 3.10"),
        ("versions", {**own["versions"], "zarr": "2.18"}, "it has zarr 2.18 and the client"),
    ):
        assert words in str(difference(own, {**own, key: value}))
