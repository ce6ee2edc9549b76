"""The files that `mutations.py` damages: one small file of each format, and how daskreg reads it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cluster.config import read_config
from daskreg.formats.point_tables import read_table
from daskreg.formats.points import read_points
from daskreg.geometry import Box
from daskreg.landmarks.pairs import read_pairs
from daskreg.stacks import table
from daskreg.volumes import volume_of
from daskreg.writing import verify

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # writes files of microscopes
VALUES = (np.arange(5 * 12 * 14) % 251).reshape(5, 12, 14).astype(np.uint8)
_BDV = """<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5></ImageLoader><ViewSetups><ViewSetup><id>0</id>
<size>14 12 5</size><voxelSize><unit>um</unit><size>1 1 2</size></voxelSize></ViewSetup></ViewSetups>
<Timepoints type="range"><first>0</first><last>0</last></Timepoints></SequenceDescription><ViewRegistrations>
<ViewRegistration timepoint="0" setup="0"><ViewTransform type="affine"><affine>1 0 0 0 0 1 0 0 0 0 2 0</affine>
</ViewTransform></ViewRegistration></ViewRegistrations></SpimData>"""
POINTS = np.random.default_rng(0).random((20, 3))


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        name: of the file, which says the format.
        make: writes it, and what belongs to it, at a path in a folder of its own.
        use: reads what `opened` says.
        target: the file that is damaged, in that folder; None: the file itself.
        opened: what `use` is given, in that folder; None: the file itself.
    """

    name: str
    make: Callable[[Path], Any]
    use: Callable[[Path], Any]
    target: str | None = None
    opened: str | None = None


def use_volume(path: Path) -> None:
    """Open it, and read a few voxels at either end."""
    source = volume_of(dr.open(path)).source
    source.read(Box((0,) * source.ndim, tuple(min(3, n) for n in source.shape)))
    source.read(Box(tuple(n - 1 for n in source.shape), source.shape))


def _zarr(path: Path, **options: Any) -> None:
    import zarr

    array = zarr.create_array(path, shape=VALUES.shape, chunks=(5, 6, 7), dtype=VALUES.dtype, **options)
    array[:] = VALUES


def _ome(path: Path) -> None:
    dr.write(dr.warp(VALUES, pull=dr.Affine.translation(x=1)), path, levels=2, progress=False)


def _xarray(path: Path) -> None:
    import xarray as xr

    coords = {d: np.arange(n) * 0.5 for d, n in zip("zyx", VALUES.shape, strict=True)}
    xr.DataArray(VALUES, coords, tuple("zyx"), name="a").to_dataset().to_zarr(path, zarr_format=2, consolidated=False)


def _tiff(path: Path, **options: Any) -> None:
    import tifffile

    tifffile.imwrite(path, VALUES, **options)


def _hdf5(path: Path, **options: Any) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        data = file.create_dataset("entry/data", data=VALUES, **options)
        file["entry/z"] = np.arange(5) * 0.1
        data.dims[0].label = "z"
        file["entry/z"].attrs["units"] = "mm"
        file["entry"].attrs["signal"] = "data"


def _nifti(path: Path) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(VALUES.T, np.diag([2.0, 1, 1, 1])), path)


def _itk(path: Path, compress: bool = False) -> None:
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(
        sitk.GetImageFromArray(VALUES if path.suffix not in (".png", ".bmp") else VALUES[0]), path, compress
    )


def _npy_volume(path: Path) -> None:
    np.save(path, VALUES)


def _raw(path: Path) -> None:
    VALUES.tofile(path)
    path.with_name("a.raw.json").write_text('{"shape": [5, 12, 14], "dtype": "u1", "spacing": [2, 1, 1], "unit": "um"}')


def _n5(path: Path) -> None:
    import gzip
    import struct

    (path / "0" / "0").mkdir(parents=True)
    stated = {"dimensions": [14, 12, 5], "blockSize": [14, 12, 5], "dataType": "uint8", "compression": {"type": "gzip"}}
    (path / "attributes.json").write_text(json.dumps({**stated, "resolution": [1, 1, 2], "units": ["um", "um", "um"]}))
    block = struct.pack(">HHIII", 0, 3, 14, 12, 5) + gzip.compress(VALUES.tobytes())
    (path / "0" / "0" / "0").write_bytes(block)


def _las(path: Path) -> None:
    import laspy

    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = [0.01, 0.01, 0.01]
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = POINTS.T
    cloud.write(path)


def _scene(path: Path) -> None:
    import zarr

    zarr.create_group(path)
    for name in ("a", "b"):
        dr.write(VALUES, path / name, version="0.6", progress=False)
    dr.convert.to_ngff_scene(dr.Affine.translation(z=1, y=2, x=3), path, fixed="a", moving="b")


def use_scene(path: Path) -> None:
    source = volume_of(dr.open(path / "b", coordinate_system="scene")).source
    source.read(Box((0,) * source.ndim, tuple(min(3, n) for n in source.shape)))


def _vtkhdf(path: Path) -> None:
    dr.write(VALUES, path, progress=False)


def _slide(path: Path) -> None:
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for step, text in ((1, "Aperio Image Library v12|MPP = 0.499"), (8, "Aperio thumbnail"), (4, "Aperio level")):
            image = np.resize(VALUES[0], (96, 80))[::step, ::step]
            file.write(image, tile=(16, 16), description=text, metadata=None, photometric="minisblack")


def _txrm(path: Path) -> None:
    from compound_files import write_compound

    values = {"ImageWidth": 14, "ImageHeight": 12, "DataType": 3, "NoOfImages": 5}
    streams = {f"ImageInfo/{name}": np.int32(value).tobytes() for name, value in values.items()}
    streams |= {
        "ImageInfo/PixelSize": np.float32(0.5).tobytes(),
        "ImageInfo/Angles": np.arange(5, dtype="<f4").tobytes(),
    }
    write_compound(path, streams | {f"ImageData1/Image{k + 1}": image.tobytes() for k, image in enumerate(VALUES)})


def _lif(path: Path) -> None:
    from lif_files import lif_image, write_lif

    values = np.stack([VALUES, VALUES + 1])[None].astype(np.uint16)
    write_lif(path, [(lif_image(f"image {k}", values, f"MemBlock_{k}"), values) for k in range(2)])


def _oif(path: Path) -> None:
    from oif_files import write_oif

    write_oif(path)


def _real(path: Path, *, name: str) -> None:
    """A file of the real data, of formats that nothing writes."""
    shutil.copy(Path(os.environ["DASKREG_DATA"]) / "microscopy" / name, path)


def _imaris(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        channel = file.create_group("DataSet/ResolutionLevel 0/TimePoint 0/Channel 0")
        channel.create_dataset("Data", data=VALUES, chunks=(5, 6, 7), compression="gzip")
        image = file.create_group("DataSetInfo/Image")
        for name, text in (("Unit", "um"), ("ExtMin0", "0"), ("ExtMax0", "14"), ("ExtMin1", "0"), ("ExtMax1", "12"),
                           ("ExtMin2", "0"), ("ExtMax2", "5")):  # fmt: skip
            image.attrs[name] = np.array([letter.encode() for letter in text], "S1")


def _bdv(path: Path) -> None:
    import h5py

    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["s00/resolutions"] = np.ones((1, 3))
        file["t00000/s00/0/cells"] = VALUES
    path.write_text(_BDV)


def _dicom(path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    path.mkdir()
    for k in range(3):
        slice_ = sitk.GetImageFromArray(VALUES[k : k + 1].astype(np.int16))
        slice_.SetOrigin((0, 0, 2.0 * k))
        slice_.SetMetaData("0020|0032", f"0\\0\\{2 * k}")
        slice_.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        slice_.SetMetaData("0020|000e", "1.2.826.0.1.3680043.8.498.1")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path / f"{k}.dcm"))
        writer.Execute(slice_)


def _mrc(path: Path) -> None:
    import gzip

    import mrcfile

    with mrcfile.new(path, VALUES.astype(np.int16), compression="gzip" if path.suffix == ".gz" else None) as file:
        file.voxel_size = 2.0
    if path.suffix == ".gz":
        gzip.decompress(path.read_bytes())


def _transform(path: Path) -> None:
    affine = dr.Affine.translation(x=1, y=2, z=3)
    slices = dr.SliceAffines(np.tile(np.eye(3), (4, 1, 1)))
    (slices if path.suffix == ".json" else affine).save(path)


GRID = dr.Grid(VALUES.shape, (0.5, 1.0, 2.0))
"""Of both images, for transform files that count in voxels."""

STACK = dr.Grid((4, 12, 14))


def _transform_of_tool(path: Path, slices: bool = False, **options: Any) -> None:
    """A transform file of another tool: an affine map, or one for each slice."""
    turned = dr.Affine.from_parameters({"rz": 0.1, "tx": 1.0, "ty": 2.0, "tz": 3.0}, ndim=3)
    maps = dr.SliceAffines(np.tile(np.array([[0.9, 0.1, 2], [-0.1, 0.9, 1], [0, 0, 1]]), (4, 1, 1)))
    (maps if slices else turned).save(path, **options)


def _field(path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 3, 4, 5))
    dr.DisplacementField(vectors, dr.Grid((3, 4, 5), 3.0)).save(path)


def use_field(path: Path) -> None:
    """Load it, and move a point."""
    dr.load(path)(np.ones((1, 3)))


def use_voxel_transform(path: Path) -> None:
    """Load what needs the grids of both images."""
    view = 1 if path.suffix == ".xml" else None
    dr.load(path, format="FSL" if path.suffix == ".mat" else None, fixed=GRID, moving=GRID, view=view)


def use_slice_transform(path: Path) -> None:
    """Load maps of slices that count in pixels."""
    dr.load(path, fixed=STACK, moving=STACK)


def use_pairs(path: Path) -> None:
    """Landmarks of two images in one file."""
    read_pairs(path)


def _points(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def _ledger(path: Path) -> None:
    dr.write(VALUES, path, levels=1, progress=False)
    folder = Ledger(path).folder
    (journal,) = folder.glob("*.jsonl")
    shutil.copy(journal, folder / "journal.jsonl")
    journal.unlink()


def use_table(path: Path) -> None:
    """The poses that somebody edited."""
    table.poses(path, (8, 3, 3), np.zeros(2))


def use_ledger(path: Path) -> None:
    """What a later run does with the records of an earlier one."""
    verify(path)


_PLY = "ply\nformat {} 1.0\nelement vertex 20\nproperty double x\nproperty double y\nproperty double z\nend_header\n"
_PCD = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 20\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\nDATA {}\n"
)
_ROWS = "\n".join(" ".join(map(repr, row)) for row in POINTS.tolist()) + "\n"
_ELASTIX = (
    '(Transform "EulerTransform")\n(NumberOfParameters 6)\n(TransformParameters 0.1 0 0 1 2 3)\n'
    '(CenterOfRotationPoint 1 2 3)\n(ComputeZYX "false")\n(HowToCombineTransforms "Compose")\n'
    '(InitialTransformParametersFileName "NoInitialTransform")\n(Size 20 20 20)\n(Direction 1 0 0 0 1 0 0 0 1)\n'
)
_YAML = 'kind: slurm\ncores: 8\nmemory: "16 GiB"\nwalltime: "02:00:00"\ninterface: lo\ndirectives: ["--a", "--b"]\n'
_YAML += "tls: {ca_file: a.pem, cert: b.pem, key: c.pem}\n"
_BIGWARP = "".join(f'"Pt-{k}","true","{k}.5","2.0","3","1.25","{k}","7"\n' for k in range(6))
_FCSV = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
_FCSV += "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
_FCSV += "".join(f"{k},{k}.5,2,3,0,0,0,1,1,1,0,F-{k},,\n" for k in range(5))
_POINTS = [{"id": str(k), "label": f"F-{k}", "position": [k, 2.5, -3.0]} for k in range(4)]
_MARKUPS = json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": _POINTS}]})
_GEOJSON = json.dumps(
    {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {"name": "a"}, "geometry": {"type": "Point", "coordinates": [1.5, 2.0]}},
            {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4], [5.5, 6]]}},
        ],
    }
)
_TABLE = "slice,ty,tx,rotation\n" + "".join(f"{k},{k / 10},{-k / 5},0.01\n" for k in range(8))


def _lzf_pcd() -> bytes:
    plain = np.ascontiguousarray(POINTS.T).tobytes()
    packed = b"".join(bytes([len(plain[i : i + 32]) - 1]) + plain[i : i + 32] for i in range(0, len(plain), 32))
    return _PCD.format("binary_compressed").encode() + np.array([len(packed), len(plain)], "<u4").tobytes() + packed


def _npy(path: Path) -> None:
    np.save(path, POINTS)


FORMATS: dict[str, Format] = {
    "zarr v3": Format("a.zarr", _zarr, use_volume, "a.zarr/zarr.json"),
    "zarr v3 chunk": Format("a.zarr", _zarr, use_volume, "a.zarr/c/0/0/0"),
    "zarr v3 shard": Format("a.zarr", partial(_zarr, shards=(5, 12, 14)), use_volume, "a.zarr/c/0/0/0"),
    "zarr v2": Format("a.zarr", partial(_zarr, zarr_format=2), use_volume, "a.zarr/.zarray"),
    "ome-zarr": Format("a.zarr", _ome, use_volume, "a.zarr/zarr.json"),
    "xarray zarr": Format("a.zarr", _xarray, use_volume, "a.zarr/a/.zattrs"),
    "tiff": Format("a.tif", _tiff, use_volume),
    "tiff imagej": Format("a.tif", partial(_tiff, imagej=True), use_volume),
    "tiff ome, packed": Format("a.ome.tif", partial(_tiff, compression="zlib", tile=(16, 16)), use_volume),
    "hdf5": Format("a.h5", _hdf5, use_volume),
    "hdf5 packed": Format("a.nxs", partial(_hdf5, chunks=(5, 6, 7), compression="gzip"), use_volume),
    "nifti": Format("a.nii", _nifti, use_volume),
    "nifti gz": Format("a.nii.gz", _nifti, use_volume),
    "nrrd": Format("a.nrrd", _itk, use_volume),
    "nrrd gz": Format("a.nrrd", partial(_itk, compress=True), use_volume),
    "metaimage": Format("a.mha", _itk, use_volume),
    "metaimage mhd": Format("a.mhd", _itk, use_volume),
    "gipl": Format("a.gipl", _itk, use_volume),
    "png": Format("a.png", _itk, use_volume),
    "bmp": Format("a.bmp", _itk, use_volume),
    "npy volume": Format("a.npy", _npy_volume, use_volume),
    "raw": Format("a.raw", _raw, use_volume, "a.raw.json"),
    "n5": Format("a.n5", _n5, use_volume, "a.n5/attributes.json"),
    "n5 block": Format("a.n5", _n5, use_volume, "a.n5/0/0/0"),
    "imaris": Format("a.ims", _imaris, use_volume),
    "scene": Format("a.zarr", _scene, use_scene, "a.zarr/zarr.json"),
    "scene image": Format("a.zarr", _scene, use_scene, "a.zarr/b/zarr.json"),
    "vtkhdf": Format("a.vtkhdf", _vtkhdf, use_volume),
    "slide": Format("a.svs", _slide, use_volume),
    "txrm": Format("a.txrm", _txrm, use_volume),
    "lif": Format("a.lif", _lif, use_volume),
    "oif": Format("a.oif", _oif, use_volume),
    "oif image": Format("a.oif", _oif, use_volume, "a.oif.files/s_C001Z001T001.tif"),
    "bdv xml": Format("a.xml", _bdv, use_volume),
    "bdv h5": Format("a.xml", _bdv, use_volume, "a.h5"),
    "dicom": Format("a", _dicom, use_volume, "a/1.dcm"),
    "mrc": Format("a.mrc", _mrc, use_volume),
    "mrc gz": Format("a.mrc.gz", _mrc, use_volume),
    "transform json": Format("t.json", _transform, dr.load),
    "transform tfm": Format("t.tfm", _transform, dr.load),
    "transform h5": Format("t.h5", _transform, dr.load),
    "elastix": Format("t.txt", partial(_points, text=_ELASTIX.encode()), dr.load),
    "ants": Format("t.mat", partial(_transform_of_tool, format="ANTs"), dr.load),
    "fsl": Format("t.mat", partial(_transform_of_tool, format="FSL", fixed=GRID, moving=GRID), use_voxel_transform),
    "freesurfer": Format("t.lta", partial(_transform_of_tool, fixed=GRID, moving=GRID), dr.load),
    "afni": Format("t.aff12.1D", _transform_of_tool, dr.load),
    "imod": Format("t.xf", partial(_transform_of_tool, slices=True, fixed=STACK, moving=STACK), use_slice_transform),
    "multistackreg": Format(
        "t.txt",
        partial(_transform_of_tool, slices=True, format="MultiStackReg", fixed=STACK, moving=STACK),
        use_slice_transform,
    ),
    "pystackreg": Format(
        "t.npy", partial(_transform_of_tool, slices=True, fixed=STACK, moving=STACK), use_slice_transform
    ),
    "bigdataviewer": Format("t.xml", partial(_transform_of_tool, fixed=GRID, moving=GRID), use_voxel_transform),
    "ngff transform": Format("t.ngff.json", _transform_of_tool, dr.load),
    "field itk": Format("f.nii", _field, use_field),
    "field mha": Format("f.mha", _field, use_field),
    "field h5": Format("f.h5", _field, use_field),
    "field tfm": Format("f.tfm", _field, use_field),
    "field zarr": Format("f.zarr", _field, use_field, "f.zarr/zarr.json"),
    "bigwarp": Format("p.csv", partial(_points, text=_BIGWARP.encode()), use_pairs),
    "fcsv": Format("p.fcsv", partial(_points, text=_FCSV.encode()), read_table),
    "markups": Format("p.mrk.json", partial(_points, text=_MARKUPS.encode()), read_table),
    "geojson": Format("p.geojson", partial(_points, text=_GEOJSON.encode()), read_table),
    "npy": Format("p.npy", _npy, read_points),
    "las": Format("p.las", _las, read_points),
    "laz": Format("p.laz", _las, read_points),
    "ply ascii": Format("p.ply", partial(_points, text=(_PLY.format("ascii") + _ROWS).encode()), read_points),
    "ply binary": Format(
        "p.ply",
        partial(_points, text=_PLY.format("binary_little_endian").encode() + POINTS.tobytes()),
        read_points,
    ),
    "pcd ascii": Format("p.pcd", partial(_points, text=(_PCD.format("ascii") + _ROWS).encode()), read_points),
    "pcd binary": Format(
        "p.pcd", partial(_points, text=_PCD.format("binary").encode() + POINTS.tobytes()), read_points
    ),
    "pcd packed": Format("p.pcd", partial(_points, text=_lzf_pcd()), read_points),
    "csv": Format("p.csv", partial(_points, text=("x y z\n" + _ROWS).replace(" ", ",").encode()), read_points),
    "table of a stack": Format("t.csv", partial(_points, text=_TABLE.encode()), use_table),
    "cluster file": Format("c.yaml", partial(_points, text=_YAML.encode()), read_config),
    "run.json": Format("a.zarr", _ledger, use_ledger, "a.zarr.daskreg/run.json"),
    "journal": Format("a.zarr", _ledger, use_ledger, "a.zarr.daskreg/journal.jsonl"),
}
REAL = {"nd2": ("a.nd2", "cluster.nd2"), "oib": ("a.oib", "test.oib")}
FORMATS |= {
    kind: Format(name, partial(_real, name=source), use_volume)
    for kind, (name, source) in REAL.items()
    if (Path(os.environ.get("DASKREG_DATA", "")) / "microscopy" / source).is_file()
}
