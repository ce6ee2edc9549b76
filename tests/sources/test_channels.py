"""Channels by number or label, never guessed; and which arrays end in colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskreg.errors import ChannelError
from daskreg.sources.channels import ends_in_colour, entry_number, only_entry


@pytest.mark.parametrize(("value", "number"), [(0, 0), (2, 2), (-1, 2), (np.int64(1), 1), ("GFP", 1), ("2", 2)])
def test_entries_by_number_and_label(value: Any, number: int) -> None:
    found = entry_number(value, dim="c", count=3, labels=["DAPI", "GFP", 2])
    assert found == number
    assert type(found) is int


@pytest.mark.parametrize(
    ("value", "labels", "owner", "words"),
    [
        (3, [], "", "channel 3 is not there; axis c has 3, numbered from 0"),
        (-4, [], "the stack", "the stack has no channel -4; axis c has 3"),
        ("RFP", ["a", "b", "c"], "", "channel 'RFP' is not there; there are a, b, c"),
        ("RFP", [], "fixed", "fixed has no channel 'RFP'; there are 3 without names"),
        ("a", ["a", "a", "c"], "", "channel 'a' is there more than once"),
    ],
)
def test_entries_that_are_not_there(value: Any, labels: list[str], owner: str, words: str) -> None:
    with pytest.raises(ChannelError, match=words):
        entry_number(value, dim="c", count=3, labels=labels, owner=owner)


def test_the_only_entry_is_used_and_none_is_guessed() -> None:
    assert only_entry("t", 1, (), None, "fixed") == 0
    assert only_entry("t", 1, (), 5, "fixed") == 0, "a channel is none of the times"
    assert only_entry("C", 4, (), 3, "fixed") == 3
    with pytest.raises(
        ChannelError,
        match=r"fixed has 4 entries along 'c' \(numbered from 0\); pass channel= \(daskreg does not guess\)",
    ):
        only_entry("c", 4, (), None, "fixed")
    with pytest.raises(ChannelError, match=r"2 entries along 'c' \(DAPI, GFP\); pass channel="):
        only_entry("c", 2, ("DAPI", "GFP"), None, "fixed")
    with pytest.raises(
        ChannelError, match=r"along 't' \(numbered from 0\); open it with time=, or choose one with \.isel\(t=\.\.\.\)"
    ):
        only_entry("t", 4, (), 0, "fixed")


@pytest.mark.parametrize(
    ("shape", "ndim", "colour"),
    [
        ((40, 50, 3), 3, True),
        ((17, 17, 4), 3, True),
        ((16, 50, 3), 3, False),
        ((40, 50, 2), 3, False),
        ((40, 50), 3, False),
        ((5, 40, 50, 3), 4, True),
        ((5, 40, 50, 3), 3, False),
        ((40, 40, 16, 3), 4, False),
    ],
)
def test_arrays_that_end_in_colour(shape: tuple[int, ...], ndim: int, colour: bool) -> None:
    assert ends_in_colour(shape, ndim) == colour
