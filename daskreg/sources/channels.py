"""Lead axes (channels, times): which entry is meant by a number or a label, and which arrays end in colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChannelError
from daskreg.sources.coordinates import CHANNELS

RGB_LENGTHS = (3, 4)
"""Lengths of the last axis of a bare array that are taken as red, green, blue and perhaps opacity."""

COLOURS = ("red", "green", "blue", "alpha")
"""Names of the channels of files of images in colour."""

RGB_LEAST_SIDE = 17
"""An array with a shorter side in front of the last axis is not taken as an image in colour."""

_MOST_NAMES = 12
"""Of channels, in a message."""


def is_channel_axis(dim: str) -> bool:
    """Whether an axis of this name holds channels."""
    return dim.lower() in CHANNELS


def ends_in_colour(shape: Sequence[int], ndim: int) -> bool:
    """Whether a bare array of this shape, of `ndim` axes, has colour along its last axis.

    Its last axis is 3 or 4 long and the two axes in front of it are rows and columns of an image. Arrays with named
    axes never need this rule.
    """
    return len(shape) == ndim and shape[-1] in RGB_LENGTHS and min(shape[-3:-1]) >= RGB_LEAST_SIDE


def named_colours(count: int) -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    """The coordinate of the channels of a file in colour, 3 or 4; none for other counts."""
    return {"c": (np.asarray(COLOURS[:count]), {})} if count in RGB_LENGTHS else {}


def entry_number(
    value: int | str, *, dim: str, count: int, labels: Iterable[Any] = (), what: str = "channel", owner: str = ""
) -> int:
    """The number, from 0, of the entry of a lead axis that a number or a label names.

    Args:
        value: a number, from the end where negative, or a label.
        dim: name of the axis; count: its length; labels: of its entries, where they have any.
        what: "channel" or "time"; owner: what has the axis; both for messages.

    Raises: ChannelError for an entry that is not there, or a label that several have.
    """
    names = [str(v) for v in labels]
    missing = f"{owner} has no {what} {value!r}" if owner else f"{what} {value!r} is not there"
    if isinstance(value, str):
        if names.count(value) == 1:
            return names.index(value)
        problem = f"{what} {value!r} is there more than once" if value in names else missing
        raise ChannelError(f"{problem}; there are {', '.join(names) or f'{count} without names, 0 to {count - 1}'}")
    if not -count <= value < count:
        raise ChannelError(f"{missing}; axis {dim} has {count}, numbered from 0")
    return int(value) % count


def only_entry(dim: str, count: int, labels: Iterable[Any], channel: int | str | None, owner: str) -> int:
    """The one entry of a lead axis that an estimate uses: the channel asked for, or the only one; never a guess.

    Raises: ChannelError where the axis has several entries and none of them was named.
    """
    if is_channel_axis(dim) and channel is not None:
        return entry_number(channel, dim=dim, count=count, labels=labels, owner=owner)
    if count == 1:
        return 0
    advice, names = f"open it with time=, or choose one with .isel({dim}=...)", [str(label) for label in labels]
    if is_channel_axis(dim):
        advice = "pass channel="
    else:
        names = []  # places in time, which are not what is asked for
    which = f"{', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''}" or "numbered from 0"
    raise ChannelError(f"{owner} has {count} entries along {dim!r} ({which}); {advice} (daskreg does not guess)")
