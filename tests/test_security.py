"""Who can reach us, and what a file can do to us: nothing listens beyond this machine, nothing read is code."""

from __future__ import annotations

import ast
import json
import os
import pickle
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from distributed import Client

import daskreg as dr
from daskreg.blocks.ledger import Ledger
from daskreg.cluster.config import LocalConfig
from daskreg.errors import InputError, OptionError
from daskreg.formats.points import read_points

pytestmark = pytest.mark.slow

PACKAGE = Path(dr.__file__).parent
LOOPBACK = {"127.0.0.1", "::1"}
SECRET = "hunter2"


def listening() -> dict[int, set[str]]:
    """The addresses that this process and its children listen on, by port."""
    found: dict[int, set[str]] = {}
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(connection.laddr.port, set()).add(connection.laddr.ip)
    return found


def test_a_local_cluster_listens_on_the_loopback_interface_only() -> None:
    before = set(listening())
    with dr.connect(workers=2) as client:
        opened = {port: ips for port, ips in listening().items() if port not in before}
        assert len(opened) >= 6  # scheduler, dashboard, two nannies, two workers
        assert set().union(*opened.values()) <= LOOPBACK
        with urlopen(client.dashboard_link.replace("/status", "/health"), timeout=10) as answer:
            assert answer.status == 200
    assert set(listening()) <= before


def test_an_interface_is_opened_with_tls_only() -> None:
    with pytest.raises(OptionError, match="add tls:"):
        LocalConfig(interface="lo")
    config = LocalConfig(workers=1, interface="lo", tls="temporary", dashboard_port=None)
    with dr.connect(config) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3
        host, port = address.removeprefix("tls://").split(":")
        with pytest.raises(OSError, match=r"."):
            Client(f"tcp://{host}:{port}", timeout=2)
        with pytest.raises(OSError, match=r"."):  # TLS without a certificate of this run
            speak_tls(host, int(port))


def speak_tls(host: str, port: int) -> None:
    """Shake hands as somebody who trusts everybody and has no certificate, and wait for a word."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=5) as plain, context.wrap_socket(plain) as wrapped:
        wrapped.sendall(b"hello")
        if not wrapped.recv(1):
            raise ConnectionResetError("the other side hung up")


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("place", ["compressor", "filters", "behind another filter"])
def test_a_zarr_array_of_pickles_is_not_unpickled(tmp_path: Path, place: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.zarr"
    codec, delta = {"id": "pickle", "protocol": 4}, {"id": "delta", "dtype": "<u2"}
    meta: dict[str, Any] = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "<u2", "compressor": None}
    meta |= {"fill_value": 0, "order": "C", "filters": None, "dimension_separator": "."}
    meta |= {
        "compressor": {"compressor": codec},
        "filters": {"filters": [codec]},
        "behind another filter": {"filters": [delta, codec]},
    }[place]
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(meta))
    (path / "0.0").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(InputError):
        dr.open(path).compute()
    assert not mark.exists()


def test_other_files_are_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.save(tmp_path / "evil.npy", np.array([Evil(mark)], dtype=object), allow_pickle=True)
    for name in ("evil.json", "evil.tfm", "evil.h5", "evil.txt"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil(mark)))
        with pytest.raises(InputError):
            dr.load(tmp_path / name)
    with pytest.raises(InputError):
        read_points(tmp_path / "evil.npy")
    (tmp_path / "evil.yaml").write_text(f"!!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(InputError):
        dr.connect(tmp_path / "evil.yaml")
    assert not mark.exists()


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "torch.load", "marshal.loads", "os.system"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in forbidden, f"{path}:{node.lineno}"
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert options.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
                assert options.get("shell", "False") == "False", f"{path}:{node.lineno}"
                if ast.unparse(node.func) == "np.load":
                    assert "allow_pickle" in options, f"{path}:{node.lineno}"


def test_a_ledger_with_paths_that_climb_touches_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    dr.write(np.ones((4, 5)), tmp_path / "out.zarr", levels=1, progress=False)
    (journal,) = Ledger(tmp_path / "out.zarr").folder.glob("*.jsonl")
    entry = json.loads(journal.read_text())
    entry["files"] = [["../victim", 0, victim.stat().st_size]]
    journal.write_text(json.dumps(entry) + "\n")
    dr.write(np.ones((4, 5)), tmp_path / "out.zarr", levels=1, progress=False)
    dr.write(np.ones((4, 5)), tmp_path / "out.zarr", levels=1, progress=False, overwrite=True)
    assert victim.read_text() == "years of work"


def test_credentials_stay_out_of_messages(tmp_path: Path) -> None:
    for url in (
        f"s3://user:{SECRET}@bucket/a.zarr",
        f"memory://a.zarr?token={SECRET}",
        f"http://u:{SECRET}@127.0.0.1:9/x",
    ):
        with pytest.raises(Exception, match=r".") as raised:
            dr.open(url).compute()
        error: BaseException | None = raised.value
        while error is not None:
            assert SECRET not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
