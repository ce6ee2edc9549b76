"""`Fit`: the base class of all fits, with a status, a file and a report."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import FitFailedError
from daskreg.geometry import Transform
from daskreg.reporting.section import Section

_TITLES = {
    "pair": "two images, registered",
    "stack": "a stack, aligned",
    "elastic-stack": "a stack, aligned with deformation",
    "cloud": "two clouds of points, registered",
    "points": "landmarks, fitted",
    "tilt": "projections, aligned",
    "deformable": "two images, registered with deformation",
}


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

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The matrix of `transform`, homogeneous and in array order: (D+1, D+1), or (N, D+1, D+1) for N slices."""
        return self.transform.to_matrices()

    def inverse(self) -> Transform:
        """The inverse of `transform`."""
        return self.transform.inverse()

    def apply(self, value: Any, **options: Any) -> Any:
        """Bring what belongs to the moving side to the fixed one: an image or stack, or points.

        Args:
            value: an image or volume as `daskreg.warp` takes it, lazily; or an array of (N, D) points in the world of
                the moving image (columns of clouds in their own order), of which D is the number of its dimensions.
                With maps for each slice, the coordinate along their axis is the number of the slice.
            options: of `warp`, such as order= and like=. A PairFit that holds its images warps onto the grid of the
                fixed one.

        Returns: the same kind as `value`.
        """
        # The functions that apply it stand above those that estimate it, so they are looked up when they are used.
        return importlib.import_module("daskreg.apply").apply(self, value, **options)

    def _repr_html_(self) -> str:
        from daskreg.reporting.notebook import fit_html, plain_html

        section = self.section()
        return plain_html(self) if section is None else fit_html(section)

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

    def stored(self) -> dict[str, Any]:
        """The fit as JSON values, with all that `load` of its kind reads again."""
        return self.to_dict()

    def save(self, path: str | PathLike[str], **options: Any) -> None:
        """Write the fit as JSON, of which `daskreg.load` reads the transform; other suffixes: the transform only.

        Args:
            options: of `Transform.save`, for files of other tools: format, and the grids `fixed` and `moving`.
        """
        from daskreg.formats.transforms import write_json

        if is_fit_file(path, options.get("format")):
            write_json(self.stored(), path)
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
        """One line: what was estimated, and whether it is to be used."""
        return f"{_TITLES.get(self.kind, self.kind)}{'' if self.ok else ', not to be used as it is'}"
