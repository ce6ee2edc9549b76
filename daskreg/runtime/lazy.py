"""A value that is computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """One value: an input of the constructor, or computed by `get` and stored.

    It has no lock, so threads that ask at the same time may both compute the value. `functools.cached_property` is not
    used for clouds, since up to Python 3.11 its lock is one for all objects of a class, so that two clouds cannot
    be processed side by side.
    """

    __slots__ = ("_value",)

    def __init__(self, *value: T) -> None:
        self._value: tuple[T, ...] = value

    @property
    def known(self) -> bool:
        return bool(self._value)

    def get(self, function: Callable[[], T]) -> T:
        """The value; `function` computes it where it is not known yet."""
        value = self._value
        if not value:
            value = self._value = (function(),)
        return value[0]
