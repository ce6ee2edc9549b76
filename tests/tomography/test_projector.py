"""The projector: its adjoint, its derivatives, ellipsoids in closed form, and ASTRA's projector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ellipsoids import Ellipsoids
from scipy.ndimage import gaussian_filter1d

import daskreg as dr
from daskreg.errors import InvalidTransformError, ShapeMismatchError, UnsupportedDTypeError
from daskreg.kernels import backproject, project, projection_matrices
from daskreg.tomography.projector import posed
from daskreg.tomography.projector.slices import SliceProjector
from daskreg.tomography.reprojection import Reprojection

RNG = np.random.default_rng(0)
ANGLES = RNG.uniform(-4, 4, 7)
VOLUME, DETECTOR = (7, 9, 12), (8, 13)
SCANS = {
    "slices": {},
    "shifted": {"shifts": RNG.normal(size=(7, 2))},
    "posed": {"shifts": RNG.normal(size=(7, 2)), "turn": 0.1, "magnification": 1.1},
    "laminography": {"turn": RNG.normal(size=7) * 0.1, "tilt": 0.5},
    "steep": {"tilt": 1.2},
}


def arrays(dtype):
    rng = np.random.default_rng(1)
    return (torch.tensor(rng.normal(size=s), dtype=dtype) for s in (VOLUME, (len(ANGLES), *DETECTOR)))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scan", SCANS)
def test_the_adjoint_is_exact(scan, dtype, error):
    matrices = projection_matrices(ANGLES, VOLUME, DETECTOR, **SCANS[scan])
    volume, seen = arrays(dtype)
    projected, back = project(volume, matrices, DETECTOR), backproject(seen, matrices, VOLUME)
    assert projected.dtype == back.dtype == dtype
    one, other = (projected.double() * seen.double()).sum(), (volume.double() * back.double()).sum()
    assert abs(one - other) <= error * projected.double().norm() * seen.double().norm()


@pytest.mark.parametrize("scan", SCANS)
def test_torch_alone_gives_the_same(scan, monkeypatch):
    """What is used on other devices and for other types."""
    matrices = projection_matrices(ANGLES, VOLUME, DETECTOR, **SCANS[scan])
    volume, seen = arrays(torch.float64)
    compiled = project(volume, matrices, DETECTOR), backproject(seen, matrices, VOLUME)
    monkeypatch.setattr(posed, "_compiled", lambda array: False)
    for one, other in zip(
        compiled, (project(volume, matrices, DETECTOR), backproject(seen, matrices, VOLUME)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert project(volume.half(), matrices, DETECTOR).dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize("function", ["project", "backproject"])
def test_gradients(function):
    """By the volume (or the projections), and by every parameter of the poses."""
    small, seen = (3, 4, 5), (4, 5)
    angles = torch.tensor([0.3, 1.2, 2.9], dtype=torch.float64, requires_grad=True)
    shifts = torch.full((3, 2), 0.21, dtype=torch.float64, requires_grad=True)
    rest = torch.tensor([0.1, 1.05, 0.2], dtype=torch.float64, requires_grad=True)
    array = torch.randn(small if function == "project" else (3, *seen), dtype=torch.float64, requires_grad=True)

    def run(array, angles, shifts, rest):
        matrices = projection_matrices(
            angles, small, seen, shifts=shifts, turn=rest[0], magnification=rest[1], tilt=rest[2]
        )
        return project(array, matrices, seen) if function == "project" else backproject(array, matrices, small)

    assert torch.autograd.gradcheck(run, (array, angles, shifts, rest))


def test_poses_are_those_of_transforms():
    """The pose of a projection is a 2D transform of what is seen without it, about the middle of the detector."""
    posed = projection_matrices(ANGLES, VOLUME, DETECTOR, shifts=[(0.7, -1.2)] * 7, turn=0.2, magnification=1.3).numpy()
    middle = (3.5, 6.0)
    pose = dr.Affine.from_parameters(theta=0.2, sy=1.3, sx=1.3, ty=0.7, tx=-1.2, centre=middle).matrix
    whole = np.tile(np.eye(3, 4)[[0, 1, 2]], (7, 1, 1))
    whole[:, :2] = projection_matrices(ANGLES, VOLUME, DETECTOR).numpy()
    whole[:, 2] = (0, 0, 0, 1)
    np.testing.assert_allclose(posed, (pose @ whole)[:, :2], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0.0, 0.06])
def test_ellipsoids(turn):
    """Exact line integrals, with shifts, a turn, and a detector of another shape."""
    body, angles = Ellipsoids(48), np.linspace(0.1, 6.2, 17)
    shifts = np.random.default_rng(3).uniform(-3, 3, (17, 2))
    exact = body.project(angles, (44, 53), shifts=shifts, turn=turn)
    volume = torch.tensor(body.volume((40, 48, 47)))
    matrices = projection_matrices(angles, volume.shape, (44, 53), shifts=shifts, turn=turn)
    off = project(volume, matrices, (44, 53)).numpy() - exact
    assert np.sqrt((off**2).mean()) < 0.03 * exact.std()


def test_slices_are_the_projector():
    angles = np.linspace(0, 6, 11)
    volume = RNG.normal(size=(5, 9, 12))
    slices = SliceProjector(angles, (9, 12), 14)
    expected = project(torch.tensor(volume), projection_matrices(angles, volume.shape, (5, 14)), (5, 14)).numpy()
    stacked = np.ascontiguousarray(volume.transpose(1, 2, 0))
    np.testing.assert_allclose(slices.project(stacked).transpose(0, 2, 1), expected, atol=1e-12)
    sums = RNG.normal(size=(11, 14, 5))
    assert (slices.project(stacked) * sums).sum() == pytest.approx(
        (slices.backproject(sums) * stacked).sum(), rel=1e-12
    )


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float64", 1e-12)])
def test_one_slice_is_as_one_of_several(dtype, error):
    """Also where the detector is narrower than the slice, and rays are along its axes and diagonals."""
    angles = np.arange(9) * np.pi / 4
    stacked, sums = RNG.normal(size=(9, 12, 2)).astype(dtype), RNG.normal(size=(9, 8, 2)).astype(dtype)
    slices = SliceProjector(angles, (9, 12), 8, centre=2.7)
    for function, values in ((slices.project, stacked), (slices.smear, sums)):
        both, one = function(values), function(values[..., :1])
        assert one.dtype == dtype
        np.testing.assert_allclose(one, both[..., :1], rtol=0, atol=error * np.abs(both).max())


@pytest.mark.parametrize("rows", [1, 18])
@pytest.mark.parametrize("spread", [0.0, 0.1], ids=["even", "uneven"])
def test_the_coupling_of_projections_is_that_of_their_reprojections(rows, spread):
    """Without slices, by the chords of rays: of each image with what each other, alone, shows in all projections."""
    rng = np.random.default_rng(2)
    angles = np.linspace(0.2, np.pi + 0.2, 21, endpoint=False) + rng.uniform(-spread, spread, 21)
    reproject = Reprojection(angles, 31, 15.6, iterated=False)
    images = gaussian_filter1d(rng.normal(size=(2, 21, 31, rows)), 2, axis=2).astype(np.float32)
    found = reproject.coupling(images[:1] if rows == 1 else images)
    expected = np.zeros_like(found)
    for a in range(21):
        for p in range(expected.shape[1]):
            alone = np.zeros_like(images[0])
            alone[a] = images[p, a]
            expected[:, :, a, p] = np.einsum("pauv,auv->ap", images[: len(expected[0])], reproject(alone))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
    apart = ~np.eye(21, dtype=bool)
    between, expected = (array.swapaxes(1, 2)[apart] for array in (found, expected))
    assert np.linalg.norm(between - expected) < 0.2 * np.linalg.norm(expected)


def test_astra_projects_the_same():
    """ASTRA's linear projector is Joseph's too; the rows of its images run upwards."""
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    angles, image = np.linspace(0, np.pi, 30, endpoint=False), RNG.normal(size=(20, 20)).astype(np.float32)
    geometry = astra.create_proj_geom("parallel", 1.0, 31, angles)
    number = astra.create_projector("linear", geometry, astra.create_vol_geom(20, 20))
    try:
        matrix = astra.matrix.get(astra.projector.matrix(number))
    finally:
        astra.projector.delete(number)
    theirs = (matrix @ image[::-1].ravel()).reshape(30, 31)
    ours = SliceProjector(angles, (20, 20), 31).project(image[..., None])[..., 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_what_cannot_be_projected():
    matrices = projection_matrices(ANGLES, VOLUME, DETECTOR)
    with pytest.raises(UnsupportedDTypeError, match="int32"):
        project(torch.zeros(VOLUME, dtype=torch.int32), matrices, DETECTOR)
    with pytest.raises(ShapeMismatchError, match=r"\(A, 2, 4\)"):
        project(torch.zeros(VOLUME), matrices[:, :, :3], DETECTOR)
    with pytest.raises(ShapeMismatchError, match="2 projections and 7 matrices"):
        backproject(torch.zeros(2, *DETECTOR), matrices, VOLUME)
    for volume in (np.zeros(VOLUME), np.zeros(VOLUME).tolist()):
        with pytest.raises(UnsupportedDTypeError, match=r"torch\.Tensor"):
            project(volume, matrices, DETECTOR)
    flat = matrices.clone()
    flat[2, 1] = flat[2, 0]
    with pytest.raises(InvalidTransformError, match="map 2"):
        project(torch.zeros(VOLUME), flat, DETECTOR)
    with pytest.raises(ShapeMismatchError, match=r"not \(A,\)"):
        projection_matrices(0.3, VOLUME, DETECTOR)


def test_a_ray_of_no_place_meets_nothing() -> None:
    """Its index would be that of no element: the process ended."""
    one = SliceProjector(np.array([0.0, 0.3]), (8, 8), 8, centre=float("nan"))
    assert not one.project(np.ones((8, 8, 1), np.float32)).any()
    assert not one.smear(np.ones((2, 8, 1), np.float32)).any()
