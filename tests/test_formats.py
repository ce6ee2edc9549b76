"""Files of other formats through the whole way: opened, sent to workers, written, by Python and by command."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from reading import turned

import daskreg as dr
from daskreg.cli import run
from daskreg.sources.readers import itk, mapped, mrc, nifti
from daskreg.sources.readers.hdf5 import reader as hdf5
from daskreg.volumes import grid, volume_of

VALUES = np.random.default_rng(0).integers(0, 60_000, (12, 40, 50)).astype("u2")
FORMATS = ("a.nii.gz", "a.nii", "a.nrrd", "packed.nrrd", "a.mha", "packed.mha", "a.mrc", "a.mrc.gz", "a.h5")


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(VALUES.T, turned()), path)
    elif ".mrc" in name:
        with mrcfile.new(path, VALUES, compression="gzip" if name.endswith(".gz") else None) as file:
            file.voxel_size = (1, 2, 3)
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("scan/volume", data=VALUES, chunks=(5, 16, 16), compression="gzip")
    else:
        image = sitk.GetImageFromArray(VALUES)
        image.SetSpacing((0.5, 0.6, 2))
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, -1))
        sitk.WriteImage(image, str(path), "packed" in name)
    return path


@pytest.mark.slow
def descending(volume):
    """The axes that descend in the world, where each runs along an axis of the world."""
    where = grid(volume)
    return [k for k, d in enumerate(where.direction_matrix.diagonal()) if d < 0] if where.separable else []


def assert_upright(written, source):
    """The voxels of a source where they were in the world, with axes that descend stored from their other end."""
    where, ends = grid(source), descending(source)
    np.testing.assert_array_equal(written.values, np.flip(VALUES, ends))
    first = where.world([n - 1 if k in ends else 0 for k, n in enumerate(where.shape)])
    direction = None if where.separable else where.direction
    assert grid(written).same(dr.Grid(where.shape, where.spacing, first, direction, unit=where.unit))


@pytest.mark.usefixtures("forked_workers")
def test_on_a_cluster(tmp_path):
    """Specs travel, files are opened and unpacked by the workers; and the same in local threads."""
    paths = [written(tmp_path, name) for name in FORMATS]
    with dr.connect(workers=1) as client:
        for path in paths:
            volume = dr.open(path)
            out = tmp_path / f"{path.name}.zarr"
            with nullcontext() if grid(volume).separable else pytest.warns(dr.errors.MetadataWarning):
                dr.write(volume, out, chunks=(4, 20, 20), shards=None, levels=1, client=client, progress=False)
            assert_upright(dr.open(out), volume)
            shift = dr.Affine.translation(x=0.3, y=-1.2, z=0.7)
            moved = dr.warp(volume, push=shift)
            np.testing.assert_array_equal(
                client.compute(moved.data).result(), dr.warp(volume.compute(), push=shift).values
            )


@pytest.mark.parametrize("name", FORMATS)
def test_opening_reads_metadata_only(tmp_path, monkeypatch, name):
    path = written(tmp_path, name)
    for function in ("map_file", "unpack", "moved_to_disk", "map_open_file"):
        for module in (mapped, hdf5, itk, mrc, nifti):  # each has the names that it imported
            monkeypatch.setattr(module, function, None, raising=False)
    volume = dr.open(path)
    assert volume.shape == VALUES.shape
    assert volume_of(volume).source.array is None
    assert volume[3:, :20].shape == (9, 20, 50)


@pytest.mark.filterwarnings("ignore:.*cannot store that the axes are turned")
@pytest.mark.parametrize("name", ["a.nii.gz", "packed.mha", "a.mrc", "a.h5"])
def test_on_the_command_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, name)
    path = f"{name}::/scan/volume" if name == "a.h5" else name
    assert run(["info", path]) == 0
    told = capsys.readouterr().out
    assert "axes     z 12, y 40, x 50; uint16" in told
    assert {"a.nii.gz": "nifti", "packed.mha": "itk", "a.mrc": "mrc", "a.h5": "hdf5"}[name] in told
    assert ("turned" in told) == (name in {"a.nii.gz", "packed.mha"})
    assert run(["convert", path, "out.zarr", "--spacing", "3,2,2", "--unit", "um", "--quiet"]) == 0
    out = dr.open("out.zarr")
    np.testing.assert_array_equal(out.values, np.flip(VALUES, descending(dr.open(path))))
    assert (grid(out).spacing, grid(out).unit) == ((3, 2, 2), "micrometer")


@pytest.mark.filterwarnings("always::daskreg.errors.MetadataWarning")
def test_a_warning_is_said_once(data, capsys):
    assert run(["info", str(data / "tomography/haadf/HAADF.mrc")]) == 0
    assert capsys.readouterr().err.count("Map ID") == 1
