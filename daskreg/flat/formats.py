"""Which format the suffix of an output means."""

from __future__ import annotations

from pathlib import Path

from daskreg.errors import OptionError
from daskreg.flat.image import FlatFormat
from daskreg.flat.medical import MEDICAL
from daskreg.flat.science import SCIENCE
from daskreg.runtime.paths import shown
from daskreg.sources.file_formats import file_suffix

FORMATS = (*SCIENCE, *MEDICAL)
_BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}


def flat_format(path: str) -> FlatFormat | None:
    """The format that the suffix of a path names; None for the name of a folder, that is OME-Zarr.

    Raises: OptionError for the suffix of a file that is not written.
    """
    suffix = file_suffix(Path(path).suffixes)
    if not suffix:
        return None
    found = _BY_SUFFIX.get(suffix)
    if found is not None and "://" not in path:
        return found
    stem = Path(path).name[: -len(suffix)].removesuffix(".zarr").removesuffix(".ome")
    where = "as objects of a store " if found is not None else ""
    raise OptionError(
        f"the output {shown(path)} cannot be made: {suffix} files are not written {where}but OME-Zarr (name a folder, "
        f"such as {stem}.ome.zarr) and, on a disk, {' '.join(_BY_SUFFIX)}"
    )
