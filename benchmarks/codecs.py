"""What a chunk costs to encode and to decode: codecs and block sizes, one thread, ms of processor time a MiB.

    python benchmarks/codecs.py

The chunk is texture with noise in the low bits, as a camera's images are, in the layout of
benchmarks/out_of_core.py. Blosc runs in a thread that is not the main one, as on a worker,
where it starts no threads of its own.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numcodecs import Blosc
from scipy import ndimage as ndi

from daskreg.sources.storage.chunk_codec import Codec

SHUFFLES = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}
CASES = [("zstd", 1, "bits"), ("zstd", 3, "bits"), ("zstd", 1, "bytes"), ("lz4", 1, "bits"), ("lz4", 5, "bits")]


def texture(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = ndi.zoom(rng.random((shape[0], shape[1] // 16, shape[2] // 16)), (1, 16, 16), order=1)
    return (coarse * 40_000 + rng.integers(0, 64, shape)).astype(dtype)


def best(function: Callable[[], Any], repeats: int) -> float:
    """Least processor time of this thread, in ms."""
    times = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        function()
        times.append(time.thread_time() - began)
    return 1000 * min(times[1:])


def compare(chunk: np.ndarray, repeats: int) -> None:
    mib, out = chunk.nbytes / 2**20, np.empty_like(chunk)
    print(f"{'codec':6} {'level':>5} {'shuffle':8} {'block KiB':>9} {'stored':>7} {'encode':>7} {'decode':>7}  ms/MiB")
    for name, level, shuffle in CASES:
        for block in (0, 64, 256, 1024):
            blosc = Blosc(name, level, SHUFFLES[shuffle], block * 1024, typesize=chunk.dtype.itemsize)
            codec = Codec(chunk.shape, chunk.dtype, blosc, True)
            data = b"".join(map(bytes, codec.encode(chunk)))
            encode = best(lambda codec=codec: codec.encode(chunk), repeats) / mib
            decode = best(lambda codec=codec, data=data: codec.decode(data, out), repeats) / mib
            size = len(data) / chunk.nbytes
            print(
                f"{name:6} {level:5} {shuffle:8} {block or 'auto':>9} {size:7.2f} {encode:7.2f} {decode:7.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(16, 512, 512))
    parser.add_argument("--dtype", default="uint16")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    chunk = texture(tuple(options.shape), options.dtype)
    worker = threading.Thread(target=compare, args=(chunk, options.repeats))
    worker.start()
    worker.join()


if __name__ == "__main__":
    main()
