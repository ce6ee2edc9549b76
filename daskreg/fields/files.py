"""The files that displacement fields and chains with them are saved in and loaded from.

What reads and writes Zarr groups is imported when there is one: zarr and dask take half a second.
"""

from __future__ import annotations

from pathlib import Path

from daskreg.fields.ants import is_prefix, read_prefix, write_prefix, write_warp
from daskreg.fields.composite import Composite
from daskreg.fields.elastix import write_chain
from daskreg.fields.field import DisplacementField
from daskreg.fields.itk import is_vector_image, linear_field, read_image, records_of, spline_field, write_image
from daskreg.fields.transform import FieldTransform
from daskreg.formats.transforms.files import TransformFile
from daskreg.formats.transforms.itk import write_records
from daskreg.formats.transforms.itk_types import register_type
from daskreg.geometry import Transform
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer


def _write_itk(transform: Transform, path: Path) -> None:
    write_records(records_of(transform), path)


def _is_group(file: TransformFile) -> bool:
    return (file.path / "zarr.json").is_file()


def _is_store(file: TransformFile) -> bool:
    if not _is_group(file):
        return False
    from daskreg.fields.store import is_store

    return is_store(file.path)


def _load_store(file: TransformFile) -> Transform:
    from daskreg.fields.store import load_store

    return load_store(file.path)


def _save_store(transform: Transform, path: Path) -> None:
    from daskreg.fields.store import save_store

    save_store(transform, path)


def _is_ngff(file: TransformFile) -> bool:
    if not _is_group(file):
        return False
    from daskreg.fields.ngff import is_ngff

    return is_ngff(file.path)


def _load_ngff(file: TransformFile) -> Transform:
    from daskreg.fields.ngff import load_ngff

    return load_ngff(file.path)


def _save_ngff(transform: Transform, path: Path) -> None:
    from daskreg.fields.ngff import save_ngff

    save_ngff(transform, path)


register_type("DisplacementFieldTransform", linear_field)
register_type("BSplineTransform", spline_field)
register_reader(FileReader("daskreg", _is_store, _load_store))
register_reader(FileReader("ITK", lambda file: is_vector_image(file.path), lambda file: read_image(file.path)))
register_reader(FileReader("NGFF", _is_ngff, _load_ngff))
register_reader(FileReader("ANTs", lambda file: is_prefix(file.path), read_prefix))
_ONE = "an image of vectors holds one linear field"
register_writer((".nii", ".nii.gz", ".mha", ".nrrd"), FileWriter("ITK", DisplacementField, _ONE, write_image))
register_writer((".tfm", ".txt", ".h5"), FileWriter("ITK", FieldTransform, "an ITK file holds a chain", _write_itk))
register_writer((".zarr",), FileWriter("daskreg", Transform, "", _save_store))
register_writer((".ngff.zarr",), FileWriter("NGFF", Transform, "", _save_ngff))
register_writer(("*1warp.nii.gz",), FileWriter("ANTs", DisplacementField, _ONE, write_warp))
register_writer(("*1warp.nii.gz",), FileWriter("ANTs", Composite, "files of ANTs hold a chain", write_prefix))
register_writer(
    ("transformparameters*.txt",),
    FileWriter(
        "elastix", FieldTransform, "files of elastix hold a chain", write_chain, takes=("fixed",), needs=("fixed",)
    ),
)
