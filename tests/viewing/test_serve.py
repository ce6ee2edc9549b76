"""`serve`: what is read over HTTP is what `write` would store, and nothing else can be read."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from skimage import data
from zarr.storage import ObjectStore

import daskreg as dr
from daskreg.errors import DaskregError, OptionError
from daskreg.viewing import Server, pyramid
from daskreg.viewing.http_server import UNREADABLE

LAYOUT = {"chunks": (3, 96, 80), "levels": 3}


def slices(count: int = 7) -> np.ndarray[Any, Any]:
    """Odd sizes, none of them a multiple of a chunk."""
    image = data.camera()[37:348, 21:258].astype(np.uint16) * 17
    return np.stack([np.roll(image, 3 * k, axis=1) for k in range(count)])


def drifted() -> xr.DataArray:
    shift = np.random.default_rng(4).normal(0, 3, (7, 2))
    matrices = np.tile(np.eye(3), (7, 1, 1))
    matrices[:, :2, 2] = shift
    warped: xr.DataArray = dr.warp(dr.open(slices()), pull=dr.SliceAffines(matrices))
    return warped


def labels() -> xr.DataArray:
    return dr.warp(dr.open((slices() // 900).astype(np.uint8)), pull=dr.Affine.translation(x=1.4), order=0)


def downwards() -> xr.DataArray:
    """An axis that descends in the world, which is stored from its other end."""
    array = xr.DataArray(slices().astype(np.float32), dims=("z", "y", "x"), coords={"z": 7.0 - np.arange(7)})
    return dr.warp(array, pull=dr.Affine.translation(y=0.5), edge="clamp")


def channels() -> xr.DataArray:
    array = xr.DataArray(np.stack([slices(4), slices(4)[:, ::-1]]), dims=("c", "z", "y", "x"))
    return dr.warp(array.assign_coords(c=["one", "two"]), pull=dr.Affine.translation(x=2.25))


def graph() -> xr.DataArray:
    """A dask graph, as any other operation leaves it."""
    array = da.from_array(slices(), chunks=(2, 100, 90)) + 5
    return dr.warp(xr.DataArray(array, dims=("z", "y", "x")), pull=dr.Affine.translation(x=-1.5, y=3))


def plain() -> xr.DataArray:
    return dr.open(slices()[0] > 2000)


CASES = {f.__name__: f for f in (drifted, labels, downwards, channels, graph, plain)}


def fetched(url: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    connection.request(method, parts.path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            yield str(path.relative_to(folder)), path.read_bytes()


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with dr.serve(drifted(), **LAYOUT) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "version"), [*((name, "0.5") for name in CASES), ("drifted", "0.4"), ("downwards", "0.6")]
)
def test_every_file_has_the_bytes_that_write_stores(
    name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every level, of one box or of the chunks below; of the metadata all but the number of the run."""
    if version != "0.5":
        monkeypatch.setattr(pyramid, "AT_ONCE", 0)
    array = CASES[name]()
    layout = {"chunks": LAYOUT["chunks"][-array.ndim :], "levels": 3} if array.ndim < 4 else {"chunks": 64, "levels": 2}
    image = tmp_path / f"{array.name or 'volume'}.ome.zarr"
    dr.write(array, image, shards=None, version=version, progress=False, client=False, **layout)
    with dr.serve(array, version=version, **layout) as server:
        seen = 0
        for key, stored in files(image):
            answer, body = fetched(f"{server.url}/{key}")
            assert answer.status == 200
            if key in ("zarr.json", ".zattrs"):
                assert without_run(body) == without_run(stored)
            else:
                assert body == stored, key
            seen += 1
    assert seen > 8


def without_run(text: bytes) -> Any:
    stored = json.loads(text)
    own = stored.get("attributes", stored)["daskreg"]
    assert set(own) >= {"run"}
    del own["run"]
    image = stored.get("attributes", {}).get("ome", stored)["multiscales"][0]
    del image["name"]  # of an array without a name, that of the file
    return stored


def test_clients_of_zarr_read_it_at_once(served: Server) -> None:
    """zarr over obstore, and `daskreg.open`, each of several threads, compared with the warp itself."""
    from obstore.store import HTTPStore

    want = drifted().values
    store = ObjectStore(HTTPStore.from_url(served.url, client_options={"allow_http": True}), read_only=True)

    def by_zarr(number: int) -> bool:
        array: Any = zarr.open_array(store, path="0", mode="r")
        part = slice(10 * number, 10 * number + 190)
        return np.array_equal(array[:, part], want[:, part])

    def by_daskreg(number: int) -> bool:
        return np.array_equal(dr.open(served.url).values, want)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(by_zarr, range(5)))
        assert all(pool.map(by_daskreg, range(2)))


def test_levels_are_means_of_the_level_below(served: Server) -> None:
    fine, coarse = (dr.open(served.url, level=k).values.astype(float) for k in (0, 1))
    middle = fine[2:4, 20:22, 40:42].mean()
    assert abs(coarse[1, 10, 20] - middle) <= 0.5
    assert dr.open(served.url, level=2).shape == (2, 78, 60)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/zarr", "/zarr.json/", "/0", "/0/", "/3/zarr.json", "/0/c/3/0/0", "/0/c/0/0", "/0/c/0/0/0/0", "/0/0/0/0",
     "/0/c/00/0/0", "/0/c/-1/0/0", "/0/c/0/0/0?x=1/../1", "/../../../etc/passwd", "/%2e%2e/zarr.json", "/..%2f..%2fetc",
     "//etc/passwd", "/0/c/0/0/" + "1" * 5000, "/.zattrs", "/.zgroup"],
)  # fmt: skip
def test_nothing_else_can_be_read(served: Server, path: str) -> None:
    if path.startswith("/0/c/0/0/0?"):
        assert fetched(served.url + path)[0].status == 200  # a query is ignored
        return
    parts = urlsplit(served.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    connection.putrequest("GET", parts.path + path, skip_host=True)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 404
    assert answer.read() == b""
    connection.close()


@pytest.mark.parametrize(
    "change", [lambda t: ("y" if t[0] == "x" else "x") + t[1:], lambda t: t[:-1], lambda t: "", lambda t: "%" + t]
)
def test_without_the_token_there_is_nothing(served: Server, change: Any) -> None:
    _, token, name = urlsplit(served.url).path.split("/")
    wrong = served.url.replace(f"/{token}/{name}", f"/{change(token)}/{name}")
    answer, body = fetched(f"{wrong}/zarr.json", Origin="http://localhost:1")
    assert (answer.status, body) == (404, b"")
    assert len(token) >= 32


def test_only_reading_is_possible(served: Server) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        assert fetched(f"{served.url}/zarr.json", method)[0].status == 501


def test_ranges_and_heads(served: Server) -> None:
    url = f"{served.url}/0/c/1/2/1"
    _, whole = fetched(url)
    head, nothing = fetched(url, "HEAD")
    assert (head.status, nothing, head.getheader("Content-Length")) == (200, b"", str(len(whole)))
    n = len(whole)
    for asked, part in {"0-3": whole[:4], "5-": whole[5:], "-7": whole[-7:], f"9-{n + 9}": whole[9:]}.items():
        answer, body = fetched(url, Range=f"bytes={asked}")
        assert (answer.status, body) == (206, part)
        first = n - len(part) if asked != "0-3" else 0
        assert answer.getheader("Content-Range") == f"bytes {first}-{first + len(part) - 1}/{n}"
    assert fetched(url, Range=f"bytes={n}-")[0].status == 416
    assert fetched(url, Range="bytes=-0")[0].status == 416
    for ignored in ("bytes=1-2,5-6", "bytes=-", "lines=1-2", "bytes=b-a"):
        assert fetched(url, Range=ignored)[1] == whole
    assert fetched(f"{served.url}/0/c/9/9/9", "HEAD")[0].status == 404


def test_only_pages_of_this_machine_and_neuroglancer_may_read(served: Server) -> None:
    for origin, allowed in {
        "http://localhost:8888": True,
        "http://127.0.0.1:4000": True,
        "https://neuroglancer-demo.appspot.com": True,
        "https://example.org": False,
        "http://localhost.example.org": False,
        "null": False,
    }.items():
        for method, status in (("GET", 200), ("OPTIONS", 204)):
            answer, _ = fetched(f"{served.url}/zarr.json", method, Origin=origin)
            assert answer.status == status
            assert answer.getheader("Access-Control-Allow-Origin") == (origin if allowed else None)
    assert fetched(f"{served.url}/zarr.json")[0].getheader("Access-Control-Allow-Origin") is None


def test_a_chunk_that_cannot_be_made_is_an_error_that_tells_no_stranger_why(caplog: pytest.LogCaptureFixture) -> None:
    def broken(block: Any) -> Any:
        raise ZeroDivisionError("the detector was off")

    array = da.map_blocks(broken, da.zeros((50, 60), chunks=30), dtype=float, meta=np.empty((0, 0)))
    with dr.serve(array, levels=1) as server:
        answer, body = fetched(f"{server.url}/0/c/0/0")
        assert (answer.status, body) == (UNREADABLE, b"")
        assert "the detector was off" in caplog.text
        assert server.url.split("/")[3] not in caplog.text
        with pytest.raises(DaskregError):
            dr.open(server.url).values  # noqa: B018


def test_requests_of_no_url_get_404_and_are_not_logged(served: Server, caplog: pytest.LogCaptureFixture) -> None:
    """As any user of this machine may send them, to write to the terminal of the owner."""
    place = urlsplit(served.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=20) as connection:
        connection.sendall(b"GET http://[\x1b]0;x\x07 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 404")
    assert not caplog.text
    assert fetched(f"{served.url}/zarr.json", Range="bytes=0-" + "9" * 5000)[0].status == 200


def test_nothing_is_computed_after_the_end() -> None:
    """Neither for a connection that is still open, nor of what was begun."""
    begun, made = threading.Event(), []

    def slow(block: Any, block_info: Any = None) -> Any:
        made.append(1)
        begun.set()
        time.sleep(0.02)
        return block

    array = da.map_blocks(slow, da.zeros((1600, 16), chunks=16), dtype=float, meta=np.empty((0, 0)))
    server = dr.serve(array, levels=6, chunks=16)
    place = urlsplit(server.url)
    kept = http.client.HTTPConnection(place.netloc, timeout=20)
    kept.request("GET", f"{place.path}/0/zarr.json")
    kept.getresponse().read()
    asked = threading.Thread(target=lambda: fetched(f"{server.url}/5/c/0/0"))
    made.clear()
    asked.start()
    begun.wait(20)
    server.close()
    asked.join(20)
    assert len(made) < 20
    kept.request("GET", f"{place.path}/0/c/0/0")
    assert kept.getresponse().status == 404


@pytest.mark.parametrize(
    "options",
    [{"port": 70000}, {"port": -1}, {"port": "80a"}, {"port": True}, {"cache": -5}, {"cache": "much"}],
    ids=str,
)
def test_options_that_cannot_be_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        dr.serve(plain(), **options)


def test_one_origin_is_one_and_a_board_keeps_its_name() -> None:
    with dr.serve({"checkerboard": plain(), "other": plain()}, checkerboard=True, origins="https://x.org") as server:
        assert list(server.urls) == ["checkerboard-2.ome.zarr", "other.ome.zarr", "checkerboard.ome.zarr"]
        answer, _ = fetched(f"{server.url}/zarr.json", Origin="https://x.org")
        assert answer.getheader("Access-Control-Allow-Origin") == "https://x.org"


def test_a_plan_is_served_in_its_chunks(tmp_path: Path) -> None:
    plan = dr.plan(drifted(), tmp_path / "later.ome.zarr", chunks=(2, 64, 64), levels=2, client=False)
    with dr.serve(plan) as server:
        assert server.url.endswith("/later.ome.zarr")
        array: Any = dr.open(server.url)
        np.testing.assert_array_equal(array.values, drifted().values)
        assert json.loads(fetched(f"{server.url}/0/zarr.json")[1])["chunk_grid"]["configuration"]["chunk_shape"] == [
            2, 64, 64,
        ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_terabyte_is_opened_without_computing_it() -> None:
    """Nothing is read but what is looked at: each block of this graph would take 128 MiB."""
    asked: list[Any] = []

    def block(block_id: Any) -> Any:
        asked.append(block_id)
        return np.full((1, 8192, 8192), sum(block_id), np.uint16)

    volume = da.map_blocks(
        block, chunks=((1,) * 900, (8192,) * 4, (8192,) * 4), dtype="uint16", meta=np.empty((0,) * 3)
    )
    matrices = np.tile(np.eye(3), (900, 1, 1))
    matrices[:, :2, 2] = 3.0
    warped = dr.warp(xr.DataArray(volume, dims=("z", "y", "x")), pull=dr.SliceAffines(matrices))
    with dr.serve(warped) as server:
        assert "z 900 x y 32768 x x 32768" in repr(server)
        assert fetched(f"{server.url}/0/zarr.json")[0].status == 200
        assert asked == []
        assert fetched(f"{server.url}/0/c/450/20/20")[0].status == 200
        assert asked == [(450, 1, 1)]


def test_it_ends(served: Server) -> None:
    server = dr.serve({"a b": slices()[0], "ä": slices()[1]}, levels=1)
    assert list(server.urls) == ["a-b.ome.zarr", "volume.ome.zarr"]
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("GET", urlsplit(server.url).path + "/zarr.json")
    connection.getresponse().read()
    assert server.url in repr(server)
    assert server.url in server._repr_html_()
    server.close()
    server.close()
    connection.close()
    assert "closed" in repr(server)
    with pytest.raises(ConnectionError):
        fetched(server.url)
    taken = int(urlsplit(served.url).port or 0)
    with pytest.raises(OptionError, match="port="):
        dr.serve(slices(), port=taken)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"version": "0.3"}, "version"),
        ({"cache": "much"}, "cache"),
        ({"levels": 0}, "levels"),
        ({"chunks": 0}, "chunks"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        dr.serve(slices(), **options)
