"""The examples of cluster/README.md, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="they are for bash")]

ROOT = Path(__file__).parents[2]
SECTION = (
    (ROOT / "cluster/README.md").read_text(encoding="utf-8").split("## Try each on one machine")[1].split("\n## ")[0]
)
EXAMPLES = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
INPUT, OTHERS = EXAMPLES[0], {re.findall(r"(\w+)\.zarr --pull", text)[0]: text for text in EXAMPLES[1:]}
NEEDS = {
    "tls": ["openssl"],
    "slurm": ["slurmctld", "munged", "ip"],
    "ssh": ["sshd", "ssh-keygen"],
    "out": ["curl", "moto_server"],
}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    (made / "cluster").symlink_to(ROOT / "cluster")
    run(INPUT, made)
    return made


def run(commands: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_there_is_an_example_of_each_kind() -> None:
    assert set(OTHERS) == {"local", "tls", "slurm", "ssh", "out"}


@pytest.mark.parametrize("kind", OTHERS)
def test_an_example_runs_as_it_is_written(kind: str, folder: Path) -> None:
    missing = [name for name in NEEDS.get(kind, []) if shutil.which(name, path=PATH) is None]
    if missing or (kind == "slurm" and os.getuid() != 0):
        pytest.skip(f"it needs {', '.join(missing) or 'root'}")
    run(OTHERS[kind], folder)
    assert not [path.name for path in folder.glob(".daskreg-run-*")]
