"""What every fit can do: be judged, saved, and reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

from daskreg.errors import FitFailedError
from daskreg.geometry import Transform


class Fit(ABC):
    """A transform with a verdict: the base of PairFit, StackFit and CloudFit."""

    kind: ClassVar[str]
    status: Enum
    """Its value says what happened, and the remedy."""

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether the estimate can be trusted, as far as it can tell itself."""

    @property
    @abstractmethod
    def transform(self) -> Transform:
        """What was estimated, and what is saved."""

    @property
    def pull(self) -> Transform:
        """`transform` as a pull, from points of the fixed data to the moving data."""
        return self.transform

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What else is worth keeping, by name."""

    def raise_if_failed(self) -> Self:
        """This fit where it is ok.

        Raises: FitFailedError with its repr, which has the status and the remedy.
        """
        if not self.ok:
            raise FitFailedError(repr(self))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON (angles in radians)."""
        from daskreg.reporting.page import plain

        known = {"schema": "daskreg/fit", "version": 1, "kind": self.kind, "ok": self.ok, **self.facts()}
        return {**plain(known), "transform": self.transform.to_dict()}

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit as JSON, which `daskreg.load` reads as its transform; other suffixes: the transform alone."""
        from daskreg.formats.transforms import write_json

        if Path(path).suffix.lower() == ".json":
            write_json(self.to_dict(), path)
        else:
            self.transform.save(path)

    def report(self, path: str | PathLike[str]) -> Path:
        """One HTML page, and the same facts as JSON beside it."""
        from daskreg.reporting.page import report

        return report(self, path)
