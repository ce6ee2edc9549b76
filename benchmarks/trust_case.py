"""One case of the confusion table of `trust.py`: an input whose right answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a fit said, and what is true.

    Args:
        error: distance from the right answer, in the unit of `tolerance`; infinite where there is no right answer.
        tolerance: the largest error that counts as right.
        ok: what the fit says of itself.
        status: its name.
    """

    error: float
    tolerance: float
    ok: bool
    status: str

    @property
    def right(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Case:
    """A fit to be made.

    Args:
        group: the row of the table, such as "pairs: unrelated photographs".
        seed: of the input; the same seed gives the same input.
        fit: makes the input, fits, and compares with the truth.
        may_refuse: the input does not determine the answer (a lattice, a sphere, no overlap), so that to refuse it
            is right, also where the pose happens to be.
    """

    group: str
    seed: int
    fit: Callable[[], Outcome]
    may_refuse: bool = False
