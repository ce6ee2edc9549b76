"""Chains of affine maps and cubic B-splines as parameter files of elastix, of which each names the one before it."""

from __future__ import annotations

from pathlib import Path

from daskreg.errors import InvalidTransformError
from daskreg.fields.itk import records_of
from daskreg.fields.transform import FieldTransform
from daskreg.formats.transforms.elastix import write_record
from daskreg.geometry import Grid


def write_chain(transform: FieldTransform, path: Path, *, fixed: Grid) -> None:
    """Write the map that is applied last to `path`, and those before it beside it: `NAME-0.txt` is the first.

    Args:
        fixed: the image that transformix makes.

    Raises: InvalidTransformError for linear fields, inverses of fields, and maps of single slices.
    """
    records = [record for record in reversed(records_of(transform)) if record.name != "CompositeTransform"]
    for record in records:
        if record.name == "DisplacementFieldTransform":
            raise InvalidTransformError(
                f"elastix's parameter files hold cubic B-splines (order=3), not the linear fields of {transform!r}: "
                "save it as .mha, .nii.gz or .tfm"
            )
    names = [f"{path.stem}-{number}{path.suffix}" for number in range(len(records) - 1)] + [path.name]
    for record, name, initial in zip(records, names, ["NoInitialTransform", *names], strict=False):
        write_record(record, path.with_name(name), fixed=fixed, initial=initial)
