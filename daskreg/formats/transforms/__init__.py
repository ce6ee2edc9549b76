"""Transform files of daskreg and of other tools.

files     what is saved, and `load`, which reads all of them
itk       ITK transform files, text and HDF5
elastix   elastix parameter files
"""

from daskreg.formats.transforms.files import (
    load,
    read_bytes,
    read_json,
    transform_from_dict,
    transform_from_file,
    write_json,
    write_text,
)

__all__ = [
    "load",
    "read_bytes",
    "read_json",
    "transform_from_dict",
    "transform_from_file",
    "write_json",
    "write_text",
]
