"""Alignment of projections of a phantom whose poses are known, and of real scans.

    python benchmarks/tomography.py                    # 256^3, 180 angles, jitter of 10 pixels, 3 % noise
    python benchmarks/tomography.py --size 64 --angles 90 --jitter 2.5 --seeds 5
    python benchmarks/tomography.py --real             # the tooth and the tilt series, with DASKREG_DATA
    python benchmarks/tomography.py --etspy            # seconds of a slice beside ETSpy's ProjMatch (install etspy)
    python benchmarks/tomography.py --projector        # times of the projector, and of ASTRA's where it is installed

Errors are after the gauge: without what a shift of the volume explains. "ratio" is the scatter over the standard
deviation that the fit states, of both directions.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

import daskreg as dr
from daskreg.tomography.poses import constant_and_waves, increments, shifts_of, without_gauge
from daskreg.tomography.projector.slices import SliceProjector

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ellipsoids import Ellipsoids


def phantom(options: argparse.Namespace, seed: int) -> np.ndarray:
    """One row: errors of the shifts, the axis and the centre, and how far the standard deviations hold.

    Returns: those of the axis and of the centre, in standard deviations.
    """
    size, rng = options.size, np.random.default_rng(seed)
    angles = np.linspace(0, np.pi, options.angles, endpoint=False)
    shifts = rng.uniform(-options.jitter, options.jitter, (len(angles), 2))
    turn, off, middle = np.radians(options.turn), options.off, (size - 1) / 2
    body = Ellipsoids(size, seed=seed if options.body is None else options.body)
    each = [
        body.project(angles[i : i + 1], (size, size), shifts=shifts[i], turn=turn, axis=middle + off)[0]
        for i in range(len(angles))
    ]
    data = np.stack(each)
    data = (data + options.noise * data.max() * rng.normal(size=data.shape)).astype(np.float32)
    truth = increments(np.full((len(angles), 1), turn), ("theta",)) @ increments(
        np.full((len(angles), 1), off), ("tx",)
    )
    truth[:, :2, 2] += shifts
    begin, cpu = time.perf_counter(), time.process_time()
    fit = dr.tomography.align_projections(data, angles)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    centred = np.eye(3)
    centred[:2, 2] = -middle
    poses = centred @ fit.projections_from_aligned.matrices @ np.linalg.inv(centred)
    used = np.ones(len(angles), dtype=bool)
    true, found = (shifts_of(without_gauge(p, angles, used)) for p in (truth, poses))
    centres = [constant_and_waves(s[:, 1], angles, used)[0] for s in (true, found)]
    scatter = np.sqrt(((found - true) ** 2).mean(axis=0))
    ratios = [scatter[k] / np.median(fit.sigma[name]) for k, name in enumerate(("ty", "tx"))]
    medians = np.median(np.abs(found - true), axis=0)
    print(
        f"seed {seed}: {fit.status.name.lower()}; median error rows {medians[0]:.4f} columns {medians[1]:.4f} px; "
        f"ratio {ratios[0]:.2f} {ratios[1]:.2f}; axis {np.degrees(fit.axis - turn):+.4f} +- "
        f"{np.degrees(fit.sigma['axis']):.4f} deg; centre {centres[1] - centres[0]:+.4f} +- "
        f"{fit.sigma['centre']:.4f} px; "
        f"binning {fit.binning}, {wall:.1f} s, processor {cpu:.1f} s",
        flush=True,
    )
    return np.array([(fit.axis - turn) / fit.sigma["axis"], (centres[1] - centres[0]) / fit.sigma["centre"]])


def real() -> None:
    """The tooth (a scan of half a turn) and the tilt series of a needle, whose axis ETSpy turns back by -2.79."""
    import h5py

    folder = Path(os.environ["DASKREG_DATA"]) / "tomography"
    with h5py.File(folder / "tooth" / "tooth.h5") as file:
        raw, white, dark, theta = (file["exchange"][k][...] for k in ("data", "data_white", "data_dark", "theta"))
    print(dr.tomography.align_projections(raw, theta, unit="degrees", flats=white, darks=dark), flush=True)
    needle = np.asarray(dr.open(folder / "haadf" / "HAADF.mrc"))
    tilts = np.loadtxt(folder / "haadf" / "HAADF.rawtlt")
    for name, angle in (("own axis", "auto"), ("ETSpy's axis", np.radians(2.79))):
        fit = dr.tomography.align_projections(needle, tilts, unit="degrees", axis="x", axis_angle=angle)
        print(f"{name}: residual {np.sqrt(np.nanmean(fit.residuals**2)):.4f}; {fit}", flush=True)


def etspy(options: argparse.Namespace) -> None:
    """Seconds and errors of the shifts of one sinogram, of this package and of ETSpy's ProjMatch on the same, in turn.

    Both are asked for shifts across the axis only, of a slice; and, of this package, for all rows of a scan together.
    """
    from etspy.api import TomoStack
    from etspy.projmatch import ProjMatch

    size, rng = options.size, np.random.default_rng(0)
    angles = np.linspace(-np.pi / 2, np.pi / 2, options.angles, endpoint=False)
    shifts = np.column_stack([np.zeros(len(angles)), rng.uniform(-options.jitter, options.jitter, len(angles))])
    clean = Ellipsoids(size, seed=1).project(angles, (16, size), shifts=shifts)
    data = (clean + options.noise * clean.max() * rng.normal(size=clean.shape)).astype(np.float32)
    one = data[:, 8:9]
    dr.tomography.align_projections(one, angles, max_steps=1)  # compiles
    used = np.ones(len(angles), dtype=bool)

    def error(columns: np.ndarray) -> float:
        both = np.stack([shifts[:, 1], columns])
        left = [c - np.column_stack([used, np.cos(angles), np.sin(angles)]) @ constant_and_waves(c, angles, used)
                for c in both]  # fmt: skip
        return float(np.median(np.abs(left[1] - left[0])))

    for _ in range(options.seeds):
        for name, rows in (("a slice", one), (f"{data.shape[1]} slices", data)):
            begin, cpu = time.perf_counter(), time.process_time()
            fit = dr.tomography.align_projections(rows, angles, axis_angle=0.0)
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            matrices = fit.projections_from_aligned.matrices
            print(
                f"daskreg, {name}: {wall / rows.shape[1]:.2f} s a slice (processor {cpu / rows.shape[1]:.2f}), "
                f"median error {error(shifts_of(matrices)[:, 1]):.3f} px, {fit.status.name.lower()}", flush=True,
            )  # fmt: skip
        stack = TomoStack(one.transpose(0, 2, 1).copy(), tilts=np.degrees(angles)[:, None])
        begin, cpu = time.perf_counter(), time.process_time()
        match = ProjMatch(stack, nslice=0)
        match.calculate_shifts()
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        off = min(error(sign * np.asarray(match.total_shifts)) for sign in (1, -1))
        print(f"etspy, a slice: {wall:.2f} s (processor {cpu:.2f}), median error {off:.3f} px", flush=True)


def projector(options: argparse.Namespace) -> None:
    """Seconds of one projection of all slices, and of one slice by ASTRA on a CPU, interleaved; medians of five."""
    size = options.size
    angles = np.linspace(0, np.pi, options.angles, endpoint=False)
    ours = SliceProjector(angles, (size, size), size)
    slices = np.random.default_rng(0).normal(size=(size, size, size)).astype(np.float32)
    ours.project(slices[..., :2].copy())
    times: dict[str, list[float]] = {"daskreg, a slice": [], "astra, a slice": []}
    for _ in range(5):
        begin = time.perf_counter()
        ours.project(slices)
        times["daskreg, a slice"].append((time.perf_counter() - begin) / size)
        try:
            import astra
        except ImportError:
            continue
        geometry = astra.create_proj_geom("parallel", 1.0, size, angles)
        number = astra.create_projector("linear", geometry, astra.create_vol_geom(size, size))
        begin = time.perf_counter()
        astra.create_sino(np.ascontiguousarray(slices[..., 0]), number)
        times["astra, a slice"].append(time.perf_counter() - begin)
    for name, values in times.items():
        if values:
            print(f"{name}: {np.median(values) * 1e3:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--angles", type=int, default=180)
    parser.add_argument("--jitter", type=float, default=10.0)
    parser.add_argument("--noise", type=float, default=0.03, help="of the largest value")
    parser.add_argument("--turn", type=float, default=1.3, help="of the axis, degrees")
    parser.add_argument("--off", type=float, default=2.4, help="of the axis from the middle, pixels")
    parser.add_argument("--seeds", type=int, default=1, help="of the phantom, its drift and its noise")
    parser.add_argument("--body", type=int, help="the same phantom with all seeds, by its seed")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--projector", action="store_true")
    parser.add_argument("--etspy", action="store_true")
    options = parser.parse_args()
    if options.real:
        real()
    elif options.etspy:
        etspy(options)
    elif options.projector:
        projector(options)
    else:
        found = np.array([phantom(options, seed) for seed in range(options.seeds)])
        if options.seeds > 1:
            rms, mean = np.sqrt((found**2).mean(axis=0)), found.mean(axis=0)
            print(f"axis, centre: root mean square {rms.round(2)} of sigma, mean {mean.round(2)}")


if __name__ == "__main__":
    main()
