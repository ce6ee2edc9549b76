"""Who can reach us, and what a file can do to us: nothing listens beyond this machine, nothing read is code."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import psutil
import pytest

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cluster.config import LocalConfig
from daskreg.cluster.network import network_options
from daskreg.errors import DaskregWarning, InputError
from daskreg.formats.points import read_points
from daskreg.runtime.atomic import replacing
from daskreg.runtime.messages import redact, redact_command, redact_word

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


def test_only_who_has_the_certificate_joins_a_local_cluster_and_only_who_has_the_token_reads_its_pages() -> None:
    before = set(listening())
    with dr.connect(workers=1) as client:
        opened = {port: ips for port, ips in listening().items() if port not in before}
        assert len(opened) >= 4  # scheduler, its pages, a nanny, a worker
        assert set().union(*opened.values()) <= LOOPBACK
        address, link = client.scheduler.address, client.dashboard_link
        assert address.startswith("tls://")
        assert client.submit(sum, [1, 2]).result() == 3
        assert intruder(address, *opened) == ["refused"] * (3 + len(opened))
        assert fetch(link) == fetch(link.replace("/status", "/health")) == 200
        start, _, _ = link.rsplit("/", 2)
        for page in ("", "status", "health", "metrics", "sitemap.json", "info/main/workers.html", "json/counts.json"):
            assert fetch(f"{start}/{page}") == 404
        for port in opened:  # neither do workers show anything
            assert fetch(f"http://127.0.0.1:{port}/info/main/workers.html") != 200
    assert set(listening()) <= before


# Another user, where the tests may become one: joins as a client, with and without TLS, and as a worker of its own.
INTRUDER = """
import gc, os, socket, ssl, sys
gc.disable()  # a client that failed is closed when it is collected, which can block the start of the next one for ever
from distributed import Client
from distributed.security import Security
other = Security.temporary()
try:  # imports what the other user may not be able to read
    Client("tls://127.0.0.1:1", security=other, timeout=1)
except Exception:
    pass
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
address, *ports = sys.argv[1:]
for at, security in ((address, None), (address.replace("tls", "tcp"), None), (address, other)):
    try:
        with Client(at, security=security, timeout=3) as client:
            print(client.submit(os.getuid).result())
    except Exception:
        print("refused")
for port in ports:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as plain:
            with context.wrap_socket(plain) as wrapped:
                wrapped.sendall(b"hello")
                print("heard" if wrapped.recv(1) else "refused")
    except Exception:
        print("refused")
sys.stdout.flush()
os._exit(0)  # what is imported at the end may belong to somebody else
"""


def intruder(address: str, *ports: int) -> list[str]:
    """What another user gets: for three ways to join by the address, and for a greeting on each port."""
    ended = subprocess.run(
        [sys.executable, "-c", INTRUDER, address, *map(str, ports)],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    return ended.stdout.split()


def fetch(url: str) -> int:
    """The status of an HTTP answer; 0 for none."""
    try:
        with urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_cluster_without_tls_is_warned_of() -> None:
    config = LocalConfig(workers=1, insecure=True, dashboard_port=None)
    with pytest.warns(DaskregWarning, match="every user of this machine can run code as you"):
        client = dr.connect(config)
    with client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        # The same intruder comes in here, and runs code as us.
        assert intruder(client.scheduler.address)[:2] == [str(os.getuid())] * 2


def test_an_interface_is_opened_with_tls() -> None:
    for config in (LocalConfig(interface="lo"), LocalConfig(interface="lo", tls="temporary", insecure=True)):
        options = network_options(config)
        assert (options["interface"], options["protocol"]) == ("lo", "tls://")
        assert options["security"].require_encryption
    with pytest.warns(DaskregWarning, match="whoever reaches lo can run code as you"):
        assert network_options(LocalConfig(interface="lo", insecure=True)) == {"interface": "lo"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_temporary_key_ends_with_its_process(tmp_path: Path, number: int) -> None:
    script = (
        "import sys\nfrom daskreg.cluster.batch import batch_cluster\n"
        "from daskreg.cluster.run_folder import run_folder\n"
        "from daskreg.cluster.slurm import SLURM, SlurmConfig\n"
        "config = SlurmConfig(cores=1, memory='1 GiB', walltime='10', interface='lo', shared=sys.argv[1])\n"
        "cluster = batch_cluster(SLURM, config, run_folder(sys.argv[1]))\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        files = [*tmp_path.glob("*/*.pem")]
        assert len(files) == 3
        assert {path.stat().st_mode & 0o077 for path in (*files, files[0].parent)} == {0}
        process.send_signal(number)
    deadline = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())


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
    assert entry["v"][3][0][0].startswith("0/c/")
    entry["v"][3] = [["../victim", 0, victim.stat().st_size]]
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


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"s3://AKIA:ab/{SECRET}+x@bucket/a@2.zarr", "s3://***@2.zarr"),
        (f"s3://me:{SECRET}@{SECRET}@bucket/a.zarr", "s3://***@bucket/a.zarr"),
        (f"https://me:my {SECRET} word@host/x", "https://***@host/x"),
        (f"https://host/x#token={SECRET}", "https://host/x#token=***"),
        (f"https://host/x?sv=9&sr={SECRET}#at={SECRET}", "https://host/x?sv=***&sr=***#at=***"),
        (f"from s3://a/b to s3://me:{SECRET}@c/d", "from s3://a/b to s3://***@c/d"),
        (f"{{'key': '{SECRET}', 'secret': '{SECRET}'}}", "{'key': '***', 'secret': ***}"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"aws_secret_access_key = {SECRET}", "aws_secret_access_key = ***"),
        ("https://host/image@2x.zarr", "https://host/image@2x.zarr"),
        ("chunk key c/0/0 of a.zarr", "chunk key c/0/0 of a.zarr"),
    ],
)
def test_credentials_of_any_form_are_redacted(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    ("word", "clean"),
    [
        (f'https://host/x?token=it\'s my {SECRET}&n="{SECRET}"', "https://host/x?token=***&n=***"),
        (f"2=https://me:my {SECRET}\n{SECRET}@host/x#{SECRET} {SECRET}", "2=https://***@host/x#***"),
        (f"https://host/x?{SECRET}", "https://host/x?***"),
        (f"--api-key=its '{SECRET}", "--api-key=***"),
        (f"s3://me:{SECRET}@bucket/a-key=3.zarr", "s3://***@bucket/a-key=3.zarr"),
        (f"https://host:8080/a?sig=ab@{SECRET}", "https://***"),
        ("it's #2 of 3.tif", "it's #2 of 3.tif"),
        ("/data/my key=5/a.tif", "/data/my key=5/a.tif"),
        ("https://host/image@2x.zarr", "https://host/image@2x.zarr"),
    ],
)
def test_credentials_with_quotes_and_blanks_are_redacted_in_commands(word: str, clean: str) -> None:
    assert redact_word(word) == clean
    assert redact_word(clean) == clean
    typed = shlex.join(["daskreg", "info", word])
    shown = f"{shlex.join(['daskreg', 'info', clean])}  # in /a b"
    assert redact_command(f"{typed}  # in /a b") == shown
    assert redact_command(f"daskreg info a.zarr --token {SECRET}") == "daskreg info a.zarr --token '***'"
    assert redact(shown) == shown, "what a page does with all of its texts"


def test_names_of_partial_files_cannot_be_guessed_and_files_there_are_not_followed(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "page.html") as partial:
            names.add(partial.name)
            partial.write_text("x")
    assert len(names) == 20
    assert all(re.fullmatch(r"page\.html\.[0-9a-f]{16}\.partial", name) for name in names)
