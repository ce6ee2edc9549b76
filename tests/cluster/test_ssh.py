"""Workers that are started by ssh, with a real sshd on the loopback interface."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from getpass import getuser
from pathlib import Path

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.cluster.config import SshConfig
from daskreg.errors import InputError, NoWorkersError, OptionError

pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def new_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=30)
    return path


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshConfig]:
    """A machine that ssh reaches: this one."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd: Debian's openssh-server has it")
    folder = tmp_path_factory.mktemp("ssh")
    host, user = new_key(folder / "host"), new_key(folder / "user")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "authorized").write_text(user.with_suffix(".pub").read_text())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host.with_suffix('.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host}\nAuthorizedKeysFile {folder}/authorized\n"
        f"StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines its unprivileged part
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert server.poll() is None, server.communicate()[1]
        time.sleep(0.1)
    yield SshConfig(
        hosts=("127.0.0.1",),
        processes=2,
        memory="1 GiB",
        user=getuser(),
        port=port,
        key=str(user),
        known_hosts=str(folder / "known"),
        python=f"env PYTHONPATH={os.environ.get('PYTHONPATH', '')} {sys.executable}",
        interface="lo",
        tls="temporary",
        shared=str(folder),
        dashboard_port=None,
    )
    server.terminate()
    server.communicate()


def test_workers_by_ssh_write_what_this_process_writes(
    machine: SshConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 60_000, (6, 90, 70), dtype=np.uint16)
    zarr.create_array(tmp_path / "in.zarr", shape=pixels.shape, chunks=(1, 50, 40), dtype="u2")[:] = pixels
    moved = dr.warp(dr.open(tmp_path / "in.zarr"), pull=dr.Affine.translation(y=1.5, x=2.25))
    monkeypatch.setenv("DASKREG_WARM_UP", "none")
    with dr.connect(machine) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        pids = set(client.run(os.getpid).values())
        assert all(client.run(lambda: "daskreg.cluster.preload" in sys.modules).values())
        assert set(client.run(os.environ.get, "DASKREG_WARM_UP").values()) == {"none"}
        dr.write(moved, tmp_path / "out.zarr", chunks=(1, 50, 40), levels=1, progress=False)
    assert len(pids - {os.getpid()}) == 2
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr/0", mode="r")[:], np.asarray(moved))
    assert list(Path(str(machine.shared)).glob(".daskreg-run-*")) == []


def test_a_machine_whose_key_is_not_known_is_refused(machine: SshConfig, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(NoWorkersError, match=r"HostKeyNotVerifiable.*`ssh 127.0.0.1 true`"):
        dr.connect(replace(machine, known_hosts=str(tmp_path / "known")))


def test_a_wrong_user_key_is_refused(machine: SshConfig, tmp_path: Path) -> None:
    with pytest.raises(NoWorkersError, match="PermissionDenied"):
        dr.connect(replace(machine, key=str(new_key(tmp_path / "other"))))


def test_what_is_wrong_in_the_config_is_named() -> None:
    with pytest.raises(OptionError, match="hosts: name at least one"):
        SshConfig(hosts=(), interface="lo", tls="temporary")
    with pytest.raises(InputError, match="key: no file nowhere"):
        SshConfig(hosts=("a",), interface="lo", tls="temporary", key="nowhere")
