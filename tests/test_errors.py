"""Errors travel from workers as what they are."""

from __future__ import annotations

import inspect

import pytest
from distributed.protocol.pickle import dumps, loads

from daskreg import errors

KINDS = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.DaskregError)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_travel(kind):
    """Raised, and pickled as distributed does, with their traceback."""
    raised = kind("nibabel", "formats") if kind is errors.MissingExtraError else kind("what was wrong")
    try:
        raise raised
    except errors.DaskregError as error:
        again = loads(dumps(error))
    assert type(again) is kind
    assert str(again) == str(raised)
