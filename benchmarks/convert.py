"""`daskreg convert FOLDER OUT.ome.zarr` of many TIFFs, against plain tifffile and zarr with the same pyramid and codec.

    python benchmarks/convert.py [--files 500] [--side 1024] [--pairs 5]

Both run in processes of their own, in turn, and what is compared is their processor time (user and system), since other
processes may share the machine. The plain version reads as many files as a chunk is deep, writes them, and makes each
coarser level by the mean of 2 x 2 x 2 voxels of the one before, in one thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import zarr

CHUNK = 128
COMMAND = "import sys; from daskreg.cli import run; sys.exit(run(sys.argv[1:]))"


def make_files(folder: Path, count: int, side: int) -> None:
    """Texture with noise in the low bits, as a camera's images have."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 64, (side + 64, side + 64), dtype=np.uint16)
    coarse = (rng.random((side // 16, side // 16)) * 40_000).astype(np.uint16).repeat(16, 0).repeat(16, 1)
    for k in range(count):
        shift = rng.integers(0, 64, 2)
        image = coarse + noise[shift[0] : shift[0] + side, shift[1] : shift[1] + side]
        tifffile.imwrite(folder / f"slice{k}.tif", image)


def plain(folder: Path, out: Path) -> None:
    """The same with tifffile and zarr alone."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    files = sorted(folder.glob("*.tif"), key=lambda file: int(file.stem.removeprefix("slice")))
    first = tifffile.imread(files[0])
    codecs = [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", blocksize=2**20), Crc32cCodec()]
    group = zarr.create_group(str(out), zarr_format=3)

    def level(number: int, shape: tuple[int, ...]) -> zarr.Array:
        chunks = tuple(min(CHUNK, n) for n in shape)
        return group.create_array(str(number), shape=shape, chunks=chunks, dtype=first.dtype, compressors=codecs)

    array = level(0, (len(files), *first.shape))
    for z in range(0, len(files), CHUNK):
        some = files[z : z + CHUNK]
        array[z : z + len(some)] = np.stack([tifffile.imread(file) for file in some])
    number = 0
    while max(array.shape) > 256:
        number += 1
        finer, array = array, level(number, tuple(-(-n // 2) for n in array.shape))
        for z in range(0, array.shape[0], CHUNK):
            array[z : z + CHUNK] = means(finer[2 * z : 2 * (z + CHUNK)])


def means(block: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels; at odd ends of those that exist."""
    padded = np.pad(block, [(0, n % 2) for n in block.shape], mode="edge")
    total = np.zeros([n // 2 for n in padded.shape], np.uint32)
    for a in (0, 1):
        for b in (0, 1):
            for c in (0, 1):
                total += padded[a::2, b::2, c::2]
    return np.rint(total / 8).astype(block.dtype)


def seconds_of(command: list[str]) -> float:
    """Processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(folder: Path, pairs: int) -> None:
    runs = {
        "daskreg": [sys.executable, "-c", COMMAND, "convert", str(folder / "in"), "OUT", "-q"],
        "plain": [sys.executable, __file__, "--plain", str(folder / "in"), "OUT"],
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(pairs + 1):  # the first fills caches and compiles
        for name, command in runs.items():
            out = folder / f"{name}.ome.zarr"
            seconds = seconds_of([str(out) if word == "OUT" else word for word in command])
            shutil.rmtree(out)
            shutil.rmtree(f"{out}.daskreg", ignore_errors=True)
            if number:
                found[name].append(seconds)
                print(f"{name:8} {seconds:6.2f} s of processor time", flush=True)
    ratios = [a / b for a, b in zip(found["daskreg"], found["plain"], strict=True)]
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"median   daskreg {medians['daskreg']:.2f} s, plain {medians['plain']:.2f} s")
    print(f"ratio    {statistics.median(ratios):.2f} (median of {pairs} pairs; {min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plain", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(*arguments.plain)
        return
    with tempfile.TemporaryDirectory(prefix="daskreg-convert-", dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        (folder / "in").mkdir()
        make_files(folder / "in", arguments.files, arguments.side)
        compare(folder, arguments.pairs)


if __name__ == "__main__":
    main()
