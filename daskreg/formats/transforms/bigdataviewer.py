"""XML of BigDataViewer and BigStitcher: the product of the ViewTransforms of a view maps its voxels to the world.

Voxels are counted x, y, z from the centre of the first one; see `formats.view_registrations`.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import InvalidTransformError, OptionError
from daskreg.formats.transforms.files import TransformFile, numbers, write_text
from daskreg.formats.view_registrations import view_registrations
from daskreg.geometry import Affine, Grid
from daskreg.geometry.pixels import check_grids
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import reversed_axes

Floats = NDArray[np.float64]

_GRIDS = ("fixed", "moving")


def _read(file: TransformFile, *, moving: Grid, view: int | tuple[int, int] | None = None) -> Affine:
    """From the world of BigDataViewer to the own world of a view, on whose grid `moving` its voxels lie."""
    check_grids(None, moving, 3)
    root = _root(file)
    try:
        views = view_registrations(root)
    except ValueError as error:
        raise InvalidTransformError(f"{file.path}: {error}") from error
    registration = _chosen(views, view, file.path)
    return Affine(moving.matrix @ np.linalg.inv(reversed_axes(registration)), unit=moving.unit)


def _root(file: TransformFile) -> ElementTree.Element:
    if "<!DOCTYPE" in file.text or "<!ENTITY" in file.text:
        raise InvalidTransformError(f"{file.path} defines XML entities, which files of BigDataViewer do not")
    try:
        return ElementTree.fromstring(file.text)  # noqa: S314 (no entities: see above)
    except ElementTree.ParseError as error:
        raise InvalidTransformError(f"{file.path} is not XML: {error}") from error


def _chosen(views: dict[tuple[int, int], Floats], view: int | tuple[int, int] | None, path: Path) -> Floats:
    """The view that was asked for, or the only one. A number is a setup, at the first time point that has it."""
    keys = [key for key in sorted(views) if view is None or view in (key, key[1])]
    if isinstance(view, int):
        keys = keys[:1]
    if len(keys) != 1:
        known = ", ".join(map(str, sorted(views)[:20]))
        raise OptionError(
            f"{path} has {len(views)} views: give view=(time point, setup) or view=setup (--view), out of {known}"
        )
    return views[keys[0]]


def _write(transform: Affine, path: Path, *, fixed: Grid, moving: Grid) -> None:
    """Two views: setup 0 is the fixed volume, setup 1 the moving one, both in the fixed world."""
    check_grids(fixed, moving, transform.ndim)
    spim = ElementTree.Element("SpimData", version="0.2")
    ElementTree.SubElement(spim, "BasePath", type="relative").text = "."
    sequence = ElementTree.SubElement(spim, "SequenceDescription")
    setups = ElementTree.SubElement(sequence, "ViewSetups")
    registrations = ElementTree.SubElement(spim, "ViewRegistrations")
    matrices = {"fixed": fixed.matrix, "moving": transform.inverse().matrix @ moving.matrix}
    for setup, (name, grid) in enumerate((("fixed", fixed), ("moving", moving))):
        entry = ElementTree.SubElement(setups, "ViewSetup")
        size = ElementTree.SubElement(entry, "voxelSize")
        for parent, tag, text in (
            (entry, "id", str(setup)),
            (entry, "name", name),
            (entry, "size", " ".join(map(str, grid.shape[::-1]))),
            (size, "unit", grid.unit),
            (size, "size", numbers(grid.spacing[::-1])),
        ):
            ElementTree.SubElement(parent, tag).text = text
        views = ElementTree.SubElement(registrations, "ViewRegistration", timepoint="0", setup=str(setup))
        view = ElementTree.SubElement(views, "ViewTransform", type="affine")
        ElementTree.SubElement(view, "Name").text = "daskreg"
        ElementTree.SubElement(view, "affine").text = numbers(reversed_axes(matrices[name])[:3].ravel())
    times = ElementTree.SubElement(sequence, "Timepoints", type="range")
    for tag in ("first", "last"):
        ElementTree.SubElement(times, tag).text = "0"
    ElementTree.indent(spim)
    write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(spim, encoding="unicode")}\n', path)


register_reader(
    FileReader(
        "BigDataViewer",
        lambda file: file.text.lstrip().startswith("<") and "<SpimData" in file.text,
        _read,
        takes=("moving", "view"),
        needs=("moving",),
    )
)
register_writer(
    (".xml",),
    FileWriter("BigDataViewer", Affine, "a view has one affine map", _write, takes=_GRIDS, needs=_GRIDS),
)
