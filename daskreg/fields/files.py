"""The files that displacement fields and chains with them are saved in and loaded from."""

from __future__ import annotations

from pathlib import Path

from daskreg.fields.ants import is_prefix, read_prefix, write_prefix, write_warp
from daskreg.fields.composite import Composite
from daskreg.fields.elastix import write_chain
from daskreg.fields.field import DisplacementField
from daskreg.fields.itk import is_vector_image, linear_field, read_image, records_of, spline_field, write_image
from daskreg.fields.ngff import is_ngff, load_ngff, save_ngff
from daskreg.fields.store import is_store, load_store, save_store
from daskreg.fields.transform import FieldTransform
from daskreg.formats.transforms.itk import write_records
from daskreg.formats.transforms.itk_types import register_type
from daskreg.geometry import Transform
from daskreg.geometry.registry import FileReader, FileWriter, register_reader, register_writer


def _write_itk(transform: Transform, path: Path) -> None:
    write_records(records_of(transform), path)


register_type("DisplacementFieldTransform", linear_field)
register_type("BSplineTransform", spline_field)
register_reader(FileReader("daskreg", lambda file: is_store(file.path), lambda file: load_store(file.path)))
register_reader(FileReader("ITK", lambda file: is_vector_image(file.path), lambda file: read_image(file.path)))
register_reader(FileReader("NGFF", lambda file: is_ngff(file.path), lambda file: load_ngff(file.path)))
register_reader(FileReader("ANTs", lambda file: is_prefix(file.path), read_prefix))
_ONE = "an image of vectors holds one linear field"
register_writer((".nii", ".nii.gz", ".mha", ".nrrd"), FileWriter("ITK", DisplacementField, _ONE, write_image))
register_writer((".tfm", ".txt", ".h5"), FileWriter("ITK", FieldTransform, "an ITK file holds a chain", _write_itk))
register_writer((".zarr",), FileWriter("daskreg", Transform, "", save_store))
register_writer((".ngff.zarr",), FileWriter("NGFF", Transform, "", save_ngff))
register_writer(("*1warp.nii.gz",), FileWriter("ANTs", DisplacementField, _ONE, write_warp))
register_writer(("*1warp.nii.gz",), FileWriter("ANTs", Composite, "files of ANTs hold a chain", write_prefix))
register_writer(
    ("transformparameters*.txt",),
    FileWriter(
        "elastix", FieldTransform, "files of elastix hold a chain", write_chain, takes=("fixed",), needs=("fixed",)
    ),
)
