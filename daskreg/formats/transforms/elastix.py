"""elastix parameter files, `TransformParameters.0.txt`: lines of `(Name value value)`.

elastix maps points of the fixed image to the moving image, in world x, y, z, like ITK. A
file names the file whose transform is applied before its own; the files of a run form a chain.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from daskreg.errors import InvalidTransformError
from daskreg.formats.transforms.files import TransformFile, numbers, write_text
from daskreg.formats.transforms.itk_types import TransformRecord, check_types, from_records, to_matrix, to_records
from daskreg.geometry import Affine, Grid, SliceAffines, Transform
from daskreg.geometry.pixels import check_grids
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer
from daskreg.geometry.transform import reversed_axes

Fields = dict[str, list[str]]

_QUOTED = re.compile(r'"[^"]*"?')
_LINE = re.compile(r"^\(\s*(\S+)\s+(.*?)\s*\)\s*(?://.*)?$")
_VALUE = re.compile(r'"([^"]*)"|(\S+)')

# ITK's name of each type, and the dimension by the number of parameters.
_TYPES = {
    "TranslationTransform": ({2: "TranslationTransform", 3: "TranslationTransform"}, {2: 2, 3: 3}),
    "EulerTransform": ({2: "Euler2DTransform", 3: "Euler3DTransform"}, {3: 2, 6: 3}),
    "SimilarityTransform": ({2: "Similarity2DTransform", 3: "Similarity3DTransform"}, {4: 2, 7: 3}),
    "AffineTransform": ({2: "AffineTransform", 3: "AffineTransform"}, {6: 2, 12: 3}),
}


def is_parameter_file(text: str) -> bool:
    """Whether a text is an elastix parameter file with a transform."""
    return any(_LINE.match(line) and line.lstrip().startswith("(Transform ") for line in text.splitlines())


def read(file: TransformFile) -> Transform:
    """The map of a parameter file, with the maps of the files that it names, which are searched for beside it."""
    fields = _fields(file.text, file.path)
    if fields["Transform"] == ["File"]:
        own = _linked(_one(fields, "TransformFileName", ""), file)
    else:
        own = _own(fields, file.path)
    initial = _one(fields, "InitialTransformParameterFileName", "") or _one(
        fields, "InitialTransformParametersFileName", "NoInitialTransform"
    )
    if initial == "NoInitialTransform":
        return own
    first = _linked(initial, file)
    if _one(fields, "HowToCombineTransforms", "Compose") == "Add":  # T(x) = T0(x) + T1(x) - x
        if not (isinstance(first, Affine) and isinstance(own, Affine)):
            raise InvalidTransformError(f"{file.path}: only affine maps are combined by Add; use Compose")
        return Affine(first.matrix + own.matrix - np.eye(own.ndim + 1))
    return own @ first


def write(transform: Affine, path: Path, *, fixed: Grid) -> None:
    """An AffineTransform about the origin; transformix resamples the moving image on `fixed`."""
    write_record(to_records(transform)[0], path, fixed=fixed)


def write_record(record: TransformRecord, path: Path, *, fixed: Grid, initial: str = "NoInitialTransform") -> None:
    """One affine map or cubic B-spline of ITK as a parameter file.

    Args:
        fixed: the image that transformix makes.
        initial: the name of the file, in the same folder, whose transform is applied before.
    """
    ndim = record.ndim
    check_grids(fixed, None, ndim)
    direction = reversed_axes(np.pad(fixed.direction_matrix, (0, 1)))[:-1, :-1]
    fields = {
        **(_of_splines(record) if record.name == "BSplineTransform" else _of_affine(ndim)),
        "NumberOfParameters": str(len(record.parameters)),
        "TransformParameters": numbers(record.parameters),
        "InitialTransformParameterFileName": f'"{initial}"',
        "HowToCombineTransforms": '"Compose"',
        "FixedImageDimension": str(ndim),
        "MovingImageDimension": str(ndim),
        "FixedInternalImagePixelType": '"float"',
        "MovingInternalImagePixelType": '"float"',
        "Size": " ".join(map(str, fixed.shape[::-1])),
        "Index": " ".join(["0"] * ndim),
        "Spacing": numbers(fixed.spacing[::-1]),
        "Origin": numbers(fixed.origin[::-1]),
        "Direction": numbers(direction.T.ravel()),  # column by column
        "UseDirectionCosines": '"true"',
        "ResampleInterpolator": '"FinalLinearInterpolator"',
        "Resampler": '"DefaultResampler"',
        "DefaultPixelValue": "0",
        "ResultImageFormat": '"mha"',
        "ResultImagePixelType": '"float"',
        "CompressResultImage": '"false"',
    }
    write_text("".join(f"({name} {value})\n" for name, value in fields.items()), path)


def _of_affine(ndim: int) -> dict[str, str]:
    return {"Transform": '"AffineTransform"', "CenterOfRotationPoint": numbers([0.0] * ndim)}


def _of_splines(record: TransformRecord) -> dict[str, str]:
    n = record.ndim
    size, origin, spacing, direction = np.split(np.asarray(record.fixed, dtype=np.float64), [n, 2 * n, 3 * n])
    return {
        "Transform": '"BSplineTransform"',
        "GridSize": " ".join(str(int(count)) for count in size),
        "GridIndex": " ".join(["0"] * n),
        "GridSpacing": numbers(spacing),
        "GridOrigin": numbers(origin),
        "GridDirection": numbers(direction.reshape(n, n).T.ravel()),  # column by column
        "BSplineTransformSplineOrder": "3",
        "UseCyclicTransform": '"false"',
    }


def _own(fields: Fields, path: Path) -> Transform:
    kind = _one(fields, "Transform", "")
    if kind in {"BSplineTransform", "RecursiveBSplineTransform"}:
        return _splines(fields, path)
    if kind not in _TYPES:
        raise InvalidTransformError(f"{path}: {kind} is not an affine map that daskreg reads: {', '.join(_TYPES)}")
    if _one(fields, "UseBinaryFormatForTransformationParameters", "false") == "true":
        raise InvalidTransformError(f"{path}: its parameters are in a binary file; write them as text")
    names, sizes = _TYPES[kind]
    try:
        parameters = [float(v) for v in fields.get("TransformParameters", [])]
        centre = [float(v) for v in fields.get("CenterOfRotationPoint", [])]
        direction = [float(v) for v in fields.get("Direction", [])]
    except ValueError as error:
        raise InvalidTransformError(f"{path}: {error}") from error
    ndim = sizes.get(len(parameters))
    if ndim is None:
        raise InvalidTransformError(f"{path}: {kind} does not have {len(parameters)} parameters")
    oblique = direction and not np.array_equal(direction, np.eye(ndim).ravel())
    if oblique and _one(fields, "UseDirectionCosines", "true") == "false":
        raise InvalidTransformError(
            f"{path}: it ignores the image's direction (UseDirectionCosines false), so it is not a map of the world"
        )
    zyx = [1.0] if _one(fields, "ComputeZYX", "false") == "true" else []
    fixed = [*(centre or [0.0] * ndim), *zyx]
    return Affine(reversed_axes(to_matrix(names[ndim], parameters, fixed, ndim)))


def _splines(fields: Fields, path: Path) -> Transform:
    """Cubic B-splines of elastix, whose coefficients and grid are those of ITK's BSplineTransform."""
    if _one(fields, "BSplineTransformSplineOrder", "3") != "3" or _one(fields, "UseCyclicTransform", "false") == "true":
        raise InvalidTransformError(f"{path}: only cubic B-splines that are not cyclic are read")
    if _one(fields, "UseBinaryFormatForTransformationParameters", "false") == "true":
        raise InvalidTransformError(f"{path}: its parameters are in a binary file; write them as text")
    if _one(fields, "UseDirectionCosines", "true") == "false":
        raise InvalidTransformError(
            f"{path}: it ignores the image's direction (UseDirectionCosines false), so it is not a map of the world"
        )
    grid = [[float(v) for v in fields.get(f"Grid{key}", [])] for key in ("Size", "Origin", "Spacing", "Direction")]
    ndim = len(grid[0])
    if ndim not in {2, 3} or len(grid[1]) != ndim or len(grid[2]) != ndim or len(grid[3]) not in {0, ndim * ndim}:
        raise InvalidTransformError(f"{path}: its GridSize, GridOrigin, GridSpacing and GridDirection make no grid")
    columns = np.reshape(grid[3] or np.eye(ndim), (ndim, ndim))  # column by column
    fixed = [*grid[0], *grid[1], *grid[2], *columns.T.ravel().tolist()]
    parameters = [float(v) for v in fields.get("TransformParameters", [])]
    record = TransformRecord(f"BSplineTransform_double_{ndim}_{ndim}", parameters, fixed)
    check_types([record], str(path))
    return from_records([record])


def _linked(name: str, file: TransformFile) -> Transform:
    """The map of a file named in another: at that path, or, where the folder was moved, beside it."""
    folder = file.path.parent
    candidates = [folder / name, folder / Path(name.replace("\\", "/")).name]
    linked = file.linked(next((p for p in candidates if p.is_file()), candidates[0]))
    if isinstance(linked, SliceAffines):
        raise InvalidTransformError(f"{name} is not one map")
    return linked


def _fields(text: str, path: Path) -> Fields:
    """The values of each name. Raises: InvalidTransformError where a line does not end."""
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        if line.startswith("(") and ")" not in _QUOTED.sub("", line):
            raise InvalidTransformError(
                f"{path}: line {number}, {line[:40]}, does not end: the file is cut short; copy it again"
            )
    matches = (_LINE.match(line) for line in lines)
    return {m[1]: [quoted or bare for quoted, bare in _VALUE.findall(m[2])] for m in matches if m}


def _one(fields: Fields, key: str, default: str) -> str:
    values = fields.get(key, [])
    return values[0] if values else default


register_reader(FileReader("elastix", lambda file: is_parameter_file(file.text), read))
register_writer(
    ("transformparameters*.txt",),
    FileWriter("elastix", Affine, "a parameter file holds one affine map", write, takes=("fixed",), needs=("fixed",)),
)
