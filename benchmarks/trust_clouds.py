"""Cases of the confusion table for point clouds: real scans and meshes, bodies, curves and extrusions.

A pose is right where the points of the source are, root mean square, within 4 % of the radius of the source of where
the true motion brings them. Unrelated clouds have no right pose. Bodies with symmetries and extrusions do not
determine theirs, so to refuse these is right.

The real data are those that `DASKREG_DATA` names; without it, only synthetic clouds are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation
from trust_case import Case, Outcome

import daskreg as dr
from daskreg.formats.points import read_points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Shape = Callable[[int, np.random.Generator], Floats]
"""So many points of a shape of about unit size."""

_TOLERANCE = 0.04


# Shapes


def on_triangles(corners: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points evenly spread over (T, 3, 3) triangles."""
    a, b, c = corners.swapaxes(0, 1)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    return np.asarray((1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen])


def on_outline(corners: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points evenly spread over the closed outline of (K, 2) corners."""
    ends = np.roll(corners, -1, axis=0)
    length = np.linalg.norm(ends - corners, axis=1)
    chosen = rng.choice(len(length), count, p=length / length.sum())
    u = rng.random(count)[:, None]
    return np.asarray((1 - u) * corners[chosen] + u * ends[chosen])


def ring(radii: list[float]) -> Floats:
    """Corners of a polygon at these radii, at equal angles: a regular polygon, a star, a gear."""
    angle = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.asarray(np.array(radii)[:, None] * np.c_[np.cos(angle), np.sin(angle)])


def prism(corners: Floats, half: float, *, ends: bool = True) -> Shape:
    """An extrusion of a polygon that all of its centre sees, from -half to half, with or without its two ends."""
    low, high = (np.c_[corners, np.full(len(corners), h)] for h in (-half, half))
    walls = [[low[i], low[i - 1], high[i]] for i in range(len(low))]
    walls += [[low[i - 1], high[i - 1], high[i]] for i in range(len(low))]
    caps = [[np.array([0, 0, side[0, 2]]), side[i - 1], side[i]] for side in (low, high) for i in range(len(low))]
    return partial(on_triangles, np.array(walls + caps if ends else walls))


def hull(points: Floats) -> Shape:
    return partial(on_triangles, points[ConvexHull(points).simplices])


def ball(count: int, rng: np.random.Generator) -> Floats:
    points = rng.normal(size=(count, 3))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def ellipsoid(axes: tuple[float, float, float]) -> Shape:
    return lambda count, rng: ball(count, rng) * axes


def filled_box(sides: tuple[float, ...]) -> Shape:
    return lambda count, rng: (rng.random((count, len(sides))) - 0.5) * sides


def gear(teeth: int) -> Floats:
    return ring([1.0, 1.0, 0.75, 0.75] * teeth)


def rock(count: int, rng: np.random.Generator, *, seed: int) -> Floats:
    """A ball with bumps at random, without symmetry."""
    shape = np.random.default_rng(seed)
    where, radius = ball(count, rng), np.full(count, 0.7)
    for _ in range(8):
        radius += shape.uniform(-0.3, 0.4) * np.exp((where @ ball(1, shape)[0] - 1) / 0.15)
    return radius[:, None] * where * (1.0, 0.85, 0.7)


def blob(count: int, rng: np.random.Generator, *, seed: int) -> Floats:
    """The outline of a disk with bumps at random, without symmetry."""
    shape = np.random.default_rng(seed)
    angle = 2 * np.pi * rng.random(count)
    waves = sum(shape.normal() / (k + 1) * np.cos(k * angle + shape.uniform(0, 2 * np.pi)) for k in range(1, 6))
    return np.asarray((1 + 0.35 * waves)[:, None] * np.c_[np.cos(angle), np.sin(angle)])


@cache
def polyhedron(name: str) -> Floats:
    """Corners of a Platonic solid, or of a hexagonal crystal with two tips."""
    if name == "crystal":
        tips = np.array([[0, 0, 1.2], [0, 0, -1.2]])
        return np.r_[np.c_[ring([0.5] * 6), np.full(6, 0.8)], np.c_[ring([0.5] * 6), np.full(6, -0.8)], tips]
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T.astype(np.float64)
    if name == "tetrahedron":
        return signs[np.prod(signs, axis=1) > 0]
    if name == "cube":
        return signs
    if name == "octahedron":
        return np.r_[np.eye(3), -np.eye(3)]
    golden = (1 + np.sqrt(5)) / 2
    flat = np.array([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    return np.concatenate([np.roll(flat, k, axis=1) for k in range(3)])


BODIES: dict[str, Shape] = {
    **{f"prism of {n} sides": prism(ring([0.6] * n), 0.7) for n in (3, 4, 5, 6, 8)},
    "flat nut": prism(ring([0.8] * 6), 0.2),
    **{f"star of {n} tips": prism(ring([1.0, 0.5] * n), 0.3) for n in (4, 5, 7)},
    **{f"gear of {n} teeth": prism(gear(n), 0.25) for n in (8, 12)},
    "box": prism(np.array([[0.9, 0.6], [-0.9, 0.6], [-0.9, -0.6], [0.9, -0.6]]), 0.4),
    "box of near equal sides": prism(np.array([[0.7, 0.67], [-0.7, 0.67], [-0.7, -0.67], [0.7, -0.67]]), 0.73),
    "cross": prism(ring([1.0, 1.0, 0.35, 1.0, 1.0, 0.35, 1.0, 1.0, 0.35, 1.0, 1.0, 0.35]), 0.3),
    "ellipsoid": ellipsoid((1.0, 0.7, 0.45)),
    "flat ellipsoid": ellipsoid((1.0, 0.9, 0.3)),
    **{n: hull(polyhedron(n)) for n in ("tetrahedron", "cube", "octahedron", "icosahedron", "crystal")},
    "filled box": filled_box((1.0, 0.7, 0.5)),
}

OUTLINES: dict[str, Floats] = {
    "square": ring([1.0] * 4),
    "rectangle": np.array([[1.0, 0.6], [-1.0, 0.6], [-1.0, -0.6], [1.0, -0.6]]),
    "triangle": ring([1.0] * 3),
    "hexagon": ring([1.0] * 6),
    "star": ring([1.0, 0.5] * 5),
    "gear": gear(9),
    "ellipse": ring([1.0] * 90) * (1.0, 0.6),
}

_I_BEAM = np.array(
    [[0.6, 1], [-0.6, 1], [-0.6, 0.75], [-0.12, 0.7], [-0.12, -0.7], [-0.6, -0.75], [-0.6, -1], [0.6, -1], [0.6, -0.75],
     [0.12, -0.7], [0.12, 0.7], [0.6, 0.75]]
)  # fmt: skip
_RAIL = np.where(_I_BEAM[:, 1:] > 0, _I_BEAM * (0.5, 1.0), _I_BEAM * (1.3, 1.0))
EXTRUSIONS: dict[str, Shape] = {
    "corridor": prism(np.array([[1.5, 1.0], [-1.5, 1.0], [-1.5, -1.0], [1.5, -1.0]]), 30.0, ends=False),
    "star shaft": prism(ring([1.0, 0.6] * 5), 12.0, ends=False),
    "I-beam": prism(_I_BEAM, 15.0, ends=False),
    "rail": prism(_RAIL, 15.0, ends=False),
    "L profile": prism(np.array([[1.0, -0.2], [-0.2, -0.2], [-0.2, 1.0], [0.1, 1.0], [0.1, 0.1], [1.0, 0.1]]), 10.0,
                       ends=False),
}  # fmt: skip


def molecule(name: str) -> Floats:
    """Places of atoms."""
    if name == "ring":
        return np.r_[np.c_[ring([1.0] * 6), np.zeros(6)], np.c_[ring([1.8] * 6), np.zeros(6)]]
    if name == "lattice":
        return np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    if name == "slab":
        return np.stack(np.meshgrid(np.arange(6.0), np.arange(4.0), np.arange(3.0)), axis=-1).reshape(-1, 3)
    if name == "cage":
        corners = polyhedron("icosahedron")
        far = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
        pairs = np.argwhere(np.abs(far - 2) < 1e-6)
        return np.asarray(corners[pairs[:, 0]] * 2 / 3 + corners[pairs[:, 1]] / 3)
    if name == "flat lattice":
        return np.stack(np.meshgrid(np.arange(7.0), np.arange(7.0)), axis=-1).reshape(-1, 2)
    return ring([1.0] * 8)


MOLECULES = ("ring", "lattice", "slab", "cage", "flat lattice", "flat ring")


@cache
def mesh(name: str, folder: str) -> Floats:
    """(T, 3, 3) corners of the triangles, about the centre of the vertices, scaled to unit radius."""
    lines = [line.split() for line in next((Path(folder) / "points/mesh").glob(f"{name}.*")).read_text().splitlines()]
    if lines[0] == ["ply"]:
        number = next(int(words[2]) for words in lines if words[:2] == ["element", "vertex"])
        body = lines[lines.index(["end_header"]) + 1 :]
        vertices = [words[:3] for words in body[:number]]
        polygons = [[int(word) for word in words[1:]] for words in body[number:]]
    else:
        vertices = [words[1:4] for words in lines if words[:1] == ["v"]]
        polygons = [[int(word.split("/")[0]) - 1 for word in words[1:]] for words in lines if words[:1] == ["f"]]
    points = np.array(vertices, dtype=np.float64)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    points /= np.linalg.norm(points, axis=1).max()
    triangles = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
    return points[np.array(triangles)]


@cache
def scan(name: str, folder: str) -> Floats:
    root = Path(folder) / "points"
    paths = {
        "lidar": "lidar/data/target.ply",
        "lidar, next": "lidar/data/source.ply",
        "car": "car/car_cloud400.csv",
        "car, next": "car/car_cloud401.csv",
        "webots": "webots/webots1.xyz",
        "bunny": "pycpd/data/bunny_target.txt",
        "fish": "pycpd/data/fish_target.txt",
    }
    return read_points(root / paths[name])


# Motions and comparisons


def motion(ndim: int, angle: float, shift: float, rng: np.random.Generator) -> Floats:
    """(D+1, D+1): a turn by `angle` degrees about an axis at random, and a shift of this length."""
    matrix = np.eye(ndim + 1)
    direction = rng.normal(size=ndim)
    matrix[:-1, -1] = shift * direction / np.linalg.norm(direction)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    if ndim == 2:
        matrix[:2, :2] = [[c, -s], [s, c]]
    else:
        matrix[:3, :3] = Rotation.from_rotvec(np.radians(angle) * ball(1, rng)[0]).as_matrix()
    return matrix


def moved(points: Floats, matrix: Floats) -> Floats:
    return np.asarray(points @ matrix[:-1, :-1].T + matrix[:-1, -1])


def compared(target: Floats, source: Floats, truth: Floats | None, init: object) -> Outcome:
    """The outcome of `icp`; truth (D+1, D+1), target from source, or None where there is none."""
    fit = dr.icp(target, source, init=init)  # type: ignore[arg-type]
    error = np.inf
    if truth is not None:
        off = moved(source, fit.target_from_source.matrix) - moved(source, truth)
        error = float(np.sqrt(np.mean(np.sum(off**2, axis=1)) / np.sum(np.var(source, axis=0))))
    return Outcome(error, _TOLERANCE, fit.ok, fit.status.name)


def cut(points: Floats, side: float, overlap: float) -> Floats:
    """What lies on one side of a plane; both sides of `points` have the share `overlap` in common."""
    height = side * points @ np.array([0.8, 0.5, 0.33])[: points.shape[1]]
    return points[height <= np.quantile(height, 1 / (2 - overlap))]


def two_samples(
    shape: Shape,
    seed: int,
    init: str,
    *,
    angle: float | None,
    shift: float = 0.3,
    noise: float = 0.005,
    counts: tuple[int, int] = (5000, 4000),
    overlap: float = 1.0,
    outliers: float = 0.0,
) -> Outcome:
    """Other points of one shape in each cloud. angle: degrees; None: any."""
    rng = np.random.default_rng(seed)
    target, source = (shape(count, rng) for count in counts)
    if overlap < 1:
        target, source = cut(target, 1, overlap), cut(source, -1, overlap)
    target, source = (cloud + noise * rng.normal(size=cloud.shape) for cloud in (target, source))
    if outliers:
        added = rng.normal(size=(round(outliers * len(source)), source.shape[1])) * source.std() * 1.5
        source = np.r_[source, added]
    ndim = target.shape[1]
    truth = motion(ndim, rng.uniform(0, 180) if angle is None else angle, shift, rng)
    source = rng.permutation(moved(source, np.linalg.inv(truth)))
    return compared(target, source, truth, init)


def same_points(
    points: Floats,
    seed: int,
    init: str,
    *,
    angle: float | None,
    noise: float,
    overlap: float = 1.0,
    outliers: float = 0.0,
) -> Outcome:
    """The same points in both clouds, with noise, in another order; of `outliers` the share that is replaced."""
    rng = np.random.default_rng(seed)
    points = points[np.argsort(points @ rng.normal(size=points.shape[1]))]
    count = round(len(points) / (2 - overlap))
    target, source = points[:count], points[-count:] + noise * rng.normal(size=points[-count:].shape)
    if outliers:
        spread, number = np.ptp(points, axis=0), round(outliers * count)
        source[rng.permutation(count)[:number]] = points.mean(axis=0) + spread * (
            rng.random((number, len(spread))) - 0.5
        )
    truth = motion(points.shape[1], rng.uniform(0, 180) if angle is None else angle, 0.2 * points.std(), rng)
    source = rng.permutation(moved(source, np.linalg.inv(truth)))
    return compared(target, source, truth, init)


def unrelated(first: Shape, second: Shape, seed: int, init: str) -> Outcome:
    rng = np.random.default_rng(seed)
    target, source = first(4000, rng), second(3000, rng)
    scale = np.sqrt(np.sum(np.var(target, axis=0)) / np.sum(np.var(source, axis=0)))
    source = scale * moved(source - source.mean(axis=0), motion(target.shape[1], rng.uniform(0, 180), 0.0, rng))
    return compared(target, source + target.mean(axis=0), None, init)


def two_scans(target: str, source: str, folder: str, seed: int, init: str, *, angle: float) -> Outcome:
    """Two frames of a scanner with a stated motion, or two samples of one frame, turned further."""
    rng = np.random.default_rng(seed)
    stated, clouds = np.eye(4), (scan(target, folder), scan(source, folder))
    if source == "lidar, next":
        stated = np.loadtxt(Path(folder) / "points/lidar/data/T_target_source.txt")
    elif source == "car, next":
        row = (Path(folder) / "points/car/carCloudList.csv").read_text().splitlines()[2].split(",")
        stated = np.array(row[1:], dtype=np.float64).reshape(4, 4)
    else:
        clouds = tuple(cloud[rng.random(len(cloud)) < 0.5] for cloud in clouds)  # type: ignore[assignment]
    extent = float(np.sqrt(np.sum(np.var(clouds[1], axis=0))))
    further = motion(3, angle, 0.05 * extent if angle < 20 else extent, rng)
    centre = np.eye(4)
    centre[:3, 3] = clouds[1].mean(axis=0)
    further = centre @ further @ np.linalg.inv(centre)
    return compared(clouds[0], moved(clouds[1], np.linalg.inv(further)), stated @ further, init)


# The cases


def numbered(count: float) -> range:
    return range(max(1, round(count)))


def symmetric(scale: float) -> Iterator[Case]:
    """Bodies, outlines and molecules that other poses fit as well."""
    for index, shape in enumerate(BODIES.values()):
        for seed in numbered(3 * scale):
            noise = (0.002, 0.01, 0.03)[seed % 3]
            for init in ("auto", "global"):
                fit = partial(two_samples, shape, 100 * index + seed, init, angle=None, noise=noise)
                yield Case("clouds: symmetric bodies", 100 * index + seed, fit, may_refuse=True)
            fit = partial(two_samples, shape, 100 * index + seed, "auto", angle=None, noise=noise, overlap=0.8)
            yield Case("clouds: symmetric bodies, overlap 80 %", 100 * index + seed, fit, may_refuse=True)
    for index, corners in enumerate(OUTLINES.values()):
        for seed in numbered(3 * scale):
            for init in ("auto", "global"):
                shape = partial(on_outline, corners)
                counts = (1500, 1200) if seed % 2 else (400, 300)
                fit = partial(two_samples, shape, 100 * index + seed, init, angle=None, noise=0.01, counts=counts)
                yield Case("clouds: symmetric outlines", 100 * index + seed, fit, may_refuse=True)
    for index, name in enumerate(MOLECULES):
        for seed in numbered(3 * scale):
            for init in ("auto", "global"):
                fit = partial(same_points, molecule(name), 100 * index + seed, init, angle=None, noise=0.02)
                yield Case("clouds: molecules and lattices", 100 * index + seed, fit, may_refuse=True)


def extruded(scale: float) -> Iterator[Case]:
    """Corridors, shafts and rails, seen in part, so that their shift is free."""
    for index, shape in enumerate(EXTRUSIONS.values()):
        for seed in numbered(3 * scale):
            for init in ("identity", "auto", "global"):

                def view(count: int, rng: np.random.Generator, whole: Shape = shape) -> Floats:
                    walked = rng.uniform(-2, 2)
                    points = whole(4 * count, rng)
                    return points[np.abs(points[:, 2] - walked) < 5.0] - (0, 0, walked)

                fit = partial(two_samples, view, seed, init, angle=3.0, shift=0.05, noise=0.02)
                yield Case("clouds: extrusions", 100 * index + seed, fit, may_refuse=True)


def determined(scale: float) -> Iterator[Case]:
    """Shapes without symmetry."""
    for seed in numbered(12 * scale):
        for init in ("auto", "global"):
            make = partial(two_samples, partial(rock, seed=seed), seed, init)
            yield Case("clouds: rocks", seed, partial(make, angle=None))
            yield Case("clouds: rocks, overlap 70 %", seed, partial(make, angle=None, overlap=0.7))
        make = partial(two_samples, partial(rock, seed=seed), seed)
        yield Case("clouds: rocks, outliers", seed, partial(make, "auto", angle=None, outliers=0.15))
        yield Case("clouds: rocks, noise", seed, partial(make, "auto", angle=None, noise=0.03))
        yield Case("clouds: rocks, little overlap", seed, partial(make, "auto", angle=None, overlap=0.3), True)
        yield Case("clouds: rocks, near", seed, partial(make, "identity", angle=8.0, shift=0.05, noise=0.01))
        yield Case("clouds: rocks, identity is far", seed, partial(make, "identity", angle=90.0), True)
        curve = partial(two_samples, partial(blob, seed=seed), seed, counts=(800, 600))
        yield Case("clouds: outlines", seed, partial(curve, "auto", angle=None))
        yield Case("clouds: outlines", seed, partial(curve, "global", angle=None, noise=0.02))
        yield Case("clouds: outlines, identity is far", seed, partial(curve, "identity", angle=120.0), True)
        rng = np.random.default_rng(1000 + seed)
        for ndim in (2, 3):
            points = rng.random((800, ndim)) * (1.0, 0.8, 0.5)[:ndim]
            step = 800 ** (-1 / ndim)
            same = partial(same_points, points, seed, angle=None)
            yield Case(f"clouds: {ndim}D points", seed, partial(same, "auto", noise=0.1 * step))
            yield Case(f"clouds: {ndim}D points", seed, partial(same, "global", noise=0.02 * step, overlap=0.8))
            yield Case(f"clouds: {ndim}D points", seed, partial(same, "global", noise=0.02 * step, outliers=0.3))


def no_relation(scale: float) -> Iterator[Case]:
    for seed in numbered(10 * scale):
        first, second = partial(rock, seed=seed), partial(rock, seed=seed + 500)
        for init in ("auto", "global", "identity"):
            yield Case("clouds: unrelated rocks", seed, partial(unrelated, first, second, seed, init))
        for ndim in (2, 3):
            box = filled_box((1.0,) * ndim)
            yield Case("clouds: unrelated points", seed, partial(unrelated, box, box, seed, "global"))
            yield Case("clouds: unrelated points", seed, partial(unrelated, box, box, seed, "auto"))
        outlines = partial(blob, seed=seed), partial(blob, seed=seed + 500)
        yield Case("clouds: unrelated outlines", seed, partial(unrelated, *outlines, seed, "auto"))
        yield Case("clouds: unrelated outlines", seed, partial(unrelated, *outlines, seed, "identity"))


def real(scale: float, folder: str) -> Iterator[Case]:
    for name in ("fandisk", "suzanne"):
        shape: Shape = partial(on_triangles, mesh(name, folder))
        for seed in numbered(8 * scale):
            make = partial(two_samples, shape, seed)
            for init in ("auto", "global"):
                yield Case("clouds: meshes", seed, partial(make, init, angle=None, noise=0.01))
            yield Case("clouds: meshes, overlap 70 %", seed, partial(make, "auto", angle=None, overlap=0.7))
            yield Case("clouds: meshes, near", seed, partial(make, "identity", angle=6.0, shift=0.03))
    for name, following in (("lidar", "lidar, next"), ("car", "car, next"), ("webots", "webots")):
        for seed in numbered(4 * scale):
            make = partial(two_scans, name, following, folder, seed)
            yield Case("clouds: scans", seed, partial(make, "identity", angle=1.0))
            yield Case("clouds: scans", seed, partial(make, "auto", angle=2.0))
            yield Case("clouds: scans", seed, partial(make, "auto", angle=60.0))
    for name in ("bunny", "fish"):
        points = scan(name, folder)
        for seed in numbered(4 * scale):
            noise = 0.003 * float(np.std(points))
            yield Case(
                "clouds: few real points", seed, partial(same_points, points, seed, "auto", angle=None, noise=noise)
            )
    pairs = [("lidar", "car"), ("webots", "car"), ("bunny", "webots"), ("car", "bunny")]
    for index, names in enumerate(pairs):
        shapes = [partial(rows_of, scan(name, folder)) for name in names]
        for init in ("auto", "global", "identity"):
            yield Case("clouds: unrelated scans", index, partial(unrelated, *shapes, index, init))


def rows_of(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    return points[rng.permutation(len(points))[:count]]


def cases(scale: float) -> Iterator[Case]:
    """All cases; `scale` is the share of the repetitions, at least one of each."""
    yield from symmetric(scale)
    yield from extruded(scale)
    yield from determined(scale)
    yield from no_relation(scale)
    folder = os.environ.get("DASKREG_DATA", "")
    if folder:
        yield from real(scale, folder)
