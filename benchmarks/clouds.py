"""Point clouds side by side with open3d, small_gicp and probreg: success, error, time.

    python benchmarks/clouds.py all [--quick] --data $DASKREG_DATA
    python benchmarks/clouds.py meshes [--points 10000] [--noise 0.01] [--overlap 0.7] [--starts 12]
    python benchmarks/clouds.py near [--points 100000]
    python benchmarks/clouds.py tutorial [--seeds 20] [--angle 180]
    python benchmarks/clouds.py parts [--dimensions 2]
    python benchmarks/clouds.py scans --data $DASKREG_DATA
    python benchmarks/clouds.py large [--points 1000000]
    python benchmarks/clouds.py exact --data $DASKREG_DATA

all: every part, with the options of the documentation's figures. meshes: two samples of a mesh of unit radius,
cut by parallel planes so that the given overlap remains, with noise (a share of the radius) and a motion of 10 to
180 degrees about a random axis; no tool has an initial pose. near: the same within 10 degrees; tools that need
an initial pose start from identity. tutorial: a unit cube filled with points, rows shuffled. parts: boxes filled with
points, of which the clouds have half in common, and a third of the source are outliers; no initial pose. large:
a million points, without other tools. scans: two LiDAR frames, two scans of a car, compared with the stated pose.
exact: clouds whose rows are a known shift apart.

The tools take turns on every case, and the first case is run twice, so that nothing is compiled in
the measured time. CPU seconds are of all threads, and are comparable on a busy machine too; "of
first" is the ratio of a tool's median time to that of the first tool. small_gicp runs with voxels of
three sizes, as shares of the extent: which is best depends on the cloud. Success: within 5 degrees
and 0.1 radii on meshes. Tools that are not installed are skipped with a message; `make bench-clouds
ARGS=...` installs them first, except for libusb-1.0, a system library that open3d needs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import daskreg as dr
from daskreg.formats.points import read_points

Floats = NDArray[np.float64]
Answer = tuple[Floats, bool]
Tool = Callable[[Floats, Floats], Answer]


@dataclass(frozen=True)
class Case:
    """Two clouds, and the motion (D+1, D+1) that brings the source onto the target."""

    name: str
    target: Floats
    source: Floats
    truth: Floats
    angle: float
    turn: float = 5.0
    shift: float = 0.1

    def errors(self, found: Floats) -> tuple[float, float]:
        """The error of the rotation in degrees, and the distance at the centroid of the source."""
        chord = np.linalg.norm(found[:-1, :-1] - self.truth[:-1, :-1]) / np.sqrt(8)
        centroid = np.append(self.source.mean(axis=0), 1.0)
        turn = np.degrees(2 * np.arcsin(min(1.0, float(chord)))) if np.isfinite(chord) else np.inf
        return float(turn), float(np.linalg.norm((found - self.truth) @ centroid))


# Clouds


@cache
def mesh(name: str, folder: str) -> tuple[Floats, NDArray[np.int64]]:
    """Vertices about the centre of their bounding box, scaled to unit radius, and triangles."""
    import pyvista
    from pyvista import examples

    own = {"airplane": examples.planefile, "ant": examples.antfile}
    path = own.get(name) or next((Path(folder) / "points/mesh").glob(f"{name}.*"))
    read = pyvista.read(path).extract_surface(algorithm="dataset_surface").triangulate()
    vertices = np.asarray(read.points, dtype=np.float64)
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return vertices / np.linalg.norm(vertices, axis=1).max(), np.asarray(read.faces).reshape(-1, 4)[:, 1:]


def sampled(vertices: Floats, faces: NDArray[np.int64], count: int, rng: np.random.Generator) -> Floats:
    """Points spread evenly over the triangles."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(faces), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    return np.asarray((1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen])


def motion(angle: float, shift: float, rng: np.random.Generator) -> Floats:
    axis = rng.normal(size=3)
    m = np.eye(4)
    m[:3, :3] = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    m[:3, 3] = shift * rng.normal(size=3)
    return m


def mesh_case(name: str, folder: str, angle: float, *, points: int, noise: float, overlap: float, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    vertices, faces = mesh(name, folder)
    keep = 1 / (2 - overlap)  # of the whole, on either side
    direction = rng.normal(size=3)
    clouds = []
    for sign in (1, -1):
        whole = sampled(vertices, faces, round(points / keep), rng)
        height = sign * (whole @ direction)
        cloud = whole[height <= np.quantile(height, keep)]
        clouds.append(cloud + noise * rng.normal(size=cloud.shape))
    truth = motion(angle, 0.3 if angle > 10 else 0.02, rng)
    source = (clouds[1] - truth[:3, 3]) @ truth[:3, :3]
    return Case(f"{name} {angle:.0f}", clouds[0], rng.permutation(source), truth, angle)


def tutorial_case(seed: int, angle: float) -> Case:
    rng = np.random.default_rng(seed)
    target = rng.random((1000, 3))
    truth = motion(angle, 0.0, rng)
    truth[:3, 3] = -truth[:3, :3] @ [0.5, -0.2, 0.1]
    source = (target - truth[:3, 3]) @ truth[:3, :3] + 0.01 * rng.normal(size=target.shape)
    return Case(f"seed {seed}", target, rng.permutation(source), truth, angle, turn=0.2, shift=0.01)


def part_case(seed: int, ndim: int, *, count: int = 1000, overlap: float = 0.75, outliers: float = 1 / 3) -> Case:
    rng = np.random.default_rng(seed)
    points = rng.random((round(count * (2 - overlap)), ndim)) * [1, 0.8, 0.5][:ndim]
    points = points[np.argsort(points @ rng.normal(size=ndim))]
    source = rng.permutation(points[-count:]) + 0.02 * count ** (-1 / ndim) * rng.normal(size=(count, ndim))
    source[: round(outliers * count)] = 2 * rng.random((round(outliers * count), ndim)) - 0.5
    truth = motion(float(rng.uniform(10, 180)), 0.3, rng)
    if ndim == 2:
        angle = rng.uniform(0, 2 * np.pi)
        truth[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        truth = np.delete(np.delete(truth, 2, axis=0), 2, axis=1)
    source = (source - truth[:-1, -1]) @ truth[:-1, :-1]
    return Case(f"seed {seed}", points[:count], rng.permutation(source), truth, 0.0, turn=1.0, shift=0.02)


def scan_cases(folder: str) -> Iterator[Case]:
    root = Path(folder) / "points/lidar/data"
    truth = np.loadtxt(root / "T_target_source.txt")
    yield Case("lidar", read_points(root / "target.ply"), read_points(root / "source.ply"), truth, 0, 0.1, 0.05)
    root = Path(folder) / "points/car"
    row = (root / "carCloudList.csv").read_text().splitlines()[2].split(",")
    truth = np.array(row[1:], dtype=np.float64).reshape(4, 4)
    clouds = (read_points(root / f"car_cloud{n}.csv") for n in (400, 401))
    yield Case("car", *clouds, truth, 0, 0.5, 0.1)


def exact(folder: str) -> None:
    """Print the largest error of a coefficient on clouds whose rows are a shift apart."""
    root = Path(folder) / "points"
    pairs = {
        "bunny": [root / f"pycpd/data/bunny_{name}.txt" for name in ("target", "source")],
        "itk_icp": [root / f"itk_icp/IterativeClosestPoint{name}Points.txt" for name in ("Fixed", "Moving")],
    }
    for name, paths in pairs.items():
        target, source = (np.loadtxt(path) for path in paths)
        begun = time.perf_counter()
        fit = dr.icp(target, source)
        seconds = time.perf_counter() - begun
        truth = np.eye(target.shape[1] + 1)
        truth[:-1, -1] = -1.0 if name == "bunny" else -2.0
        off = np.abs(fit.target_from_source.matrix - truth).max()
        print(f"{name}: {off:.1e} off, {fit.status.name.lower()}, {seconds:.2f} s")


# Tools: each returns its motion, and whether it reports success


def daskreg(**options: Any) -> Tool:
    def run(target: Floats, source: Floats) -> Answer:
        fit = dr.icp(target, source, **options)
        return fit.target_from_source.matrix, fit.ok

    return run


def extent(points: Floats) -> float:
    return float(np.sqrt(np.sum(np.var(points, axis=0))))


def open3d_cloud(points: Floats, voxel: float = 0.0) -> Any:
    import open3d as o3d

    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    return cloud.voxel_down_sample(voxel) if voxel else cloud


def open3d_plane(target: Floats, source: Floats, start: Floats, reach: float, around: float) -> Answer:
    import open3d as o3d

    how = o3d.pipelines.registration
    fixed, moving = open3d_cloud(target), open3d_cloud(source)
    fixed.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=around, max_nn=30))
    found = how.registration_icp(moving, fixed, reach, start, how.TransformationEstimationPointToPlane())
    return np.asarray(found.transformation), found.fitness > 0.3


def with_open3d_global(target: Floats, source: Floats) -> Answer:
    """FPFH, RANSAC, then point to plane on all points, with the settings of open3d's own tutorial."""
    import open3d as o3d

    o3d.utility.random.seed(0)
    how, voxel = o3d.pipelines.registration, 0.07 * extent(target)
    clouds, features = [], []
    for points in (source, target):
        cloud = open3d_cloud(points, voxel)
        cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(radius=2 * voxel, max_nn=30))
        features.append(how.compute_fpfh_feature(cloud, o3d.geometry.KDTreeSearchParamHybrid(5 * voxel, 100)))
        clouds.append(cloud)
    found = how.registration_ransac_based_on_feature_matching(
        *clouds,
        *features,
        True,
        1.5 * voxel,
        how.TransformationEstimationPointToPoint(False),
        3,
        [how.CorrespondenceCheckerBasedOnEdgeLength(0.9), how.CorrespondenceCheckerBasedOnDistance(1.5 * voxel)],
        how.RANSACConvergenceCriteria(100_000, 0.999),
    )
    return open3d_plane(target, source, np.asarray(found.transformation), 0.5 * voxel, voxel)


def with_open3d_plane(target: Floats, source: Floats) -> Answer:
    size = extent(target)
    return open3d_plane(target, source, np.eye(4), 0.3 * size, 0.07 * size)


def small_gicp(voxel: float) -> Tool:
    """Generalized ICP after its own downsampling to voxels of a share of the extent, on all cores."""

    def run(target: Floats, source: Floats) -> Answer:
        from small_gicp import align

        size = extent(target)
        found = align(
            target,
            source,
            downsampling_resolution=voxel * size,
            max_correspondence_distance=0.3 * size,
            num_threads=os.cpu_count() or 1,
        )
        return np.asarray(found.T_target_source), bool(found.converged)

    return run


def with_probreg(target: Floats, source: Floats) -> Answer:
    """FilterReg on 2000 points."""
    from probreg import filterreg

    rng = np.random.default_rng(0)
    few = [p[rng.choice(len(p), min(len(p), 2000), replace=False)] for p in (source, target)]
    found = filterreg.registration_filterreg(*few, sigma2=None, update_sigma2=True)[0]
    m = np.eye(4)
    m[:3, :3], m[:3, 3] = found.scale * found.rot, found.t
    return m, True


PEERS: dict[str, tuple[Tool, str, bool]] = {
    "open3d FPFH+RANSAC+plane": (with_open3d_global, "open3d", True),
    "open3d plane": (with_open3d_plane, "open3d", False),
    "small_gicp voxel 0.01": (small_gicp(0.01), "small_gicp", False),
    "small_gicp voxel 0.03": (small_gicp(0.03), "small_gicp", False),
    "small_gicp voxel 0.1": (small_gicp(0.1), "small_gicp", False),
    "probreg FilterReg": (with_probreg, "probreg", False),
}


def installed(*, only_global: bool) -> dict[str, Tool]:
    found = {}
    for name, (tool, module, is_global) in PEERS.items():
        if only_global and not is_global:
            continue
        try:
            importlib.import_module(module)
        except ImportError as error:  # not installed, or without a library of the system
            print(f"{name}: skipped, {error}")
        else:
            found[name] = tool
    return found


def measure(tools: dict[str, Tool], cases: list[Case], *, verbose: bool = False) -> None:
    rows: dict[str, list[tuple[float, float, float, bool, bool, float]]] = {name: [] for name in tools}
    for i, case in enumerate([cases[0], *cases]):
        for name, tool in tools.items():
            begun, used = time.perf_counter(), time.process_time()
            found, claimed = tool(case.target, case.source)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - used
            if i:
                turn, shift = case.errors(found)
                good = turn < case.turn and shift < case.shift
                rows[name].append((turn, shift, seconds, good, claimed, cpu))
                if verbose or len(cases) < 4:
                    print(f"  {case.name:14} {name:26} {turn:8.3f} deg {shift:8.4f} {seconds:7.3f} s  {good} {claimed}")
    heads = ("success", 9), ("median deg", 11), ("shift", 8), ("median s", 9), ("CPU s", 7), ("false ok", 9)
    print(" " * 26, *(f"{head:>{width}}" for head, width in (*heads, ("false alarm", 11), ("of first", 8))))
    base = statistics.median(r[2] for r in next(iter(rows.values())))
    for name, row in rows.items():
        good = [r for r in row if r[3]]
        turn, shift = (statistics.median(r[k] for r in good) if good else np.nan for k in (0, 1))
        false_ok, false_alarms = sum(r[4] and not r[3] for r in row), sum(r[3] and not r[4] for r in row)
        seconds = statistics.median(r[2] for r in row)
        cpu = statistics.median(r[5] for r in row)
        score = f"{len(good)}/{len(row)}"
        print(
            f"{name:26} {score:>9} {turn:11.3f} {shift:8.4f} {seconds:9.3f} {cpu:7.3f} {false_ok:9} {false_alarms:11}"
            f" {seconds / base:8.2f}",
            flush=True,
        )


def all_of(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Every run of the documentation's figures; `--quick` skips most initial poses and the largest clouds."""
    starts, few = (args.starts, 5) if not args.quick else (4, 2)
    sizes = (10_000, 100_000) if not args.quick else (10_000,)
    near = [("airplane", 0.002), ("ant,fandisk", 0.01)] if not args.quick else [("airplane", 0.002)]
    runs: list[dict[str, Any]] = [
        {"what": "exact"},
        {"what": "scans"},
        *({"what": "tutorial", "angle": angle, "seeds": args.seeds if not args.quick else 4} for angle in (45, 180)),
        *({"what": "parts", "dimensions": ndim, "seeds": args.seeds if not args.quick else 4} for ndim in (2, 3)),
        *(
            {"what": "near", "points": points, "meshes": meshes, "noise": noise, "starts": few}
            for points in sizes
            for meshes, noise in near
        ),
        *({"what": "meshes", "points": points, "starts": starts} for points in sizes),
        {"what": "large", "points": 1_000_000 if not args.quick else 200_000, "meshes": "fandisk", "starts": 2},
    ]
    return [argparse.Namespace(**{**vars(args), **run}) for run in runs]


def run(args: argparse.Namespace) -> None:
    """One of the parts; prints its name first, and last how long it took."""
    begun = time.perf_counter()
    print(f"== {args.what}", flush=True)
    cpus = {} if args.alone else installed(only_global=args.what == "meshes")
    peers = {name: tool for name, tool in cpus.items() if args.peers in name}
    if args.what in ("meshes", "near", "large"):
        on_meshes(args, peers)
    elif args.what == "tutorial":
        cases = [tutorial_case(s, args.angle) for s in range(args.seeds)]
        print(f"{len(cases)} seeds, {args.angle:.0f} deg")
        measure({"daskreg": daskreg(init="global")} | peers, cases)
    elif args.what == "parts":
        cases = [part_case(s, args.dimensions) for s in range(args.seeds)]
        print(f"{args.dimensions}D, {len(cases)} seeds, {len(cases[0].target)} points, half of them in both")
        measure({"daskreg": daskreg(init="global")} | (peers if args.dimensions == 3 else {}), cases)
    elif args.what == "exact":
        exact(args.data)
    else:
        tools = {f"daskreg {init}": daskreg(init=init) for init in ("auto", "identity")}
        for case in scan_cases(args.data):
            measure(tools | peers, [case] * 3)
    print(f"   {args.what}: {time.perf_counter() - begun:.0f} s in all", flush=True)


def on_meshes(args: argparse.Namespace, peers: dict[str, Tool]) -> None:
    angles = np.linspace(10, 180, args.starts) if args.what == "meshes" else np.linspace(2, 10, args.starts)
    tools = {"daskreg": daskreg()}
    if args.what == "near":
        tools["daskreg identity"] = daskreg(init="identity")
    if args.what == "large":
        angles, peers = np.linspace(150, 170, args.starts), {}
    points = args.points or (1_000_000 if args.what == "large" else 10_000)
    make = partial(mesh_case, points=points, noise=args.noise, overlap=args.overlap)
    for name in args.meshes.split(","):
        cases = [make(name, args.data, a, seed=args.first + i) for i, a in enumerate(angles)]
        span = f"{angles[0]:.0f} to {angles[-1]:.0f} deg"
        print(f"{name}: {points} points, {span}, overlap {args.overlap:.0%}, noise {args.noise:.1%}", flush=True)
        measure(tools | peers, cases, verbose=args.verbose)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["meshes", "near", "tutorial", "parts", "scans", "large", "exact"]
    parser.add_argument("what", nargs="?", default="all", choices=["all", *parts])
    parser.add_argument("--quick", action="store_true", help="with all: a few minutes instead of half an hour")
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--overlap", type=float, default=0.7)
    parser.add_argument("--starts", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="seed of the first start")
    parser.add_argument("--meshes", default="airplane,ant,fandisk,suzanne")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--angle", type=float, default=180)
    parser.add_argument("--dimensions", type=int, default=3, choices=[2, 3])
    parser.add_argument("--data", default=os.environ.get("DASKREG_DATA", ""))
    parser.add_argument("--alone", action="store_true", help="without peers")
    parser.add_argument("--peers", default="", help="only tools with this in their name")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    for one in all_of(args) if args.what == "all" else [args]:
        run(one)


if __name__ == "__main__":
    main()
