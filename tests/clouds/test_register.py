"""`icp` on the tutorial's cloud, on real clouds, from any initial pose, and where the motion is not determined."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

import daskreg as dr
from daskreg.clouds.register import CloudStatus
from daskreg.errors import (
    DaskregWarning,
    DegenerateImageError,
    FitFailedError,
    InvalidTransformError,
    OptionError,
    ShapeMismatchError,
    UnsupportedDTypeError,
)

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def degrees(a: Floats, b: Floats) -> float:
    """Angle between two rotations."""
    chord = np.linalg.norm(a @ b.T - np.eye(len(a))) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(min(1.0, chord))))


def about(axis: Floats, angle: float) -> Floats:
    """3D rotation by `angle` degrees."""
    return Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()


def tutorial(seed: int, rotation: Floats) -> tuple[Floats, Floats]:
    """A unit cube of points, and the same moved, with noise and rows in another order."""
    target = rng(seed).random((1000, 3))
    source = target @ rotation.T + [0.5, -0.2, 0.1] + 0.01 * rng(seed + 1000).normal(size=target.shape)
    return target, rng(seed).permutation(source)


@pytest.mark.parametrize("seed", range(2))
def test_the_tutorials_cloud_with_shuffled_rows(seed: int) -> None:
    rotation = about(np.array([0.0, 0, 1]), 45)
    fit = dr.icp(*tutorial(seed, rotation))
    assert degrees(fit.rotation, rotation.T) < 0.2
    np.testing.assert_allclose(fit.translation, -rotation.T @ [0.5, -0.2, 0.1], atol=0.005)
    assert fit.ok
    assert fit.fitness > 0.99
    assert fit.rmse == pytest.approx(0.0173, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_half_a_turn_about_any_axis(seed: int) -> None:
    rotation = about(rng(seed).normal(size=3), 180)
    fit = dr.icp(*tutorial(seed, rotation), init="global")
    assert degrees(fit.rotation, rotation.T) < 0.2
    assert fit.ok


@pytest.mark.parametrize("angle", [0, 7, 100, 180, 260])
@pytest.mark.parametrize("init", ["auto", "global"])
def test_two_dimensions_from_any_angle(angle: float, init: str) -> None:
    target = rng().random((300, 2)) * [2, 1]
    rotation = about(np.array([0.0, 0, 1]), angle)[:2, :2]
    source = rng(1).permutation((target + 0.003 * rng(2).normal(size=target.shape)) @ rotation + 3)
    fit = dr.icp(target, source, init=init)
    assert fit.ok
    assert degrees(fit.rotation, rotation) < 0.2


def test_partial_overlap_other_sizes_and_outliers() -> None:
    points = rng().random((1000, 3))
    rotation = about(np.array([1.0, 2, 3]), 75)
    source = np.r_[points[:700], rng(1).random((200, 3)) * 4 - 2] @ rotation
    fit = dr.icp(points[200:], source)
    assert degrees(fit.rotation, rotation) < 0.2
    assert 0.4 < fit.fitness < 0.7


@pytest.mark.parametrize("ndim", [2, 3])
def test_scale_on_request(ndim: int) -> None:
    points = rng().random((200, ndim))
    rotation = about(np.array([0.0, 0, 1]), 140)[:ndim, :ndim]
    fit = dr.icp(points, 0.4 * points @ rotation + 1, with_scale=True)
    assert fit.scale == pytest.approx(2.5)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(fit.target_from_source(0.4 * points @ rotation + 1), points, atol=1e-9)
    assert fit.covariance_names[-1] == "scale"
    assert dr.icp(points, points).scale == pytest.approx(1.0)


def test_init_may_be_a_transform_or_another_fit() -> None:
    target, source = tutorial(0, about(np.array([0.0, 0, 1]), 45))
    near = dr.Affine.rotation(rz=np.radians(-44)) @ dr.Affine.translation(z=-0.5, y=0.2, x=-0.1)
    first = dr.icp(target[:, ::-1], source[:, ::-1], init=near)  # x, y, z columns turned into z, y, x
    for init in (first, first.target_from_source, first.target_from_source.matrix):
        assert dr.icp(target[:, ::-1], source[:, ::-1], init=init).iterations <= 2
    assert first.ok
    lost = dr.icp(target, source, init="identity")
    assert not lost.ok  # 45 degrees are too far for the nearest points
    assert lost.status is CloudStatus.CHANCE


def test_an_init_that_is_no_rotation() -> None:
    target, source = tutorial(0, np.eye(3))
    near = np.eye(4)
    near[:3, 3] = -0.5, 0.2, -0.1
    near[:3, :3] = np.diag([1.1, 1.0, 1.05])
    fit = dr.icp(target, source, init=near)
    assert fit.ok
    np.testing.assert_allclose(fit.rotation @ fit.rotation.T, np.eye(3), atol=1e-12)
    assert fit.scale == pytest.approx(1.0, abs=1e-12)
    assert 0.99 < dr.icp(target, source, init=near, with_scale=True).scale < 1.01
    with pytest.raises(InvalidTransformError, match="mirrors"):
        dr.icp(target, source, init=np.diag([1.0, 1, -1, 1]))


def test_the_same_seed_gives_the_same_fit() -> None:
    target, source = tutorial(0, about(np.array([1.0, 0, 1]), 70))
    assert dr.icp(target, source, seed=4).target_from_source == dr.icp(target, source, seed=4).target_from_source


def test_arrays_on_a_cpu_need_no_torch() -> None:
    code = """
import sys
import numpy as np
import daskreg.clouds.register
assert "torch" not in sys.modules, "after the import"
import daskreg as dr
rng = np.random.default_rng(0)
flat = np.c_[rng.random((2000, 2)), np.zeros(2000)]
flat[:, 2] = 0.2 * np.sin(5 * flat[:, 0]) * np.cos(4 * flat[:, 1])
for points in (flat, rng.random((300, 3)), rng.random((300, 2))):
    for init in ("auto", "global", "identity"):
        assert dr.icp(points, points + 0.01, init=init).ok
assert "torch" not in sys.modules, "after icp"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_of_poses_that_fit_alike_the_smallest_motion_is_taken() -> None:
    corners = np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1], [0.5, 0], [0, 0.5], [-0.5, 0], [0, -0.5]])
    rotation = about(np.array([0.0, 0, 1]), 10)[:2, :2]
    fit = dr.icp(corners, corners @ rotation)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_as_few_points_as_dimensions(ndim: int) -> None:
    corners = np.diag(np.arange(1.0, ndim + 1))
    rotation = about(np.array([0.0, 0, 1]), 30)[:ndim, :ndim]
    fit = dr.icp(corners, corners[::-1] @ rotation + 5)
    # Two points may be exchanged by a half-turn.
    assert fit.status is (CloudStatus.CONVERGED if ndim == 3 else CloudStatus.AMBIGUOUS)
    np.testing.assert_allclose(fit.target_from_source(corners @ rotation + 5), corners, atol=1e-9)


def test_points_that_are_there_many_times() -> None:
    heap = np.r_[np.zeros((50, 3)), rng().random((10, 3))]
    assert dr.icp(heap, heap).ok
    doubled = np.repeat(rng().random((30, 3)), 2, axis=0)
    assert dr.icp(doubled, doubled + 2).ok


def sphere(count: int, seed: int) -> Floats:
    points = rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def shape(name: str, seed: int) -> Floats:
    u, v = rng(seed).random((2, 1000))
    noise = 0.003 * rng(seed + 50).normal(size=(1000, 3))
    if name == "line":
        return np.c_[u, 2 * u, -u] + 0.1 * noise
    if name == "plane":
        return np.c_[u, v, np.zeros(1000)] + noise
    if name == "circle":
        return np.c_[np.cos(7 * u), np.sin(7 * u)] + noise[:, :2]
    return sphere(1000, seed) + noise


@pytest.mark.parametrize("name", ["line", "plane", "sphere", "circle"])
@pytest.mark.parametrize("init", ["auto", "identity"])
def test_motions_that_the_shape_leaves_free_are_named(name: str, init: str) -> None:
    target, source = shape(name, 0), shape(name, 1)
    rotation = about(np.array([0.0, 0, 1]), 20)[: target.shape[1], : target.shape[1]]
    fit = dr.icp(target, source @ rotation, init=init)
    assert fit.status is CloudStatus.UNDETERMINED
    assert any("turn" in motion for motion in fit.free)
    with pytest.raises(FitFailedError, match=r"(?s)does not determine all motions .*turn"):
        fit.raise_if_failed()


def turning(name: str, count: int, seed: int) -> Floats:
    """Points of a body of revolution, with noise that hides what small neighbourhoods show."""
    u, v, w = rng(seed).random((3, count))
    c, s = np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)
    if name == "cone":
        points = np.c_[np.sqrt(v) * c, np.sqrt(v) * s, 2 * np.sqrt(v)]
    elif name == "can":
        end = w < 0.2
        points = np.c_[c, s, 4 * v] * np.where(end, np.sqrt(w / 0.2), 1)[:, None] ** [1, 1, 0]
        points[end, 2] = np.where(v[end] > 0.5, 4, 0)
    else:
        points = sphere(count, seed) * ([1.0, 0.6, 0.6] if name == "spheroid" else 1.0)
    return points + 0.02 * rng(seed + 50).normal(size=(count, 3))


@pytest.mark.parametrize("name", ["cone", "can", "sphere", "spheroid"])
@pytest.mark.parametrize("count", [1000, 3000, 20_000])
@pytest.mark.parametrize("init", ["auto", "identity"])
def test_noise_does_not_determine_free_turns(name: str, count: int, init: str) -> None:
    rotation = about(np.array([1.0, 2, 3]), 5 if init == "identity" else 65)
    fit = dr.icp(turning(name, count, 1), turning(name, count, 71) @ rotation, init=init)
    assert fit.status is CloudStatus.UNDETERMINED


@pytest.mark.parametrize("partners", [True, False])
def test_the_covariance_of_surfaces(partners: bool) -> None:
    rotation = about(np.array([1.0, 2, 3]), 4)
    off, said = [], []
    for seed in range(25):
        if partners:
            clean = surface(3000, 5)
            target, source = clean, clean + 0.004 * rng(seed).normal(size=clean.shape)
        else:
            target, source = surface(2000, seed), surface(3000, seed + 100)
        fit = dr.icp(target, source @ rotation, init="identity")
        turn = Rotation.from_matrix(fit.rotation @ rotation.T).as_rotvec()
        middle = target.mean(axis=0)
        off.append([*turn, *(fit.target_from_source(middle[None] @ rotation)[0] - middle)])
        said.append(np.diag(fit.covariance))
    ratio = np.sqrt(np.mean(np.square(off), axis=0) / np.mean(said, axis=0))
    assert (ratio > 0.5).all()
    assert (ratio < 2.0).all(), ratio


def test_unrelated_clouds_are_no_success() -> None:
    fit = dr.icp(rng(0).random((800, 3)), rng(1).random((800, 3)))
    assert fit.status is CloudStatus.CHANCE


def test_other_statuses() -> None:
    target, source = tutorial(0, np.eye(3))
    assert dr.icp(target, source, init="identity", max_distance=0.01).status is CloudStatus.LOW_OVERLAP
    assert dr.icp(target, target + 0.02, init="identity", max_iterations=1).status is CloudStatus.UNSETTLED
    assert dr.icp(target, source, init="identity").raise_if_failed().ok
    nowhere = dr.icp(target, source + 50, init="identity", max_distance=1.0)
    assert nowhere.status is CloudStatus.LOW_OVERLAP
    assert nowhere.fitness == 0


def test_rows_that_are_not_finite_are_dropped_with_a_warning() -> None:
    target, source = tutorial(0, np.eye(3))
    source[[3, 7], 1] = np.nan, np.inf
    with pytest.warns(DaskregWarning, match="2 of 1000 points of the source"):
        assert dr.icp(target, source, init="identity").ok


@pytest.mark.parametrize(
    ("target", "source", "error", "says"),
    [
        (np.zeros((5, 3)), np.ones((5, 3)), DegenerateImageError, "target are at one place"),
        (np.eye(3), np.eye(3)[:2], DegenerateImageError, "source has 2 points"),
        (np.zeros((0, 2)), np.eye(2), DegenerateImageError, "target has 0 points"),
        (np.eye(3), np.eye(2), ShapeMismatchError, "target is 3D and the source 2D"),
        (np.eye(4), np.eye(4), ShapeMismatchError, r"\(4, 4\)"),
        (np.arange(5.0), np.eye(2), ShapeMismatchError, r"\(5,\)"),
        (np.eye(3) * 1e300, np.eye(3), DegenerateImageError, r"target reaches to 1e\+300"),
        (np.eye(3), np.eye(3) * 1e-200, DegenerateImageError, "source reaches to 1e-200"),
        (np.eye(3) * 1j, np.eye(3), UnsupportedDTypeError, "complex"),
    ],
)
def test_bad_points(target: Floats, source: Floats, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        dr.icp(target, source)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "fast"},
        {"init": "best"},
        {"trim": 1.0},
        {"max_distance": 0.0},
        {"max_distance": "far"},
        {"device": "tpu"},
    ],
)
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        dr.icp(np.eye(3), np.eye(3), **options)
    with pytest.raises(InvalidTransformError):
        dr.icp(np.eye(3), np.eye(3), init=dr.Affine.identity(2))


def test_a_volume_so_dense_that_only_its_outline_shows_the_motion() -> None:
    rng = np.random.default_rng(0)
    target = rng.random((100_000, 3))
    motion = dr.Affine.from_parameters({"rx": 0.2, "rz": 0.4}, ndim=3).linear
    source = rng.permutation(target @ motion.T + [0.5, -0.2, 0.1] + 0.002 * rng.normal(size=target.shape))
    fit = dr.icp(target, source).raise_if_failed()
    np.testing.assert_allclose(fit.rotation @ motion, np.eye(3), atol=2e-4)


def test_saved_reported_and_drawn(tmp_path: Path) -> None:
    fit = dr.icp(*tutorial(0, np.eye(3)), init="identity")
    fit.save(tmp_path / "fit.json")
    entry = json.loads((tmp_path / "fit.json").read_text())
    assert (entry["schema"], entry["status"]) == ("daskreg/fit", "converged")
    assert dr.load(tmp_path / "fit.json") == fit.target_from_source
    page = fit.report(tmp_path / "fit.html")
    assert "converged" in Path(page).read_text()
    assert fit.plot().axes
    fit.save(tmp_path / "fit.tfm")
    np.testing.assert_allclose(dr.load(tmp_path / "fit.tfm").matrix, fit.target_from_source.matrix, atol=1e-9)
    assert repr(fit).startswith("CloudFit(converged: rmse 0.01692, fitness 100%")


# Real clouds


def ply(path: Path) -> Floats:
    """x, y, z of a binary PLY of four float32 columns."""
    content = path.read_bytes()
    start = content.index(b"end_header\n") + 11
    return np.frombuffer(content[start:], "<f4").reshape(-1, 4)[:, :3].astype(np.float64)


def table(path: Path) -> Floats:
    rows = [re.split(r"[,\s]+", line.strip()) for line in path.read_text().splitlines() if line.strip()]
    return np.array([row[:3] for row in rows if row[0] != "x"], dtype=np.float64)


def test_lidar_scans_meet_their_stated_pose(data: Path) -> None:
    folder = data / "points/lidar/data"
    stated = np.loadtxt(folder / "T_target_source.txt")
    fit = dr.icp(ply(folder / "target.ply"), ply(folder / "source.ply"))
    assert fit.ok
    assert fit.method == "generalized"
    assert degrees(fit.rotation, stated[:3, :3]) < 0.1
    assert np.linalg.norm(fit.translation - stated[:3, 3]) < 0.05


@pytest.mark.parametrize("init", ["auto", "global"])
def test_car_scans_meet_their_stated_pose(data: Path, init: str) -> None:
    folder = data / "points/car"
    row = (folder / "carCloudList.csv").read_text().splitlines()[2].split(",")
    stated = np.array(row[1:], dtype=np.float64).reshape(4, 4)
    fit = dr.icp(table(folder / "car_cloud400.csv"), table(folder / "car_cloud401.csv"), init=init)
    assert fit.ok
    assert degrees(fit.rotation, stated[:3, :3]) < 0.2
    assert np.linalg.norm(fit.translation - stated[:3, 3]) < 0.1


@pytest.mark.parametrize("method", ["auto", "point_to_point", "point_to_plane"])
def test_the_bunny_is_exact(data: Path, method: str) -> None:
    folder = data / "points/pycpd/data"
    target, source = (np.loadtxt(folder / f"bunny_{name}.txt") for name in ("target", "source"))
    fit = dr.icp(target, source, method=method)
    np.testing.assert_allclose(fit.target_from_source(source), target, atol=1e-6)
    np.testing.assert_allclose(fit.target_from_source.matrix, dr.Affine.translation(x=-1, y=-1, z=-1).matrix, atol=2e-6)


def test_the_itk_circle_is_exact(data: Path) -> None:
    folder = data / "points/itk_icp"
    fixed, moving = (np.loadtxt(folder / f"IterativeClosestPoint{name}Points.txt") for name in ("Fixed", "Moving"))
    fit = dr.icp(fixed, moving)
    np.testing.assert_allclose(fit.target_from_source.matrix, [[1, 0, -2], [0, 1, -2], [0, 0, 1]], atol=1e-9)


# Surfaces without common points


def surface(count: int, seed: int, *, overlap: float = 1.0, side: int = 1) -> Floats:
    """Noisy points of a bumpy ellipsoid, cut so that the share `overlap` of either side's points has a counterpart."""
    points = sphere(count, seed)
    bumps = 1 + 0.2 * np.sin(3 * points[:, :1]) + 0.15 * np.cos(4 * points[:, 1:2] + 1)
    points = points * bumps * [1.0, 0.8, 0.6] + 0.01 * rng(seed + 9).normal(size=points.shape)
    height = side * points @ [1.0, 0.5, 0.2]
    return points[height <= np.quantile(height, 1 / (2 - overlap))]


@pytest.mark.parametrize("cloud", ["surface", "volume"])
@pytest.mark.parametrize("apart", [False, True])
def test_far_from_the_origin(cloud: str, apart: bool) -> None:
    """Like coordinates of maps."""
    away, rotation = np.array([5e6, 4e5, 0.0]), about(np.array([1.0, 2, 3]), 140)
    target, source = (
        (surface(3000, 0), surface(2500, 1))
        if cloud == "surface"
        else ((points := rng().random((600, 3))), rng(2).permutation(points + 0.003 * rng(1).normal(size=points.shape)))
    )
    source = source @ rotation + (0 if apart else away)
    fit = dr.icp(target + away, source, init="global")
    assert fit.ok, fit
    assert degrees(fit.rotation, rotation) < 0.4
    near = dr.icp(target + away, fit.target_from_source(source), init="identity")
    assert near.ok
    np.testing.assert_allclose(near.rotation, np.eye(3), atol=2e-3)
    assert degrees(dr.icp(target + away, source, init=fit).rotation, rotation) < 0.4


def test_a_wire_far_from_every_initial_pose() -> None:
    def helix(seed: int) -> Floats:
        turn = 6 * np.pi * rng(seed).random(3000)
        return np.c_[np.cos(turn), np.sin(turn), turn / 8] + 0.003 * rng(seed + 50).normal(size=(3000, 3))

    fit = dr.icp(helix(0), helix(1) @ about(np.array([1.0, 2, 3]), 65))
    assert fit.status is CloudStatus.UNDETERMINED


def test_correspondences_that_change_for_ever_count_as_converged() -> None:
    rotation = about(np.array([1.0, 2, 3]), 5)
    for seed in range(40):
        fit = dr.icp(surface(300, seed), surface(300, seed + 500) @ rotation, init="identity")
        assert fit.status is not CloudStatus.UNSETTLED


@pytest.mark.parametrize("angle", [15, 90, 180])
def test_surfaces_that_overlap_in_part_from_any_initial_pose(angle: float) -> None:
    rotation = about(rng(angle).normal(size=3), angle)
    target, source = surface(5000, 0, overlap=0.7), surface(4000, 1, overlap=0.7, side=-1)
    fit = dr.icp(target, source @ rotation + 3)
    assert fit.ok, fit
    assert fit.method == "generalized"
    assert degrees(fit.rotation, rotation) < 0.7
    assert 0.6 < fit.fitness < 0.9


def test_a_mesh_sampled_twice(data: Path) -> None:
    lines = (data / "points/mesh/fandisk.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], dtype=np.float64)
    vertices /= np.linalg.norm(np.ptp(vertices, axis=0)) / 2
    words = [line.split()[1:4] for line in lines if line.startswith("f ")]
    corners = vertices[np.array([[int(w.split("/")[0]) - 1 for w in row] for row in words])]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)

    def sample(seed: int, side: int) -> Floats:
        generator = rng(seed)
        shares = generator.dirichlet([1, 1, 1], 6000)
        points = np.einsum("nk,nkd->nd", shares, corners[generator.choice(len(area), 6000, p=area / area.sum())])
        height = side * points @ [0.3, 1.0, 0.2]
        points = points[height <= np.quantile(height, 1 / 1.3)]
        return points + 0.01 * generator.normal(size=points.shape)

    rotation = about(np.array([1.0, -2, 0.5]), 150)
    fit = dr.icp(sample(0, 1), (sample(1, -1) - 2) @ rotation, init="global")
    assert fit.ok, fit
    assert degrees(fit.rotation, rotation) < 0.5
    np.testing.assert_allclose(fit.translation, 2, atol=0.02)


def test_a_wrong_pose_with_near_points_is_no_success() -> None:
    target, source = surface(3000, 0), surface(3000, 1)
    for axis in np.eye(3):
        fit = dr.icp(target, source @ about(axis, 180), init="identity")
        assert degrees(fit.rotation, about(axis, 180)) > 90
        assert fit.status is CloudStatus.MISFIT


SAME = ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])


def test_a_symmetric_body_without_an_initial_pose() -> None:
    def body(seed: int) -> Floats:
        return sphere(3000, seed) * [1.0, 0.6, 0.35]

    rotation = about(np.array([1.0, 2, 0]), 130)
    fit = dr.icp(body(0), body(1) @ rotation, init="global")
    assert fit.status is CloudStatus.AMBIGUOUS
    poses = [fit.rotation, *(rival.linear for rival in fit.rivals)]
    assert len(poses) > 1
    assert all(min(degrees(pose, np.diag(s) @ rotation) for s in SAME) < 2 for pose in poses)
    turned = body(1) @ about(np.array([0.0, 0, 1]), 5)
    assert dr.icp(body(0), turned).status is CloudStatus.AMBIGUOUS
    near = dr.icp(body(0), turned, init="identity")
    assert near.ok
    assert degrees(near.rotation, about(np.array([0.0, 0, 1]), 5)) < 2


@pytest.mark.parametrize("with_scale", [False, True])
def test_surfaces_of_two_sizes(with_scale: bool) -> None:
    rotation, size = about(np.array([1.0, 1, 0]), 100), 3.0 if with_scale else 1.0
    fit = dr.icp(surface(4000, 0), size * surface(3000, 1) @ rotation, with_scale=with_scale, init="global")
    assert fit.ok, fit
    assert fit.scale == pytest.approx(1 / size, rel=0.01)
    assert degrees(fit.rotation, rotation) < 0.7


@pytest.mark.parametrize("count", [600, 3000])
@pytest.mark.parametrize("init", ["auto", "global"])
def test_curves_that_are_sampled_at_random(count: int, init: str) -> None:
    """Gaps along a curve are wide, and are no sign of a wrong pose."""

    def curve(seed: int) -> Floats:
        turn = 2 * np.pi * rng(seed).random(count)
        out = 1 + 0.25 * np.sin(2 * turn + 1) + 0.15 * np.cos(3 * turn) + 0.05 * np.sin(5 * turn)
        return np.c_[np.cos(turn), np.sin(turn)] * out[:, None]

    for seed in range(4):
        rotation = about(np.array([0.0, 0, 1]), 40 + 70 * seed)[:2, :2]
        fit = dr.icp(curve(seed), curve(seed + 50) @ rotation + 1, init=init)
        assert fit.ok, fit
        assert degrees(fit.rotation, rotation) < 0.5


def test_a_fit_of_images_is_an_initial_pose_in_the_right_direction() -> None:
    """Images give moving from fixed, clouds target from source: with the fixed image as the target, its inverse."""
    smooth = gaussian_filter(rng(3).normal(size=(160, 160)), 3)
    fit = dr.register(smooth[20:140, 20:140], smooth[5:125, 10:130], model="translation")
    fixed = rng(4).uniform(20, 100, (60, 2))
    moving = fit.moving_from_fixed(fixed)
    found = dr.icp(fixed, moving, init=fit, max_iterations=1)
    np.testing.assert_allclose(fit.moving_from_fixed.offset, [15, 10], atol=0.1)
    np.testing.assert_allclose(found.translation, [-15, -10], atol=0.1)
