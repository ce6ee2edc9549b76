"""The built-in formats: one line for each, with what its reader claims.

A format `name` is implemented by the module `daskreg.sources.readers.<name>`, whose `READER` is a
`daskreg.sources.reader.Reader`. That module is imported when a file of the format is first opened, so a library
such as h5py is needed only by those who read its files. Those of other packages say the same of themselves
(`available_readers`). This module imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: of its module in `readers/`; also the `kind` of its sources.
        title: in messages.
        suffixes: of its files, in lower case; a pair such as ".nii.gz" goes before its last part.
        has_paths: whether a path inside the file names one of several arrays (`file.h5::/dataset`).
        folders: whether a volume may be a folder; its reader is asked whether it claims one.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    has_paths: bool = False
    folders: bool = False


ZARR = Format("zarr", "Zarr (v2, v3, OME-Zarr, xarray's; a directory, a .zip or a URL)", (".zip",), has_paths=True)

DICOM = "dicom"
"""The name of the format of DICOM series, which are folders or lists of files."""

RAW = "raw"
"""The name of the format whose shape and type are options."""

FORMATS = (
    ZARR,
    Format("tiff", "TIFF", (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn"), has_paths=True),
    Format("hdf5", "HDF5/NeXus", (".h5", ".hdf5", ".hdf", ".he5", ".nxs", ".nx5", ".nex", ".nc"), has_paths=True),
    Format("nifti", "NIfTI", (".nii", ".nii.gz", ".nii.bz2", ".hdr", ".img", ".hdr.gz", ".img.gz")),
    Format("itk", "NRRD, MetaImage",
           (".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".gipl.gz", ".dcm", ".png", ".jpg", ".jpeg", ".bmp")),
    Format("mrc", "MRC",
           (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".preali", ".mrc.gz", ".map.gz", ".mrc.bz2", ".map.bz2")),
    Format("npy", "NumPy", (".npy",)),
    Format(RAW, "raw", (".raw",)),
    Format("n5", "N5", (), folders=True),
    Format("imaris", "Imaris", (".ims",)),
    Format("lif", "LIF", (".lif",), has_paths=True),
    Format("nd2", "ND2", (".nd2",), has_paths=True),
    Format("oif", "OIF", (".oif", ".oib")),
    Format("txrm", "TXRM", (".txrm", ".txm", ".xrm")),
    Format("vtkhdf", "VTKHDF", (".vtkhdf",), has_paths=True),
    Format("bdv", "BigDataViewer's XML", (".xml",), has_paths=True),
    Format(DICOM, "DICOM", (), folders=True),
)  # fmt: skip

SEQUENCE = "sequence"
"""The name of the reader of images in files of their own, which has no suffix (see `sequences`)."""

BUILT_IN = frozenset((*(one.name for one in FORMATS), SEQUENCE))
"""Names of the formats whose readers are here."""

READABLE = f"{', '.join(f.title for f in FORMATS[:-1])} and {FORMATS[-1].title} files are read"
"""What can be read, for messages."""

_OTHERS = frozenset((
    ".lsm", ".stk", ".qptiff", ".bif", ".flex", ".zvi", ".oir", ".vsi", ".lei", ".dv", ".r3d", ".sld", ".pvti", ".exr",
    ".npz", ".dat", ".bin", ".vol", ".mat", ".vtk", ".vti", ".n5", ".czi",
    ".dm3", ".dm4", ".ser", ".emd", ".hspy", ".mnc", ".mgz", ".mgh", ".jp2", ".j2k", ".jxl",
    ".webp", ".gif", ".avi", ".mp4", ".fits", ".fit", ".fts", ".las", ".laz", ".ply", ".pcd",
    ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".json", ".csv", ".txt", ".html", ".pdf", ".svg",
))  # fmt: skip
"""Suffixes of other files, which are not read as volumes."""

_ELSEWHERE = {".dv": "bioio-dv", ".r3d": "bioio-dv", ".sld": "bioio-sldy"}
"""Packages that read files of other suffixes, as arrays."""

_PLUGINS = {
    **dict.fromkeys((".dm3", ".dm4", ".emd", ".ser", ".hspy"), "daskreg-rosettasciio"),
    ".czi": "daskreg-bioio-czi",
}
"""Packages that let daskreg read files of other suffixes; they are in the folder `plugins` of its repository."""

_BY_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}


def advice(suffix: str) -> str:
    """For a message: which package reads files of a suffix that is not read here; "" where none is known."""
    if plugin := _PLUGINS.get(suffix):
        return f" (pip install {plugin}, also where the workers run)"
    package = _ELSEWHERE.get(suffix)
    return f" (pip install {package}, and pass the array that it makes of them)" if package else ""


def format_of(suffixes: list[str]) -> Format | None:
    """The format of a file whose name ends in some suffixes (as `Path.suffixes` has them); None where it is unknown."""
    pair, last = "".join(suffixes[-2:]).lower(), "".join(suffixes[-1:]).lower()
    return _BY_SUFFIX.get(pair, _BY_SUFFIX.get(last))


def file_suffix(suffixes: list[str]) -> str:
    """The suffix by which a name says that it is a single file's, such as ".nii.gz"; "" where it may be a folder's."""
    for some in (suffixes[-2:], suffixes[-1:]):
        text = "".join(some).lower()
        if text in _BY_SUFFIX or text in _OTHERS:
            return text
    return ""
