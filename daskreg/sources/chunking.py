"""Sizes of chunks and blocks: what a user passes as `chunks=` or `shards=`, and the blocks in which arrays are read."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daskreg.errors import OptionError

SMALL = 64 * 2**20
LARGE = 2 * SMALL


def read_block_shape(shape: Sequence[int], unit: Sequence[int], itemsize: int, lead: int = 0) -> tuple[int, ...]:
    """Blocks of whole units (stored chunks or shards) of 64 to 128 MiB, or the array if smaller.

    The shortest spatial axis of a block is doubled until it is large enough; along the `lead`
    axes in front, a block is one unit long.

    >>> read_block_shape((1000, 2000, 2000), (1, 2000, 2000), 2)
    (16, 2000, 2000)
    """
    block = [max(1, min(u, n)) for u, n in zip(unit, shape, strict=True)]
    while math.prod(block) * itemsize < SMALL:
        free = [k for k in range(lead, len(block)) if block[k] < shape[k]]
        if not free:
            break
        k = min(free, key=lambda k: block[k])
        block[k] = min(2 * block[k], shape[k])
    return tuple(block)


def entries_per_axis(
    value: Any,
    dims: Sequence[str],
    shape: Sequence[int],
    *,
    auto: Sequence[Any],
    unnamed: Sequence[Any] | None = None,
    optional: int = 0,
    space: int | None = None,
    what: str = "chunks",
) -> tuple[Any, ...]:
    """What a user passes as sizes, as one entry for each axis; the entries themselves are not checked.

    Args:
        value: "auto", one size, a sequence with one for each axis, or a mapping by name.
        auto: the entries for "auto".
        unnamed: the entries of axes that a mapping does not name; None: those of `auto`.
        optional: how many axes in front a sequence may leave out; their entries are then 1.
        space: number of the last axes to which one size applies, the others being 1; None: to all.
        what: the option's name.

    Raises: OptionError for another number of sizes, or a name that is no axis.
    """
    if isinstance(value, str) and value == "auto":
        return tuple(auto)
    if isinstance(value, Mapping):
        if not set(value) <= set(dims):
            raise OptionError(f"{what}={value!r} names an axis that is not among {', '.join(dims)}")
        return tuple(value.get(d, u) for d, u in zip(dims, auto if unnamed is None else unnamed, strict=True))
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
        entries, least = tuple(value), len(dims) - optional
    else:
        entries, least = (value,) * (len(dims) if space is None else space), 0
    if not least <= len(entries) <= len(dims):
        raise wrong_sizes(value, dims, shape, what)
    return (1,) * (len(dims) - len(entries)) + entries


def sizes_per_axis(
    value: Any,
    dims: Sequence[str],
    shape: Sequence[int],
    *,
    auto: Sequence[int],
    unnamed: Sequence[int] | None = None,
    optional: int = 0,
    space: int | None = None,
    what: str = "chunks",
    whole: bool = False,
    clip: bool = True,
) -> tuple[int, ...]:
    """What a user passes as sizes, as one number for each axis.

    Args:
        value, auto, unnamed, optional, space, what: see `entries_per_axis`.
        whole: whether -1 and None stand for the whole axis.
        clip: whether a size is at most the length of its axis.

    Raises: OptionError for what is no size, and as `entries_per_axis`.
    """
    sizes = []
    for entry, n in zip(
        entries_per_axis(value, dims, shape, auto=auto, unnamed=unnamed, optional=optional, space=space, what=what),
        shape,
        strict=True,
    ):
        try:
            size = n if whole and entry in (None, -1) else operator.index(entry)
        except TypeError as error:
            raise wrong_sizes(value, dims, shape, what) from error
        if size < 1 or isinstance(entry, bool):
            raise wrong_sizes(value, dims, shape, what)
        sizes.append(min(size, n) if clip else size)
    return tuple(sizes)


def wrong_sizes(value: Any, dims: Sequence[str], shape: Sequence[int], what: str = "chunks") -> OptionError:
    """The error for sizes that do not fit an array."""
    axes = dict(zip(dims, shape, strict=True))
    return OptionError(
        f"{what}={value!r} does not fit the axes {axes}: give 'auto', one size, one for each axis, or a mapping by name"
    )
