"""The size of the blocks in which a stored array is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from daskreg.errors import OptionError

SMALL = 64 * 2**20
LARGE = 2 * SMALL


def auto_block(shape: Sequence[int], unit: Sequence[int], itemsize: int, lead: int = 0) -> tuple[int, ...]:
    """Blocks of whole units (stored chunks or shards) of 64 to 128 MiB, or the array if smaller.

    The shortest spatial axis of a block is doubled until it is large enough; of the `lead`
    axes in front, one unit is kept.

    >>> auto_block((1000, 2000, 2000), (1, 2000, 2000), 2)
    (16, 2000, 2000)
    """
    block = [min(u, n) for u, n in zip(unit, shape, strict=True)]
    while math.prod(block) * itemsize < SMALL:
        free = [k for k in range(lead, len(block)) if block[k] < shape[k]]
        if not free:
            break
        k = min(free, key=lambda k: block[k])
        block[k] = min(2 * block[k], shape[k])
    return tuple(block)


def given_block(chunks: Any, dims: Sequence[str], shape: Sequence[int], auto: Sequence[int]) -> tuple[int, ...]:
    """Block size from what a user gives: "auto", a number for all spatial dims, one for each dim,
    or a mapping by dim; -1 or None is the whole axis. Dims that are not named are "auto".

    Raises: OptionError for anything else.
    """
    if isinstance(chunks, str) and chunks == "auto":
        return tuple(auto)
    if isinstance(chunks, Mapping):
        unknown = [str(k) for k in chunks if k not in dims]
        if unknown:
            raise OptionError(f"chunks names {', '.join(unknown)}, but the dims are {', '.join(dims)}")
        wanted = [chunks.get(d, a) for d, a in zip(dims, auto, strict=True)]
    elif isinstance(chunks, Sequence) and not isinstance(chunks, str):
        wanted = list(chunks)
    else:
        wanted = [chunks] * len(dims)
    if len(wanted) != len(dims) or not all(c is None or (isinstance(c, int) and (c > 0 or c == -1)) for c in wanted):
        raise OptionError(
            f"chunks={chunks!r} is not 'auto', a number, {len(dims)} numbers ({', '.join(dims)}) or a mapping of them"
        )
    return tuple(n if c in (None, -1) else min(c, n) for c, n in zip(wanted, shape, strict=True))
