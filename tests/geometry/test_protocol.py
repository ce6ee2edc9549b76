"""A third kind of transform, defined outside of the package, does all that an Affine does."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from functools import reduce
from itertools import combinations
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from piecewise import PiecewiseAffine
from scipy import ndimage as ndi

import daskreg as dr
from daskreg.errors import EmptyOutputError, InvalidTransformError, OptionError, UnitError
from daskreg.formats.transforms import load
from daskreg.geometry import Affine, Box, Grid, SliceAffines, Transform, registry, tile
from daskreg.volumes import to_dataarray

SHAPE = (9, 33, 41)
GRID = Grid(SHAPE, spacing=(2.0, 0.5, 0.8), origin=(10, -4, 2), unit="um")
MIDDLE = GRID.centre[1:]
PIECEWISE = PiecewiseAffine(
    Affine.from_parameters(theta=0.2, tx=1.5, centre=MIDDLE, unit="um"),
    Affine.from_parameters(theta=-0.1, ty=-2.0, sx=1.1, centre=MIDDLE, unit="um"),
    limit=17.0,  # between the planes 3 and 4
    unit="micrometer",
)
PIXELS = PiecewiseAffine(
    Affine.from_parameters(theta=0.2, tx=3, centre=(16, 20)), Affine.translation(x=-4.25, y=2), limit=5
)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return ndi.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 1).astype(np.float32)


def by_scipy(
    volume: np.ndarray, t: PiecewiseAffine, source: Grid, out: Grid | None = None, *, order: int = 1
) -> np.ndarray:
    """Plane by plane: both grids have their planes at the same z."""
    out = out or source
    before, after = out.take((1, 2)).matrix, np.linalg.inv(source.take((1, 2)).matrix)
    planes = []
    for z, plane in zip(out.world([[k, 0, 0] for k in range(out.shape[0])])[:, 0], volume, strict=True):
        matrix = after @ (t.below if z < t.limit else t.above).matrix @ before
        planes.append(
            ndi.affine_transform(
                plane.astype(float),
                matrix[:2, :2],
                matrix[:2, 2],
                output_shape=out.shape[1:],
                order=order,
                mode="grid-constant",
            )
        )
    return np.stack(planes)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_arrays_lazy_arrays_and_tensors_are_warped(volume: np.ndarray, order: int) -> None:
    import torch

    expected = by_scipy(volume, PIXELS, Grid(SHAPE), order=order)
    got = dr.warp(volume, pull=PIXELS, order=order)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    lazy = dr.warp(xr.DataArray(volume, dims=("z", "y", "x")), pull=PIXELS, order=order, chunks=(4, 16, 17))
    np.testing.assert_allclose(lazy.values, got, atol=1e-6)
    np.testing.assert_array_equal(lazy[6].values, lazy.values[6])
    tensor = torch.from_numpy(volume).requires_grad_(order == 1)
    warped = dr.warp(tensor, pull=PIXELS, order=order)
    np.testing.assert_allclose(warped.detach().numpy(), got, atol=1e-4)
    if order == 1:
        warped.sum().backward()
        assert float(tensor.grad.mean()) > 0.5


def test_it_acts_on_the_world(volume: np.ndarray) -> None:
    array = to_dataarray(volume, GRID)
    np.testing.assert_allclose(dr.warp(array, pull=PIECEWISE).values, by_scipy(volume, PIECEWISE, GRID), atol=1e-5)
    part = GRID.crop(Box((2, 3, -5), (8, 30, 30)))
    got = dr.warp(array, pull=PIECEWISE, grid=part)
    np.testing.assert_allclose(got.values, by_scipy(volume[2:8], PIECEWISE, GRID, part), atol=1e-5)
    with pytest.raises(UnitError):
        dr.warp(array, pull=PiecewiseAffine(PIXELS.below, PIXELS.above, 5, unit="millimeter"))
    with pytest.raises(EmptyOutputError):
        dr.warp(array, push=Affine.translation(x=1e6, unit="um") @ PIECEWISE)


@pytest.mark.parametrize(
    "pull",
    [
        Affine.from_parameters(rx=0.2, rz=0.3, tx=2.5, centre=(4, 16, 20)),
        Affine.from_parameters(theta=0.2, tx=30),
        Affine.translation(z=-2, x=0.5),
        SliceAffines(np.stack([Affine.from_parameters(theta=0.1 * i, tx=6 * i).matrix for i in range(SHAPE[0])])),
        PIXELS,
    ],
    ids=("volume", "plane", "shift", "slices", "piecewise"),
)
def test_what_every_index_map_keeps_to(pull: Transform) -> None:
    """Pieces are disjoint parts of their box and read what the read box holds, also after `restrict`."""
    grid = Grid(SHAPE)
    whole = pull.index_map(grid, grid, grid.names)
    assert sorted((*whole.sampled, *whole.carried)) == [0, 1, 2]
    assert set(whole.batch) <= set(whole.carried)
    for _, box in tile(SHAPE, (4, 11, 20)):
        for margin in (0, 2):
            pieces = list(whole.pieces(box, SHAPE, margin))
            own = list(whole.restrict(box).pieces(box, SHAPE, margin))
            assert [(p.out, p.read, p.coordinates.tobytes()) for p in own] == [
                (p.out, p.read, p.coordinates.tobytes()) for p in pieces
            ]
            read = whole.read_box(box, SHAPE, margin)
            assert read == whole.restrict(box).read_box(box, SHAPE, margin)
            assert read.empty or read == reduce(or_, (p.read for p in pieces))
            assert read.empty == (not pieces)
            assert all(p.out in box and p.read in Box.of(SHAPE) for p in pieces)
            assert all((a.out & b.out).empty for a, b in combinations(pieces, 2))
        assert whole.restrict(box).identity() == whole.restrict(box).restrict(box).identity()


def test_points_inverse_and_composition(volume: np.ndarray) -> None:
    points = np.random.default_rng(2).uniform((10, -4, 2), (26, 12, 34), (50, 3))
    np.testing.assert_allclose(PIECEWISE.inverse()(PIECEWISE(points)), points, atol=1e-12)
    plane = Affine.from_parameters(theta=0.3, tx=1, unit="um")
    after, before = plane @ PIECEWISE, PIECEWISE @ plane
    solid = plane.embed(3, (1, 2))
    np.testing.assert_allclose(after(points), solid(PIECEWISE(points)), atol=1e-12)
    np.testing.assert_allclose(before(points), PIECEWISE(solid(points)), atol=1e-12)
    array = to_dataarray(volume, GRID)
    composed = dr.warp(array, pull=[plane, PIECEWISE])
    np.testing.assert_array_equal(composed.values, dr.warp(array, pull=after).values)
    pushed = dr.warp(array, push=PIECEWISE)
    np.testing.assert_array_equal(pushed.values, dr.warp(array, pull=PIECEWISE.inverse()).values)
    for other in (Affine.identity(3), SliceAffines(np.stack([np.eye(3)] * SHAPE[0]))):
        for composition in (lambda o=other: o @ PIECEWISE, lambda o=other: PIECEWISE @ o):
            with pytest.raises(TypeError, match="unsupported operand"):
                composition()


def test_union_and_intersection(volume: np.ndarray) -> None:
    ones = xr.DataArray(np.ones(SHAPE, np.float32), dims=("z", "y", "x"))
    shifts = PiecewiseAffine(Affine.translation(x=3), Affine.translation(x=-4, y=2), limit=5)
    union, inner = (dr.warp(ones, pull=shifts, grid=which) for which in ("union", "intersection"))
    assert union.shape == (9, 35, 48)
    assert float(union.sum()) == ones.size
    assert inner.shape == (9, 31, 34)
    assert float(inner.min()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_plan_and_write_to_a_cluster(tmp_path: Path, volume: np.ndarray) -> None:
    """Its parts travel to worker processes; a block is computed again only where its own part has changed."""
    stored = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=(3, 16, 16), dtype="f4")
    stored[:] = volume
    options: dict[str, Any] = {"chunks": (3, 16, 16), "shards": None, "levels": 1}
    source = dr.open(tmp_path / "in.zarr")
    aligned = dr.warp(source, pull=PIXELS)
    plan = dr.plan(aligned, tmp_path / "out.zarr", **options)
    assert plan.levels[0].block_count == 6
    with dr.connect(workers=2) as client:
        dr.write(aligned, tmp_path / "out.zarr", client=client, progress=False, **options)
    np.testing.assert_allclose(dr.open(tmp_path / "out.zarr").values, by_scipy(volume, PIXELS, Grid(SHAPE)), atol=1e-5)
    changed = PiecewiseAffine(PIXELS.below, Affine.translation(x=1), PIXELS.limit)
    moved = dr.warp(source, pull=changed)
    written = dr.write(moved, tmp_path / "out.zarr", resume="changed", progress=False, **options)
    assert (written.changed, written.skipped) == (4, 2)  # blocks with planes from 5 on
    np.testing.assert_allclose(dr.open(tmp_path / "out.zarr").values, by_scipy(volume, changed, Grid(SHAPE)), atol=1e-5)


def test_files(tmp_path: Path) -> None:
    PIECEWISE.save(tmp_path / "t.json")
    assert dr.load(tmp_path / "t.json") == load(tmp_path / "t.json") == PIECEWISE
    assert pickle.loads(pickle.dumps(PIECEWISE)) == PIECEWISE
    with pytest.raises(OptionError, match="an affine map"):
        PIECEWISE.save(tmp_path / "t.tfm")
    with pytest.raises(InvalidTransformError, match="no matrices"):
        dr.convert.to_torch(PIECEWISE, fixed=GRID, moving=GRID)


def test_a_file_type_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_writers", {})
    writer = registry.FileWriter(
        "ours", PiecewiseAffine, "only our transforms", lambda t, p: p.write_text(f"{t.limit}")
    )
    registry.register_writer([".piecewise"], writer)
    PIECEWISE.save(tmp_path / "t.piecewise")
    assert (tmp_path / "t.piecewise").read_text() == "17.0"
    with pytest.raises(OptionError, match="only our transforms: save as .json"):
        Affine.identity(2).save(tmp_path / "t.piecewise")


def test_kinds_are_told_apart_by_name() -> None:
    assert {"affine", "slice-affines", "piecewise-affine"} <= registry.kinds().keys()
    with pytest.raises(ValueError, match="'affine' are Affine already"):

        class Other(PiecewiseAffine):
            kind = "affine"

    with pytest.raises(TypeError, match="abstract"):
        Transform()  # type: ignore[abstract]


def test_saving_needs_no_other_import(tmp_path: Path) -> None:
    """Geometry is imported alone; the module that writes files is imported when a file is written."""
    code = (
        "import sys; from daskreg.geometry import Affine; "
        "assert not any(m.startswith('daskreg.formats') for m in sys.modules); "
        "Affine.translation(x=2).save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.json")], check=True)
    data = json.loads((tmp_path / "x.json").read_text())
    assert Affine.from_dict(data["transform"]) == Affine.translation(x=2)
