"""`icp` of shapes that do not determine the motion: free shifts, symmetries, and points that determine nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

import daskreg as dr
from daskreg.clouds import register
from daskreg.clouds.fit import CloudStatus
from daskreg.clouds.icp import generators
from daskreg.errors import DegenerateImageError, OptionError

pytestmark = pytest.mark.slow
Floats = NDArray[np.float64]


def rotation(angle: float, seed: int) -> Floats:
    axis = np.random.default_rng(seed).normal(size=3)
    return Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()


def degrees(found: Floats, true: Floats) -> float:
    chord = np.linalg.norm(found - true) / np.sqrt(8)
    return float(np.degrees(2 * np.arcsin(min(1.0, chord))))


def outline(corners: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points on a closed polygon (K, 2)."""
    ends = np.roll(corners, -1, axis=0)
    length = np.linalg.norm(ends - corners, axis=1)
    side = rng.choice(len(corners), count, p=length / length.sum())
    u = rng.random(count)[:, None]
    return np.asarray((1 - u) * corners[side] + u * ends[side])


def polygon(count: int, radius: float = 1.0) -> Floats:
    angle = 2 * np.pi * np.arange(count) / count
    return np.asarray(radius * np.c_[np.cos(angle), np.sin(angle)])


def on_hull(corners: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points on the surface of a convex body."""
    triangles = corners[ConvexHull(corners).simplices]
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1)
    shares = rng.dirichlet([1, 1, 1], count)
    return np.einsum("nk,nkd->nd", shares, triangles[rng.choice(len(area), count, p=area / area.sum())])


GUTTER = np.array([[-2, 1.2], [-1, 0], [1, 0], [2, 1.2], [1.7, 1.4], [0.8, 0.3], [-0.8, 0.3], [-1.7, 1.4]])
TEE = np.array([[-1.5, 1], [-1.5, 0.5], [-0.3, 0.5], [-0.3, -1.5], [0.3, -1.5], [0.3, 0.5], [1.5, 0.5], [1.5, 1]])


def gallery(profile: Floats, seed: int, walked: float, bulges: int = 0) -> Floats:
    """What a scanner sees of a long extrusion, from where it is; with bulges, which determine the shift."""
    rng = np.random.default_rng(seed)
    points = np.c_[outline(profile, 24_000, rng), rng.uniform(-30, 30, 24_000)]
    where = np.random.default_rng(5).uniform(-30, 30, bulges)
    for post in where:
        points[:, :2] *= 1 + 0.4 * np.exp(-(((points[:, 2:] - post) / 0.8) ** 2))
    seen = points[np.abs(points[:, 2] - walked) < 8] - (0, 0, walked)
    return np.asarray(seen + 0.015 * rng.normal(size=seen.shape))


@pytest.mark.parametrize(
    ("profile", "init", "walked"),
    [(GUTTER, "identity", 0.5), (GUTTER, "auto", 5.0), (TEE, "auto", 2.0), (polygon(6, 2.0), "auto", 5.0)],
    ids=["gutter, identity", "gutter", "tee", "hexagon"],
)
def test_the_shift_along_an_extrusion_is_free(profile: Floats, init: str, walked: float) -> None:
    turn = rotation(2, 3)
    fit = dr.icp(gallery(profile, 0, 0.0), gallery(profile, 1, walked) @ turn, init=init)
    assert fit.status is CloudStatus.UNDETERMINED, fit
    assert fit.free == ("shift along z",)
    assert fit.sigma["tz"] > 3
    assert fit.sigma["tx"] < 1


def test_the_free_shift_is_named_by_the_columns() -> None:
    target, source = gallery(TEE, 0, 0.0), gallery(TEE, 1, 1.0)
    assert dr.icp(target[:, [2, 0, 1]], source[:, [2, 0, 1]], init="identity").free == ("shift along x",)
    assert dr.icp(target[:, ::-1], source[:, ::-1], init="identity", axes="zyx").free == ("shift along z",)


def test_bulges_along_an_extrusion_determine_the_shift() -> None:
    for seed in range(2):
        target, source = gallery(TEE, seed, 0.0, bulges=9), gallery(TEE, seed + 50, 0.3, bulges=9)
        fit = dr.icp(target, source, init="identity")
        assert fit.ok, fit
        assert fit.translation[2] == pytest.approx(0.3, abs=0.05)


BIPYRAMID = np.r_[np.c_[polygon(5), np.zeros(5)], [[0, 0, 0.8], [0, 0, -0.8]]]
PYRAMID = np.r_[np.c_[polygon(3), np.zeros(3)], [[0, 0, 1.5]]]


@pytest.mark.parametrize("corners", [BIPYRAMID, PYRAMID], ids=["bipyramid", "pyramid"])
@pytest.mark.parametrize(("init", "angle"), [("auto", 4), ("global", 110)])
def test_symmetric_bodies_are_ambiguous(corners: Floats, init: str, angle: float) -> None:
    rng = np.random.default_rng(round(angle))
    target, source = (on_hull(corners, n, rng) + 0.004 * rng.normal(size=(n, 3)) for n in (4000, 3000))
    turn = rotation(angle, 8)
    fit = dr.icp(target, source @ turn, init=init)
    assert fit.status is CloudStatus.AMBIGUOUS, fit
    for rival in fit.rivals:  # each rival fits as well
        distance = np.linalg.norm(rival(source @ turn)[:, None] - target[None, ::8], axis=2).min(axis=1)
        assert np.median(distance) < 0.1
    if angle < 10:
        near = dr.icp(target, source @ turn, init="identity")
        assert near.ok
        assert degrees(near.rotation, turn) < 1


@pytest.mark.parametrize("init", ["auto", "global"])
def test_a_symmetric_body_that_was_seen_in_part_is_ambiguous(init: str) -> None:
    rng = np.random.default_rng(2)
    target, source = (on_hull(BIPYRAMID, n, rng) + 0.004 * rng.normal(size=(n, 3)) for n in (4500, 3500))
    away = np.array([0.9, 0.2, 0.4])
    target, source = target[target @ away < 0.6], source[source @ away > -0.6]
    assert dr.icp(target, source @ rotation(70, 1), init=init).status is CloudStatus.AMBIGUOUS


@pytest.mark.parametrize("seed", [0, 7])
def test_half_turns_of_a_box_are_found_among_its_near_symmetries(seed: int) -> None:
    """Of sides that differ by a few noise levels, quarter turns are near symmetries, more than half-turns are true."""
    corners = np.stack(np.meshgrid(*[(-a, a) for a in (0.62, 0.6, 0.645)]), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(seed)
    target, source = (on_hull(corners, n, rng) + 0.02 * rng.normal(size=(n, 3)) for n in (5000, 4000))
    assert dr.icp(target, source @ rotation(75, seed)).status is CloudStatus.AMBIGUOUS


@pytest.mark.parametrize(("init", "angle"), [("auto", 4), ("auto", 110), ("global", 110)])
def test_a_body_without_a_symmetry_is_no_ambiguity(init: str, angle: float) -> None:
    rng = np.random.default_rng(3)
    bump = 0.35 * np.array([[1, 1, 0], [0, 1, 0.5], [0.3, 0, 1]])
    corners = np.r_[BIPYRAMID, 1.9 * bump]
    target, source = (on_hull(corners, n, rng) + 0.004 * rng.normal(size=(n, 3)) for n in (4000, 3000))
    turn = rotation(angle, 8)
    fit = dr.icp(target, source @ turn, init=init)
    assert fit.ok, fit
    assert degrees(fit.rotation, turn) < 1


@pytest.mark.parametrize("corners", [polygon(7), polygon(4) * (1.0, 0.5)], ids=["heptagon", "rhombus"])
@pytest.mark.parametrize(("init", "count"), [("auto", 350), ("auto", 2000), ("global", 2000)])
def test_symmetric_outlines_are_ambiguous(corners: Floats, init: str, count: int) -> None:
    rng = np.random.default_rng(4)
    target, source = (outline(corners, n, rng) + 0.005 * rng.normal(size=(n, 2)) for n in (count, count - 60))
    turn = Rotation.from_euler("z", 25, degrees=True).as_matrix()[:2, :2]
    assert dr.icp(target, source @ turn, init=init).status is CloudStatus.AMBIGUOUS


def test_a_crystal_is_ambiguous() -> None:
    rng = np.random.default_rng(6)
    atoms = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), np.arange(2.0)), axis=-1).reshape(-1, 3)
    fit = dr.icp(atoms, rng.permutation(atoms + 0.02 * rng.normal(size=atoms.shape)) @ rotation(6, 1))
    assert fit.status is CloudStatus.AMBIGUOUS


def bumpy(count: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    bumps = 1 + 0.2 * np.sin(3 * points[:, :1]) + 0.15 * np.cos(4 * points[:, 1:2] + 1)
    return np.asarray(points * bumps * (1.0, 0.8, 0.6) + 0.01 * rng.normal(size=points.shape))


def test_names_follow_the_columns(tmp_path: Path) -> None:
    motion = dr.Affine.from_parameters({"rx": 0.3, "ry": -0.2, "rz": 0.5, "tx": 0.4, "ty": -0.1, "tz": 0.2}, ndim=3)
    matrix = np.eye(4)  # columns x, y, z
    matrix[:3, :3], matrix[:3, 3] = motion.linear[::-1, ::-1], motion.offset[::-1]
    points = bumpy(3000, 0)
    source = np.random.default_rng(1).permutation((points - matrix[:3, 3]) @ matrix[:3, :3])
    fit = dr.icp(points, source)
    assert fit.target_from_source.axes == ("x", "y", "z")
    assert fit.covariance_names == (*(f"turn about {n}" for n in "xyz"), *(f"shift along {n}" for n in "xyz"))
    found = fit.target_from_source.decompose()
    assert found == pytest.approx(motion.decompose(), abs=1e-6)
    assert "tx 0.4, ty -0.1, tz 0.2" in repr(fit)
    other = dr.icp(points[:, ::-1], source[:, ::-1], axes="zyx")
    assert other.covariance_names[3:] == ("shift along z", "shift along y", "shift along x")
    assert other.target_from_source.decompose() == pytest.approx(found, abs=1e-6)
    for one in (fit, other):
        labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in one.plot().axes[:2]]
        assert labels == [("x", "y"), ("x", "z")]
    drawn = [one.plot().axes[0].lines[0].get_xdata() for one in (fit, other)]
    np.testing.assert_allclose(*drawn)
    fit.save(tmp_path / "fit.json")
    loaded = dr.load(tmp_path / "fit.json")
    assert loaded == fit.target_from_source
    np.testing.assert_array_equal(loaded(source), fit.target_from_source(source))
    assert loaded.describe() == fit.target_from_source.describe()


def test_the_report_shows_the_motion(tmp_path: Path) -> None:
    turn = Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix()
    fit = dr.icp(bumpy(3000, 0), (bumpy(2500, 1) - (0.5, 0.2, -0.1)) @ turn)
    page = Path(fit.report(tmp_path / "fit.html")).read_text()
    (entry,) = json.loads((tmp_path / "fit.report.json").read_text())["entries"]
    angles = [np.degrees(entry["parameters"][name]) for name in ("rx", "ry", "rz")]
    np.testing.assert_allclose(angles, [10, -20, 30], atol=0.5)
    shift = fit.target_from_source(fit.centre) - fit.centre
    np.testing.assert_allclose([entry["parameters"][f"t{axis}"] for axis in entry["axes"]], shift, atol=1e-9)
    assert set(entry["sigma"]) == set(entry["parameters"])
    shown = page.partition("Rotation about z</th><td>")[2].partition(" ")[0]
    assert abs(float(shown) - angles[2]) < 0.05, "to the digits that its error allows"


def test_the_sigma_of_angles_is_that_of_the_turn() -> None:
    """The angles of motions that are drawn from the covariance scatter as `sigma` says."""
    fit = dr.icp(bumpy(3000, 0), bumpy(2500, 1) @ rotation(50, 2))
    draws = np.random.default_rng(0).multivariate_normal(np.zeros(6), fit.covariance, size=1500)
    centre = fit.target_from_source(fit.centre)
    values = []
    for draw in draws:
        m = np.eye(4)
        m[:3, :3] = Rotation.from_rotvec(draw[:3]).as_matrix()
        m[:3, 3] = centre + draw[3:] - m[:3, :3] @ centre
        values.append((dr.Affine(m) @ fit.target_from_source).decompose(fit.centre))
    for name, sigma in fit.sigma.items():
        assert np.std([v[name] for v in values]) == pytest.approx(sigma, rel=0.1)
    assert generators(3).shape == (6, 3, 4)


def wavy_outline(count: int, rng: np.random.Generator) -> Floats:
    angle = 2 * np.pi * rng.random(count)
    radius = 1 + 0.25 * np.cos(2 * angle + 0.4) + 0.15 * np.sin(3 * angle) + 0.1 * np.cos(angle)
    return np.asarray(radius[:, None] * np.c_[np.cos(angle), np.sin(angle)])


def test_the_sigma_of_noisy_curves_and_surfaces_is_that_of_the_errors() -> None:
    """Also where noise is as large as the spacing, and nearest points are those whose noise is alike."""
    for ndim, count in ((2, 700), (3, 2000)):
        ratios = []
        for seed in range(24):
            rng = np.random.default_rng(seed)
            clouds = [bumpy(n, 100 * seed + n) if ndim == 3 else wavy_outline(n, rng) for n in (count, count - 90)]
            target, source = (cloud + 0.01 * (ndim == 2) * rng.normal(size=cloud.shape) for cloud in clouds)
            fit = dr.icp(target, source, init="identity")
            # The true motion is none.
            ratios += [value / fit.sigma[name] for name, value in fit.parameters.items()]
        assert 0.65 < np.sqrt(np.mean(np.square(ratios))) < 1.5, ndim


def test_axes_that_are_no_names() -> None:
    for axes in ("xy", ("x", "y", "y"), "abc"):
        with pytest.raises(OptionError, match="axes="):
            dr.icp(np.eye(3), np.eye(3), axes=axes)


def heap(seed: int) -> Floats:
    """Most points at one place."""
    points = np.random.default_rng(seed).random((300, 3))
    points[:270] = points[0]
    return points


@pytest.mark.parametrize("init", ["auto", "identity"])
@pytest.mark.parametrize("with_scale", [False, True])
def test_points_that_determine_nothing_have_a_status(init: str, *, with_scale: bool) -> None:
    rng = np.random.default_rng(0)
    line = np.outer(rng.random(80), [1.0, 2.0, 0.5])
    for target, source in [(heap(1), line), (line, heap(2)), (line, np.eye(3)), (np.eye(3), heap(3))]:
        try:
            fit = dr.icp(target, source, init=init, with_scale=with_scale)
        except DegenerateImageError:  # with a scale, all points are drawn to one
            assert with_scale
        else:
            assert np.isfinite(fit.target_from_source.matrix).all()
            assert fit.to_dict()["status"]


def test_an_error_of_the_linear_algebra_has_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(register, "refine_coarse_to_fine", fails)
    with pytest.raises(DegenerateImageError, match="determine no motion"):
        dr.icp(np.eye(3), np.eye(3), init="identity")
