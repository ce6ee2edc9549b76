"""`Fit`: the base class of all fits, with a status, a file and a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

from daskreg.errors import FitFailedError
from daskreg.geometry import Transform
from daskreg.reporting.section import Section


def is_fit_file(path: str | PathLike[str], tool: str | None = None) -> bool:
    """Whether a fit is saved there whole: as daskreg's JSON, and not as that of another tool."""
    name = Path(path).name.lower()
    return tool in (None, "daskreg") and name.endswith(".json") and not name.endswith(".ngff.json")


class Fit(ABC):
    """A transform with a status: the base class of PairFit, StackFit and CloudFit."""

    kind: ClassVar[str]
    status: Enum
    """Its value says what happened and what to do."""

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether the estimate is reliable, as far as its own data show."""

    @property
    @abstractmethod
    def transform(self) -> Transform:
        """The estimated transform, which `save` writes."""

    @property
    def pull(self) -> Transform:
        """`transform` as a pull, from points of the fixed data to the moving data."""
        return self.transform

    @property
    def push(self) -> Transform:
        """The other way, from points of the moving data to the fixed data."""
        return self.transform.inverse()

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Further results by name."""

    def raise_if_failed(self) -> Self:
        """This fit, if it is ok.

        Raises: FitFailedError with the repr of the fit, which says what happened and what to do.
        """
        if not self.ok:
            raise FitFailedError(repr(self))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON (angles in radians)."""
        from daskreg.reporting.plain import plain

        fields = {"schema": "daskreg/fit", "version": 1, "kind": self.kind, "ok": self.ok, **self.facts()}
        return {**plain(fields), "transform": self.transform.to_dict()}

    def save(self, path: str | PathLike[str], **options: Any) -> None:
        """Write the fit as JSON, of which `daskreg.load` reads the transform; other suffixes: the transform only.

        Args:
            options: of `Transform.save`, for files of other tools: format, and the grids `fixed` and `moving`.
        """
        from daskreg.formats.transforms import write_json

        if is_fit_file(path, options.get("format")):
            write_json(self.to_dict(), path)
        else:
            self.transform.save(path, **options)

    def section(self) -> Section | None:
        """What a page shows of this fit; None: a table of its facts."""
        return None

    def report(self, path: str | PathLike[str], *, command: str = "") -> Path:
        """Write one HTML page with a verdict, pictures and numbers, and the same facts as JSON next to it.

        Args:
            command: the line of a terminal that made the fit.
        """
        from daskreg.reporting.page import report

        return report(self, path, title=f"daskreg: {self.title}", command=command)

    @property
    def title(self) -> str:
        """One line: what was estimated, and how it ended."""
        return f"{self.kind}, {self.status.name.lower().replace('_', ' ')}"
