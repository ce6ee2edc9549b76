"""Object stores from a real cluster: a worker is killed, the store is busy, and no secret is anywhere."""

from __future__ import annotations

import base64
import logging
import os
import pickle
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cloudpickle
import numpy as np
import pytest
from distributed import Client, LocalCluster
from s3 import SECRET

import daskreg as dr
from daskreg.errors import DaskregWarning, StoreForbiddenError
from daskreg.sources.storage.access import remember_options
from daskreg.sources.storage.object_bytes import ObjectBytes
from daskreg.sources.store_options import share_options
from daskreg.writing import verify

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

OPTIONS: dict[str, Any] = {"chunks": (3, 16, 20), "shards": None, "levels": 2, "memory": "2 MiB", "progress": False}
PULL = dr.Affine.translation(y=1.5, x=-2.25)
FORMS = [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(), repr(SECRET)[1:-1]]


def assert_clean(what: str, *texts: Any) -> None:
    """No form of the secret is in a text or in bytes."""
    for text in texts:
        data = text if isinstance(text, bytes) else str(text).encode()
        assert not any(form.encode() in data for form in FORMS), f"the secret is in {what}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "in.zarr"
    dr.write(np.random.default_rng(3).integers(0, 60_000, (9, 32, 40), "u2"), path, client=False, **OPTIONS)
    return path


def test_a_run_with_a_killed_worker_and_a_busy_store_leaves_no_secret_anywhere(  # noqa: PLR0917
    s3: Any,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    given, out = f"{s3.url}/in.zarr", f"{s3.url}/out.zarr"
    remember_options(given, s3.options)
    for file in source.rglob("*"):
        if file.is_file():
            ObjectBytes(given).put(file.relative_to(source).as_posix(), [file.read_bytes()])
    remember_options(given, {})
    sent: list[bytes] = []
    with caplog.at_level(logging.DEBUG), dr.connect(workers=2) as client:
        real = client.map

        def recorded(*args: Any, **kwargs: Any) -> Any:
            sent.append(cloudpickle.dumps((args[1:], kwargs)))
            return real(*args, **kwargs)

        monkeypatch.setattr(client, "map", recorded)
        volume = dr.open(given, storage_options=s3.options)
        warped = dr.warp(volume, pull=PULL)
        assert_clean("the graph", pickle.dumps(dict(warped.data.dask.layers)), list(warped.data.__dask_keys__()))
        slow = {"PUT": 0.05}
        s3.fault = lambda method, path: slow.get(method) if "/c/" in path else None
        killer = threading.Thread(target=kill_a_worker, args=(client, s3))
        killer.start()
        written = dr.write(warped, out, storage_options=s3.options, **OPTIONS)
        killer.join()
        s3.fail_often(0.05)
        second = dr.write(warped, f"{s3.url}/second.zarr", **OPTIONS)
        s3.reset()
        assert second.retries > 0
        plain = warped.data.compute()  # tasks of dask itself, on a worker that came later

        s3.fault = lambda *_: 403
        with pytest.raises(StoreForbiddenError) as raised:
            dr.write(warped, f"{s3.url}/third.zarr", **OPTIONS)
        s3.reset()
        assert_clean("a traceback", *traceback.format_exception(raised.value))
        assert_clean("the logs of workers", client.get_worker_logs(), client.get_scheduler_logs())
        assert_clean("the events", client.get_events())
        assert_clean("what is printed", repr(written), repr(volume), repr(client), repr(dr.plan(warped, out)))
    dr.write(dr.warp(dr.open(source), pull=PULL), tmp_path / "out.zarr", client=False, **OPTIONS)
    for url in (out, f"{s3.url}/second.zarr"):
        assert verify(url) == []
        for file in (tmp_path / "out.zarr").rglob("c/*/*/*"):
            key = file.relative_to(tmp_path / "out.zarr").as_posix()
            assert bytes(ObjectBytes(url).get(key) or b"") == file.read_bytes()
    np.testing.assert_array_equal(plain, dr.open(out).values)
    assert sent
    assert_clean("a task", *sent)
    everything = ObjectBytes(s3.url)
    assert_clean("an object", *(bytes(everything.get(key) or b"") for key in everything.listing()))
    assert_clean("a URL", s3.requests)
    assert_clean("the log", caplog.text, *capfd.readouterr())


def kill_a_worker(client: Client, s3: Any) -> None:
    while s3.count(r"^PUT .*entries/") < 1:
        time.sleep(0.02)
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


def test_without_encryption_there_is_a_warning(s3: Any, source: Path) -> None:
    remember_options(s3.url, s3.options)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as cluster, Client(cluster) as client:
        with pytest.warns(DaskregWarning, match="without encryption"):
            share_options(client, [s3.url])
        share_options(client, [s3.url])  # they have them, so nothing is said
    remember_options(s3.url, {})
