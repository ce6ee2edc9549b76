"""Images through displacement fields: ITK's voxels, any blocks, stored vectors, resumed runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import zarr
from deformations import (
    RNG,
    affine_of,
    itk_affine,
    itk_field,
    itk_image,
    itk_points,
    oblique_nodes,
    smooth_vectors,
    turned,
)
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.errors import GridError, InvalidTransformError, NoOverlapError, SourceChangedError
from daskreg.geometry import Box
from daskreg.volumes import to_dataarray
from daskreg.warping import make_job

PIXELS = dr.Grid((7, 9, 11), (6.0, 7.0, 8.0), (-2.0, -3.0, -1.0))


def image_of(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    smooth = gaussian_filter(RNG.normal(size=shape), 1.5)
    scaled = (smooth - smooth.min()) / np.ptp(smooth)
    return (scaled * (1 if np.dtype(dtype).kind == "f" else 60_000)).astype(dtype)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("order", [1, 3])
def test_voxels_are_those_of_itk(ndim: int, order: int) -> None:
    source = dr.Grid((30, 41, 52)[-ndim:], (2.5, 1.0, 1.5)[-ndim:], (10.0, -5.0, 3.0)[-ndim:], turned(ndim, 0.2), "mm")
    out = dr.Grid((25, 44, 50)[-ndim:], (3.0, 0.9, 1.4)[-ndim:], (12.0, -4.0, 4.0)[-ndim:], turned(ndim, 0.25), "mm")
    nodes, image = oblique_nodes(ndim), image_of(source.shape)
    vectors = smooth_vectors(nodes, 5)
    chain = sitk.CompositeTransform(ndim)
    for part in (itk_affine(affine_of(ndim)), itk_field(vectors, nodes, order)):
        chain.AddTransform(part)
    reference = itk_image(np.zeros(out.shape, np.float32), out)
    wanted = sitk.GetArrayFromImage(sitk.Resample(itk_image(image, source), reference, chain, sitk.sitkLinear, -9.0))

    pull = affine_of(ndim) @ dr.DisplacementField(vectors, nodes, order=order)
    found = dr.warp(to_dataarray(image, source), pull=pull, like=out, fill=-9).values
    at = source.index(pull(out.world(np.moveaxis(np.indices(out.shape), 0, -1))))
    inner = np.all((at >= 0) & (at <= np.asarray(source.shape) - 1), axis=-1)
    assert inner.mean() > 0.3
    assert np.abs(found - wanted)[inner].max() < 1e-6


def test_a_chain_of_an_affine_map_splines_and_a_dense_field_is_that_of_itk() -> None:
    source = dr.Grid((22, 31, 40), (2.5, 1.0, 1.5), (10.0, -5.0, 3.0), turned(3, 0.2), "mm")
    out = dr.Grid((17, 30, 37), (3.0, 0.9, 1.4), (12.0, -4.0, 4.0), turned(3, 0.25), "mm")
    image, nodes = image_of(source.shape), oblique_nodes(3)
    coefficients, vectors = smooth_vectors(nodes, 3), smooth_vectors(out, 2)  # a vector for each voxel
    pull = affine_of(3) @ dr.DisplacementField(coefficients, nodes, order=3) @ dr.DisplacementField(vectors, out)
    chain = sitk.CompositeTransform(3)
    for part in (itk_affine(affine_of(3)), itk_field(coefficients, nodes, 3), itk_field(vectors, out, 1)):
        chain.AddTransform(part)
    points = out.world(RNG.uniform(0, 16, (300, 3)))
    assert np.abs(pull(points) - itk_points(chain, points)).max() < 1e-9

    reference = itk_image(np.zeros(out.shape, np.float32), out)
    wanted = sitk.GetArrayFromImage(sitk.Resample(itk_image(image, source), reference, chain, sitk.sitkLinear, -9.0))
    found = dr.warp(to_dataarray(image, source), pull=pull, like=out, fill=-9).values
    at = source.index(pull(out.world(np.moveaxis(np.indices(out.shape), 0, -1))))
    inner = np.all((at >= 0) & (at <= np.asarray(source.shape) - 1), axis=-1)
    assert inner.mean() > 0.3
    assert (np.abs(found - wanted)[inner] < 1e-6).mean() > 0.999  # of the range, which is 1


CHAINS = {
    "straight": lambda f, g, a: f,
    "oblique": lambda f, g, a: f @ a,
    "several": lambda f, g, a: g @ a @ f,
    "inverse": lambda f, g, a: a @ f.inverse(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("order", "dtype"), [(0, np.uint8), (1, np.uint16), (1, np.float32), (3, np.float32)])
def test_any_blocks_give_the_whole(name: str, order: int, dtype: Any) -> None:
    shape = (20, 43, 51)
    image = image_of(shape, dtype)
    field = dr.DisplacementField(smooth_vectors(PIXELS, 3).astype(np.float32), PIXELS)
    spline = dr.DisplacementField(smooth_vectors(PIXELS, 2), PIXELS, order=3)
    pull = CHAINS[name](field, spline, dr.Affine.rotation(rz=0.05, rx=0.02))
    whole = dr.warp(image, pull=pull, order=order, fill=7)
    lazy = dr.warp(dr.open(image), pull=pull, order=order, fill=7, chunks=(7, 13, 51))
    if order < 3:
        assert np.array_equal(lazy.values, whole)
    else:
        assert np.abs(lazy.values - whole).max() < 2e-6
    assert np.ptp(whole) > 0


@pytest.mark.parametrize("sampled", [2, 3])
def test_a_block_reads_what_it_needs(sampled: int) -> None:
    """The source box is true: with everything else of the source NaN, no voxel changes."""
    shape = (20, 43, 51)
    image = image_of(shape)
    nodes = PIXELS if sampled == 3 else PIXELS.take([1, 2])
    field = dr.DisplacementField(smooth_vectors(nodes, 4), nodes)
    volume = dr.open(image)
    grid = dr.grid(volume)
    whole = dr.warp(image, pull=field, fill=0)
    source = dr.volumes.volume_of(volume).source
    job = make_job(source, field, grid)
    for box in (Box((0, 0, 0), (5, 11, 17)), Box((9, 20, 30), (20, 43, 51))):
        read = job.read_box(box)
        assert read.size < image.size
        hidden = np.full(shape, np.nan, np.float32)
        hidden[read.slices] = image[read.slices]
        part = dr.warp(hidden, pull=field, fill=0)[box.slices]
        assert np.array_equal(part, whole[box.slices])


@pytest.mark.slow
def test_what_travels_to_a_worker_is_a_part_of_the_field() -> None:
    nodes = dr.Grid((60, 60, 60), 8.0)
    field = dr.DisplacementField(np.zeros((3, 60, 60, 60), np.float32), nodes)
    image = zarr.create_array({}, shape=(480, 480, 480), dtype="u1", chunks=(64, 64, 64))
    job = make_job(dr.volumes.volume_of(image).source, field, dr.Grid((480, 480, 480)))
    small = job.restrict(Box((0, 0, 0), (64, 64, 64)))
    assert len(pickle.dumps(small.mapping)) < 60_000
    assert small.fingerprint(Box((0, 0, 0), (64, 64, 64))) == job.fingerprint(Box((0, 0, 0), (64, 64, 64)))


def test_blocks_are_cut_at_nodes_that_lie_on_columns() -> None:
    nodes = dr.Grid((4, 11), 49.0)
    field = dr.DisplacementField(RNG.normal(size=(2, 4, 11)) * 2, nodes)
    image = image_of((60, 490))
    whole = dr.warp(image, pull=field)
    for cut in (245, 246, 294, 295, 441):
        lazy = dr.warp(dr.open(image), pull=field, chunks=((60,), (cut, 490 - cut)))
        assert np.array_equal(lazy.values, whole)


def test_the_border_of_a_field_through_voxel_centres() -> None:
    """There bounds and kernels must not disagree whether a voxel is in the field."""
    source = dr.Grid((41, 41), 1.0, 0.0, turned(2, 0.3))
    image = image_of((41, 41))
    for first in (7.5, 8.5, 20.5):
        nodes = dr.Grid((12, 12), 1.0, source.world((first, first)), turned(2, 0.3))
        field = dr.DisplacementField(np.full((2, 12, 12), 30.0), nodes)
        whole = dr.warp(to_dataarray(image, source), pull=field, chunks=(41, 41)).values
        for chunks in ((7, 41), (9, 8), (41, 13)):
            lazy = dr.warp(to_dataarray(image, source), pull=field, chunks=chunks)
            assert np.array_equal(lazy.values, whole)


@pytest.mark.slow
@pytest.mark.parametrize("inverse", [False, True])
def test_a_field_moves_nothing_where_it_is_not(tmp_path: Path, inverse: bool) -> None:
    nodes = dr.Grid((4, 4, 4), 5.0, 500.0)
    field = dr.DisplacementField(np.ones((3, 4, 4, 4)), nodes)
    image = image_of((20, 30, 40), np.uint16)
    pull = field.inverse() if inverse else field
    with pytest.raises(NoOverlapError, match=r"field in memory lies elsewhere.*check the origin, the unit"):
        dr.warp(image, pull=pull)
    still = dr.DisplacementField(np.zeros((3, 4, 4, 4)), dr.Grid((4, 4, 4), 5.0))
    pull = pull @ still  # a later field may be reached by the moves of those before
    dr.write(dr.warp(dr.open(image), pull=pull), tmp_path / "out.ome.zarr", chunks=(8, 8, 8), progress=False)
    assert np.array_equal(dr.open(tmp_path / "out.ome.zarr").values, image)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_chain_is_refused_only_where_no_field_is_reached(inverse: bool) -> None:
    image, vectors = image_of((30, 43)), RNG.normal(size=(2, 5, 6))
    near, far = dr.DisplacementField(vectors, dr.Grid((5, 6), 7.0)), dr.DisplacementField(
        vectors, dr.Grid((5, 6), 7.0, (1000.0, 2000.0)))  # fmt: skip
    away = far.inverse() if inverse else far
    expected = dr.warp(image, pull=near)
    for chain in (near @ away, away @ near, away @ near @ away):
        assert np.array_equal(dr.warp(image, pull=chain), expected)
    shift = dr.Affine.translation(y=-1000.0, x=-2000.0)
    back = shift.inverse() @ near @ shift  # moves where `far` is
    with pytest.raises(NoOverlapError, match=r"all 2 displacement fields, the first of them .* lie elsewhere"):
        dr.warp(image, pull=away @ back)
    brought = shift @ far @ shift.inverse() @ away  # as `near`, after one that is not reached
    assert np.allclose(dr.warp(image, pull=brought), expected, atol=1e-5)


def test_a_chain_of_slices_is_refused_only_where_no_field_is_reached() -> None:
    stack, vectors = image_of((3, 30, 43)), RNG.normal(size=(3, 2, 5, 6))
    near = dr.SliceDisplacements(vectors, dr.Grid((5, 6), 7.0))
    far = dr.SliceDisplacements(vectors, dr.Grid((5, 6), 7.0, (1000.0, 2000.0)))
    assert np.array_equal(dr.warp(stack, pull=near @ far), dr.warp(stack, pull=near))
    with pytest.raises(NoOverlapError, match="all 2 displacement fields"):
        dr.warp(stack, pull=far @ far)


def test_vectors_that_change_under_a_warp_are_noticed(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "vectors.zarr", data=np.full((3, *PIXELS.shape), 0.1), chunks=(3, 4, 4, 4))
    field = opened(tmp_path)
    image = image_of((20, 43, 51))
    dr.warp(image, pull=field)
    array[:] = 40.0
    with pytest.raises(SourceChangedError, match="changed since they were first read"):
        dr.warp(image, pull=field)


@pytest.mark.parametrize("fill", [0, 1e6])
def test_cubic_voxels_of_blocks_do_not_depend_on_the_fill(fill: float) -> None:
    image = image_of((60, 70))
    nodes = dr.Grid((10, 11), 8.0, -5.0)
    field = dr.DisplacementField(smooth_vectors(nodes, 2), nodes)
    whole = dr.warp(image, pull=field, order=3, fill=fill)
    lazy = dr.warp(dr.open(image), pull=field, order=3, fill=fill, chunks=(17, 19)).values
    inner = (slice(28, 34), slice(28, 42))
    assert np.abs(lazy - whole)[inner].max() < 2e-6


def test_slices_are_warped_each_by_its_own_field() -> None:
    image = image_of((9, 40, 50), np.uint16)
    nodes = dr.Grid((7, 8), 7.0)
    vectors = smooth_vectors(nodes, 4, 9)
    affines = dr.SliceAffines([dr.Affine.translation(x=0.3 * k, y=-0.2 * k).matrix for k in range(9)])
    pull = dr.SliceDisplacements(vectors, nodes) @ affines
    whole = dr.warp(image, pull=pull)
    for k in (0, 4, 8):
        assert np.array_equal(whole[k], dr.warp(image[k], pull=dr.DisplacementField(vectors[k], nodes) @ affines[k]))
    lazy = dr.warp(dr.open(image), pull=pull, chunks=(2, 17, 50))
    assert np.array_equal(lazy.values, whole)
    flat = dr.DisplacementField(vectors[3], nodes)
    assert np.array_equal(dr.warp(image, pull=flat)[5], dr.warp(image[5], pull=flat))
    with pytest.raises(GridError):
        dr.warp(image, pull=flat, grid=dr.Grid((5, 40, 50), (2.0, 1, 1), (0.5, 0, 0)))


def test_union_holds_what_the_field_moves_out() -> None:
    image = image_of((40, 50)) + 1
    nodes = dr.Grid((6, 7), 10.0, -5.0)
    vectors = np.zeros((2, 6, 7))
    vectors[1] = 6.0  # the pull: content moves 6 px to the left
    field = dr.DisplacementField(vectors, nodes)
    union = dr.warp(dr.open(image), pull=field, grid="union")
    assert float(union.x[0]) == -6
    assert np.array_equal(union.values[:, :44], image[:, :44])
    inner = dr.warp(dr.open(image), pull=field, grid="intersection")
    assert inner.shape == (40, 50)
    assert float(inner.x[0]) == -6


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Any, np.ndarray, np.ndarray, Path]:
    """A volume and a field in stores, and both in memory."""
    image = image_of((24, 60, 70), np.uint16)
    zarr.create_array(tmp_path / "volume.zarr", data=image, chunks=(8, 32, 32))
    vectors = smooth_vectors(PIXELS, 3).astype(np.float32)
    zarr.create_array(tmp_path / "vectors.zarr", data=vectors, chunks=(3, 4, 4, 4))
    return dr.open(tmp_path / "volume.zarr"), image, vectors, tmp_path


def opened(folder: Path, vectors: np.ndarray | None = None) -> dr.DisplacementField:
    return dr.DisplacementField(zarr.open_array(folder / "vectors.zarr") if vectors is None else vectors, PIXELS)


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_corner_that_changes_redoes_that_corner(
    stored: tuple[Any, np.ndarray, np.ndarray, Path], in_memory: bool
) -> None:
    volume, image, vectors, folder = stored
    turn = dr.Affine.translation(x=1.5, y=0.5, z=0.25)
    field = opened(folder, vectors if in_memory else None) @ turn
    out = folder / "out.ome.zarr"
    written = dr.write(
        dr.warp(volume, pull=field), out, chunks=(8, 16, 16), shards=(8, 16, 16), levels=1, progress=False
    )
    assert np.array_equal(dr.open(out).values, dr.warp(image, pull=opened(folder, vectors) @ turn))
    changed = vectors.copy()
    changed[:, -3:, -2:, -3:] += 1.0
    if not in_memory:
        zarr.open_array(folder / "vectors.zarr")[:, -3:, -2:, -3:] += 1.0
    field = opened(folder, changed if in_memory else None) @ turn
    again = dr.write(
        dr.warp(volume, pull=field), out, chunks=(8, 16, 16), shards=(8, 16, 16), levels=1, progress=False,
        resume="changed",
    )  # fmt: skip
    assert 0 < again.blocks < written.blocks
    assert np.array_equal(dr.open(out).values, dr.warp(image, pull=opened(folder, changed) @ turn))


def test_vectors_that_are_not_finite_in_a_store_are_named(tmp_path: Path) -> None:
    vectors = np.zeros((3, *PIXELS.shape), np.float32)
    vectors[1, 3, 4, 5] = np.nan
    zarr.create_array(tmp_path / "vectors.zarr", data=vectors, chunks=(3, 4, 4, 4))
    field = opened(tmp_path)
    with pytest.raises(InvalidTransformError, match="vectors.zarr hold NaN or infinity"):
        dr.warp(np.zeros((20, 30, 40)), pull=field)


@pytest.mark.slow
def test_a_cluster_gives_the_local_voxels(stored: tuple[Any, np.ndarray, np.ndarray, Path]) -> None:
    volume, image, vectors, folder = stored
    field = opened(folder)
    with dr.connect("cluster/local.yaml" if Path("cluster/local.yaml").exists() else None):
        dr.write(dr.warp(volume, pull=field), folder / "out.ome.zarr", chunks=(8, 16, 16), progress=False)
    assert np.array_equal(dr.open(folder / "out.ome.zarr").values, dr.warp(image, pull=opened(folder, vectors)))
