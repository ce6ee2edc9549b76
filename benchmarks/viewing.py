"""How quickly chunks are served that are computed when asked for.

    python benchmarks/viewing.py [--size 2048] [--slices 48] [--requests 160]

A stack is stored, and a warp of it by one rigid map for each slice is served. Printed are the median and the 95th
percentile of the time of one request over HTTP, for chunks of 512 x 512 that nobody has asked for: "cold", with
nothing held in memory; "next", one after the other, as a viewer that moves on asks for them; "again", those that are
held. Then a stack of 1.1 TB without voxels is opened, warped and served: the time until its URL is there, and that of
the first chunk of its coarsest level and of its middle.
"""

from __future__ import annotations

import argparse
import http.client
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.blocks.levels import level_factors
from daskreg.formats.ome import LevelSpec, create_multiscale
from daskreg.viewing import Server
from daskreg.viewing.chunk_cache import ChunkCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--requests", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chunks(Path(folder), options.slices, options.size, options.requests)
        terabyte(Path(folder))


def drift(slices: int, size: int) -> dr.SliceAffines:
    rng = np.random.default_rng(0)
    centre = (size / 2, size / 2)
    angles, shifts = rng.normal(0, 0.01, slices), rng.normal(0, 20, (slices, 2))
    maps = [
        dr.Affine.from_parameters(theta=a, ty=y, tx=x, centre=centre) for a, (y, x) in zip(angles, shifts, strict=True)
    ]
    return dr.SliceAffines(np.stack([one.matrix for one in maps]))


def chunks(folder: Path, slices: int, size: int, requests: int) -> None:
    rng = np.random.default_rng(1)
    stack = np.stack([gaussian_filter(rng.normal(size=(size, size)).astype(np.float32), 2) for _ in range(slices)])
    stack = ((stack - stack.min()) / np.ptp(stack) * 60_000).astype(np.uint16)
    dr.write(stack, folder / "stack.ome.zarr", chunks=(1, 512, 512), progress=False)
    warped = dr.warp(dr.open(folder / "stack.ome.zarr"), pull=drift(slices, size))
    with dr.serve(warped) as server:
        image = next(iter(server.images.values()))
        for level in range(len(image.pyramid.layouts)):
            n = [-(-a // b) for a, b in zip(image.pyramid.layouts[level].shape, (1, 512, 512), strict=True)]
            keys = [f"{level}/c/{z}/{y}/{x}" for z in range(n[0]) for y in range(n[1]) for x in range(n[2])]
            get(server, keys[-1])
            forget(image.pyramid.cache)
            following = [get(server, key) for key in keys[: requests // 4**level]]
            again = [get(server, keys[0]) for _ in range(10)]
            cold = []
            for k in rng.permutation(len(keys))[: max(10, requests // 4 ** (level + 1))]:
                forget(image.pyramid.cache)
                cold.append(get(server, keys[k]))
            print(f"level {level}: cold {words(cold)}; next {words(following)}; again {words(again)}")


def terabyte(folder: Path) -> None:
    grid = dr.Grid((2000, 16384, 16384))
    dims, levels = ("z", "y", "x"), []
    for factors in level_factors(grid, "auto"):
        grid = grid.downsample(factors)
        chunk = tuple(min(n, c) for n, c in zip(grid.shape, (1, 512, 512), strict=True))
        levels.append(LevelSpec(dims, grid.shape, np.dtype(np.uint16), chunk, None, grid))
    create_multiscale(folder / "huge.ome.zarr", levels, name="huge")
    maps = drift(2000, 16384)
    began = time.perf_counter()
    warped = dr.warp(dr.open(folder / "huge.ome.zarr"), pull=maps)
    with dr.serve(warped) as server:
        seconds = time.perf_counter() - began
        last = len(levels) - 1
        print(f"1.1 TB: opened, warped and served in {seconds:.2f} s: {server!r}")
        print(f"1.1 TB: metadata {get(server, 'zarr.json'):.2f} s", end="")
        print(f", coarsest chunk {get(server, f'{last}/c/0/0/0'):.2f} s, middle {get(server, '0/c/1000/16/16'):.2f} s")


def forget(cache: ChunkCache) -> None:
    """Drop what is held, by asking for more than there is room for."""
    cache.get(object(), lambda: np.empty(cache.most + 1, np.uint8))


def get(server: Server, key: str) -> float:
    """Seconds of one request, on a new connection."""
    url = urlsplit(server.url)
    began = time.perf_counter()
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("GET", f"{url.path}/{key}")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200, key
    return time.perf_counter() - began


def words(seconds: list[float]) -> str:
    return f"median {1e3 * np.median(seconds):.0f} ms, p95 {1e3 * np.percentile(seconds, 95):.0f} ms ({len(seconds)})"


if __name__ == "__main__":
    main()
