"""Real pairs of images, compared with elastix: agreement with known facts, with elastix, and with itself.

    python benchmarks/real_data.py --data $DASKREG_DATA
    python benchmarks/real_data.py --data $DASKREG_DATA --case brain --case histology

One line for each case and tool. The measures are independent of both tools: a stated shift, landmarks,
masks, identity in the world, local correlation (windows of 9 voxels, by scipy, after resampling
by scipy), and the error of the two directions composed. elastix (itk-elastix) runs
with its default parameters for the model; where it is not installed, it is left out with a message.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

import daskreg as dr
from daskreg.geometry import Affine, Grid

Tool = Callable[..., Affine]


@dataclass(frozen=True)
class Outcome:
    """The result of a tool for a case, and its seconds."""

    case: str
    tool: str
    facts: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        words = ", ".join(f"{name} {value:.4g}" for name, value in self.facts.items())
        return f"{self.case:28} {self.tool:10} {self.seconds:8.2f} s  {words}"


def with_daskreg(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    model: str,
    metric: str,
    init: str = "auto",
    fixed_mask: np.ndarray | None = None,
    moving_mask: np.ndarray | None = None,
) -> Affine:
    """`metric` "ncc, lncc" is ncc, and then lncc on the finest level from there."""
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    first, _, then = metric.partition(", ")
    fit = dr.register(fixed, moving, model=model, metric=first, init=init, **masks)
    if then:
        fit = dr.register(fixed, moving, model=model, metric=then, init=fit, levels=1, **masks)
    return fit.moving_from_fixed


def with_elastix(
    fixed: xr.DataArray,
    moving: xr.DataArray,
    *,
    model: str,
    metric: str,
    init: str = "auto",
    fixed_mask: np.ndarray | None = None,
    moving_mask: np.ndarray | None = None,
) -> Affine:
    """Default parameters: mutual information, adaptive stochastic descent, four resolutions.

    `init` "auto" aligns geometrical centres, as the defaults do; "identity" does not.
    """
    import itk

    parameters = itk.ParameterObject.New()
    chosen = parameters.GetDefaultParameterMap(model)
    chosen["AutomaticTransformInitialization"] = ["false" if init == "identity" else "true"]
    if metric == "ncc":
        chosen["Metric"] = ["AdvancedNormalizedCorrelation"]
    parameters.AddParameterMap(chosen)
    method = itk.ElastixRegistrationMethod.New(
        _itk(fixed), _itk(moving), parameter_object=parameters, log_to_console=False
    )
    for name, mask, volume in (("Fixed", fixed_mask, fixed), ("Moving", moving_mask, moving)):
        if mask is not None:
            getattr(method, f"Set{name}Mask")(_itk(volume.copy(data=mask), np.uint8))
    method.UpdateLargestPossibleRegion()
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/transform.txt"
        method.GetTransformParameterObject().WriteParameterFile(file)
        return dr.load(file)


TOOLS: dict[str, tuple[Tool, str]] = {"daskreg": (with_daskreg, "daskreg"), "elastix": (with_elastix, "itk")}


def _itk(volume: xr.DataArray, dtype: type = np.float32) -> Any:
    import itk

    where = dr.grid(volume)
    image = itk.image_from_array(np.ascontiguousarray(volume.values, dtype=dtype))
    image.SetSpacing(where.spacing[::-1])
    image.SetOrigin(where.origin[::-1])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(where.direction_matrix[::-1, ::-1])))
    return image


def resampled(moving: xr.DataArray, found: Affine, onto: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The moving image on the fixed grid by scipy, and which voxels are inside."""
    where = dr.grid(moving)
    m = where.inverse_matrix @ found.matrix @ onto.matrix
    values = np.asarray(moving.values, dtype=np.float32)
    out = ndimage.affine_transform(values, m[:-1, :-1], m[:-1, -1], onto.shape, order=1, cval=np.nan)
    return out, np.isfinite(out)


def local_correlation(fixed: xr.DataArray, moving: xr.DataArray, found: Affine, size: int = 9) -> float:
    """Mean of the squared correlation in windows, where fixed has content and both are inside."""
    a = np.asarray(fixed.values, dtype=np.float64)
    b, inside = resampled(moving, found, dr.grid(fixed))
    b = np.where(inside, b, 0).astype(np.float64)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(x, size))

    va, vb = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
    squared = (mean(a * b) - mean(a) * mean(b)) ** 2 / np.maximum(va * vb, 1e-9)
    use = ndimage.binary_erosion(inside, iterations=size // 2) & (va > 1e-3 * a.var()) & (vb > 1e-3 * b.var())
    return float(squared[use].mean())


def apart(a: Affine, b: Affine, where: Grid, *, mask: np.ndarray | None = None) -> float:
    """Root mean square distance of two maps over a grid (or a mask on it), in its unit."""
    shape = where.shape
    index = np.argwhere(mask)[::97] if mask is not None else np.stack(np.indices(shape), -1).reshape(-1, len(shape))
    points = where.world(index[:: max(1, len(index) // 20000)])
    return float(np.sqrt(((a(points) - b(points)) ** 2).sum(1).mean()))


def correlation(fixed: xr.DataArray, moving: xr.DataArray, found: Affine) -> float:
    """Pearson's, over the overlap."""
    warped, inside = resampled(moving, found, dr.grid(fixed))
    return float(np.corrcoef(fixed.values[inside].astype(float), warped[inside])[0, 1])


Case = Callable[[Path, dict[str, Tool]], Iterator[Outcome]]


def brain(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """T1 and proton density, whose stated shift is x + 13, y + 17."""
    names = ("T1SliceBorder20", "ProtonDensitySliceShifted13x17y")
    fixed, moving = (dr.open(data / f"images2d/itk_brain/Brain{n}.png", channel=0) for n in names)
    for model in ("translation", "rigid"):
        for name, tool in tools.items():
            found, seconds = timed(tool, fixed, moving, model=model, metric="mi")
            centre = dr.grid(fixed).centre
            error = np.linalg.norm(found(centre) - centre - (17, 13))
            yield Outcome(f"brain T1-PD {model}", name, {"px from the stated shift": error}, seconds)


def ct_head(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """CT slices of two heads with masks."""
    folder = data / "images2d/ct_head"
    fixed, moving = (dr.open(folder / f"CT_2D_head_{n}.mha") for n in ("fixed", "moving"))
    masks = [dr.open(folder / f"CT_2D_head_{n}_mask.mha") for n in ("fixed", "moving")]
    mask = masks[0].values > 0

    def judge(found: Affine) -> dict[str, float]:
        warped = np.nan_to_num(resampled(masks[1], found, dr.grid(fixed))[0]) > 0.5
        dice = 2 * (warped & mask).sum() / (warped.sum() + mask.sum())
        return {"dice of masks": dice, "ncc": correlation(fixed, moving, found)}

    yield from side_by_side("CT head", fixed, moving, tools, judge, mask=mask)


def r16_r64(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """Two brain slices."""
    fixed, moving = (dr.open(data / f"images2d/brain_r16_r64/{n}slice.nii.gz") for n in ("r16", "r64"))
    mask = fixed.values > 0

    def judge(found: Affine) -> dict[str, float]:
        warped = np.nan_to_num(resampled(moving, found, dr.grid(fixed))[0]) > 0
        dice = 2 * (warped & mask).sum() / (warped.sum() + mask.sum())
        return {"dice of brains": dice, "ncc": correlation(fixed, moving, found)}

    yield from side_by_side("r16-r64", fixed, moving, tools, judge, mask=mask)


def histology(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """HE and proSPC stains of neighbouring sections, 78 landmarks, from the identity."""
    stem = data / "images2d/histology/lesions_/scale-5pc/Izd2-29-041-w35_"
    fixed, moving = (dr.open(f"{stem}{n}.jpg", channel=1) for n in ("HE", "proSPC"))
    marks = [np.loadtxt(f"{stem}{n}.csv", delimiter=",", skiprows=1)[:, :0:-1] for n in ("HE", "proSPC")]

    def error(found: Affine) -> float:
        return float(np.median(np.linalg.norm(found(marks[0]) - marks[1], axis=1)))

    ones = np.concatenate([marks[0], np.ones((len(marks[0]), 1))], axis=1)
    best = Affine(np.linalg.lstsq(ones, marks[1], rcond=None)[0].T)
    print(f"{'histology':28} identity {error(Affine.identity(2)):.4g} px, best affine {error(best):.4g} px")
    for metric in ("ncc", "mi"):
        for name, tool in tools.items():
            found, seconds = timed(tool, fixed, moving, model="affine", metric=metric, init="identity")
            yield Outcome(f"histology {metric}", name, {"median landmark error, px": error(found)}, seconds)


def flair(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """One volume as NIfTI and as NRRD: the truth is the identity."""
    fixed, moving = (dr.open(data / f"volumes3d/niivue/FLAIR.{s}") for s in ("nii.gz", "nrrd"))
    for name, tool in tools.items():
        found, seconds = timed(tool, fixed, moving, model="affine", metric="ncc")
        facts = {"voxels from identity, corner": corner(found, Affine.identity(3), dr.grid(fixed))}
        yield Outcome("FLAIR nii-nrrd", name, facts, seconds)


def epi(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """T1 and an oblique EPI that are about aligned in the world."""
    fixed, moving = (dr.open(data / f"volumes3d/epi_anat/someones_{n}.nii.gz") for n in ("anatomy", "epi"))
    where, still = dr.grid(fixed), Affine.identity(3)
    for model in ("rigid", "affine"):
        for name, tool in tools.items():
            found, seconds = timed(tool, fixed, moving, model=model, metric="mi", init="identity")
            facts = {
                "voxels from identity, corner": corner(found, still, where),
                "voxels from identity, rms": apart(found, still, where) / where.spacing[0],
            }
            yield Outcome(f"T1-EPI {model}", name, facts, seconds)


def chris(data: Path, tools: dict[str, Tool]) -> Iterator[Outcome]:
    """A head to the MNI152 template, affine, there and back, at 2 mm; judged at 1 mm.

    The template has no skull: its mask leaves out what only the other image shows.
    """
    template = dr.open(next((data / "volumes3d/mni152").glob("*.nii.gz"))).load()
    head = dr.open(data / "volumes3d/niivue/chris_t1.nii.gz").load()
    small, other = (v.astype("f4").coarsen(z=2, y=2, x=2, boundary="trim").mean() for v in (template, head))
    brain_ = small.values > 5
    for metric, mask in (("ncc", None), ("ncc", brain_), ("ncc, lncc", brain_), ("mi", None), ("mi", brain_)):
        for name, tool in tools.items():
            if (name, metric) in {("daskreg", "mi"), ("elastix", "ncc, lncc")}:
                continue  # takes minutes; does not exist
            there, seconds = timed(tool, small, other, model="affine", metric=metric, fixed_mask=mask)
            back, more = timed(tool, other, small, model="affine", metric=metric, moving_mask=mask)
            facts = {
                "local ncc": local_correlation(template, head, there),
                "ncc": correlation(template, head, there),
                "there and back, mm rms": apart(
                    back @ there, Affine.identity(3), dr.grid(template), mask=template.values > 0
                ),
            }
            yield Outcome(f"chris-MNI {metric}{'' if mask is None else ', mask'}", name, facts, (seconds + more) / 2)


def side_by_side(
    case: str,
    fixed: xr.DataArray,
    moving: xr.DataArray,
    tools: dict[str, Tool],
    judge: Callable[[Affine], dict[str, float]],
    *,
    mask: np.ndarray,
) -> Iterator[Outcome]:
    """Rigid and affine by both metrics; the distance from the first tool's result over the mask."""
    for model in ("rigid", "affine"):
        for metric in ("ncc", "mi"):
            first: Affine | None = None
            for name, tool in tools.items():
                found, seconds = timed(tool, fixed, moving, model=model, metric=metric)
                facts = judge(found)
                if first is not None:
                    facts["px rms from daskreg"] = apart(first, found, dr.grid(fixed), mask=mask)
                first = first or found
                yield Outcome(f"{case} {model} {metric}", name, facts, seconds)


def corner(a: Affine, b: Affine, where: Grid) -> float:
    """Largest distance of the corners, in the smallest spacing."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in where.shape], indexing="ij")).reshape(where.ndim, -1).T
    points = where.world(ends)
    return float(np.linalg.norm(a(points) - b(points), axis=1).max() / min(where.spacing))


def timed(tool: Tool, fixed: xr.DataArray, moving: xr.DataArray, **options: Any) -> tuple[Affine, float]:
    """The result of a tool, and its seconds; the identity, with a message, where the tool fails."""
    fixed, moving = fixed.load(), moving.load()
    began = time.perf_counter()
    try:
        found = tool(fixed, moving, **options)
    except RuntimeError as error:
        print(f"{tool.__name__} failed, counted as identity: {str(error).splitlines()[-1][:120]}")
        found = Affine.identity(dr.grid(fixed).ndim)
    return found, time.perf_counter() - began


CASES: dict[str, Case] = {c.__name__: c for c in (brain, ct_head, r16_r64, histology, flair, epi, chris)}


def main() -> None:
    import importlib.util

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--case", action="append", choices=CASES, help="only these")
    parser.add_argument("--tool", action="append", choices=TOOLS, help="only these")
    options = parser.parse_args()
    tools = {}
    for name, (tool, module) in TOOLS.items():
        if options.tool and name not in options.tool:
            continue
        if importlib.util.find_spec(module) is None:
            print(f"{name}: left out, {module} is not installed")
        else:
            tools[name] = tool
    warnings.simplefilter("ignore")
    square = xr.DataArray(ndimage.gaussian_filter(np.random.default_rng(0).random((64, 64)), 2), dims=("y", "x"))
    for tool in tools.values():  # compilation and imports are not measured
        tool(square, square, model="rigid", metric="ncc")
    for name in options.case or CASES:
        for outcome in CASES[name](options.data, tools):
            print(outcome, flush=True)


if __name__ == "__main__":
    main()
