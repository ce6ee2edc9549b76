"""`register`: where each point of a fixed image is found in a moving one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from daskreg.errors import NoOverlapError, OptionError, ShapeMismatchError
from daskreg.geometry import Affine, Grid, as_affine, common_unit
from daskreg.registration.autograd import OPTIMIZERS, Slope, best_of, slope
from daskreg.registration.images import Image, read_image
from daskreg.registration.initial_pose import STARTS, all_turns, believed, candidates, near_turns, views
from daskreg.registration.levenberg_marquardt import Problem
from daskreg.registration.masked_pyramids import Ways, ways
from daskreg.registration.metrics import Loss, loss_of
from daskreg.registration.multiresolution import METRICS, Descent, descend_levels, half_extent
from daskreg.registration.pose import Pose
from daskreg.registration.pyramid import all_finite, picture
from daskreg.reporting.fit import Fit
from daskreg.runtime.device import library_threads, limit_threads, resolve
from daskreg.runtime.threads import use_threads

Floats = NDArray[np.float64]

_LOW_OVERLAP = 0.25
_LOW_NCC = 0.2
# A correlation below this is chance where the centre is not known to so many voxels.
_FAIR_NCC, _VAGUE = 0.5, 3.0
VOXELS_PER_THREAD = 2**21
_MIN_OVERLAP = 0.15
_ANGLES = ("theta", "rx", "ry", "rz")


class FitStatus(Enum):
    """How an estimate ended; the value says what to do about it."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "stopped before it converged: raise max_iterations, or give a better init"
    LOW_OVERLAP = "little of the images overlaps: check the coordinates and units, or give init= or masks"
    LOW_SCORE = 'the images hardly agree: try init="search", metric="mi" for another modality, or masks'
    NO_IMPROVEMENT = 'nothing better than the start was found: try init="search", or another metric'


@dataclass(frozen=True, eq=False, repr=False)
class PairFit(Fit):
    """Where each point of the fixed image is found in the moving image, and how sure that is.

    Args:
        moving_from_fixed: the motion, on world points: `warp(moving, pull=fit.moving_from_fixed,
            like=fixed)` registers.
        parameters: of M = T . R . Sh . S about `centre`, every one by name; radians, world units.
        centre: (D,) world point, array order: the centre of the fixed grid.
        status: how it ended; its value names the remedy.
        score: the metric before and after, on the finest level (ncc: correlation, higher is
            better; the others: losses, lower is better; mse in the images' units squared).
        overlap: fraction of the smaller image that took part.
        losses: over the iterations of the finest level, lower is better.
        covariance: (P, P) of the free parameters `free`, in their order; None where the
            metric has no Gauss-Newton form.
        free: names of the parameters that were estimated.
        masked: fractions of the voxels of fixed and moving that did not count (mask, NaN).
        iterations, seconds: what it took, over all levels.
        inverse_error: voxels by which the farthest corner of the fixed image is missed there and back;
            None unless asked for.
    """

    kind: ClassVar[str] = "pair"
    moving_from_fixed: Affine
    parameters: Mapping[str, float]
    centre: Floats
    status: FitStatus
    score: tuple[float, float]
    overlap: float
    losses: Floats
    covariance: Floats | None
    free: tuple[str, ...]
    model: str | tuple[str, ...]
    metric: str
    masked: tuple[float, float]
    iterations: int
    seconds: float
    inverse_error: float | None = None
    _images: tuple[Image, Image] | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the estimate can be trusted as far as it can tell itself."""
        return self.status is FitStatus.CONVERGED

    @property
    def sigma(self) -> dict[str, float]:
        """One standard deviation of each free parameter, as the noise of the residual tells."""
        if self.covariance is None:
            return {}
        return dict(zip(self.free, np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def transform(self) -> Affine:
        return self.moving_from_fixed

    def facts(self) -> dict[str, Any]:
        return {"sigma": self.sigma, **{name: getattr(self, name) for name in _FACTS}}

    def plot(self, fixed: Any = None, moving: Any = None) -> Any:
        """A matplotlib figure: both images before and after, and the losses."""
        from daskreg.reporting import plots

        if self._images is None:
            return plots.pair(self, fixed, moving)
        mine = [i.values.cpu().numpy() for i in self._images]
        return plots.pair(self, *mine, fixed_grid=self._images[0].grid, moving_grid=self._images[1].grid)

    def __repr__(self) -> str:
        sigma, unit = self.sigma, self.moving_from_fixed.unit or "pixel"
        words = []
        for name, value in self.parameters.items():
            if name not in self.free and not ("scale" in self.free and name in ("sx", "sy", "sz")):
                continue
            factor = np.degrees(1.0) if name in _ANGLES else 1.0
            known = sigma.get(name, sigma.get("scale") if name in ("sx", "sy", "sz") else None)
            spread = "" if known is None else f" +- {known * factor:.2g}"
            suffix = " deg" if name in _ANGLES else f" {unit}" if name.startswith("t") else ""
            words.append(f"{name} {value * factor:.6g}{spread}{suffix}")
        ending = "" if self.ok else f"\n  {self.status.value}"
        return (
            f"PairFit({self.status.name.lower()}: {self.metric} {self.score[0]:.5g} -> {self.score[1]:.5g}, "
            f"overlap {self.overlap:.0%}, {self.iterations} iterations, {self.seconds:.2g} s\n"
            f"  moving from fixed, {self.model}: {', '.join(words)}{ending})"
        )


_FACTS = (
    "parameters",
    "centre",
    "status",
    "score",
    "overlap",
    "losses",
    "covariance",
    "free",
    "model",
    "metric",
    "masked",
    "iterations",
    "seconds",
    "inverse_error",
)


def register(
    fixed: Any,
    moving: Any,
    *,
    model: str | Sequence[str] = "affine",
    metric: str | Loss = "ncc",
    init: str | Affine | Any = "auto",
    levels: int | str = "auto",
    optimizer: str = "auto",
    fixed_mask: ArrayLike | None = None,
    moving_mask: ArrayLike | None = None,
    channel: int | str | None = None,
    smoothing: float = 0.5,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    check_inverse: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> PairFit:
    """Find the motion of `moving` against `fixed`: where each fixed point lies in the moving image.

    Args:
        fixed, moving: DataArrays, NumPy or dask arrays or tensors, 2D or 3D, whose shapes,
            spacings and origins may differ; NaN counts as masked.
        model: "translation", "rigid", "similarity", "affine", or groups out of "rotation",
            "translation", "scale", "shear". Groups left out stay locked on the motion.
        metric: "ncc" (any gain and offset), "mse" (equal brightness), "mae", "lncc" (uneven
            brightness), "mi" (other modalities), or a torch callable `loss(fixed, warped,
            weight)` of (1, *shape) tensors that returns one number, lower is better.
        init: "auto", "identity", "moments", "phase", "search" (all turns), an Affine
            `moving_from_fixed`, or another fit. A start that moves more must be clearly better.
        levels: of the pyramid; "auto" starts at about 32 voxels along the longest side.
        optimizer: "gauss-newton" (ncc, mse), "adam" or "lbfgs" (any metric); "auto" chooses.
        fixed_mask, moving_mask: arrays of the images' shapes, positive where voxels count.
        channel: number or label, for images with channels.
        smoothing: sigma of the finest level in voxels, of both images; more where noise drowns the gradients.
        max_iterations: for each level.
        check_inverse: register the other way round as well, from the inverse, and report how far there and
            back leads apart (`fit.inverse_error`).
        tolerance: stop when a step moves no corner by more than this many voxels.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
        progress: called with (levels done, levels).
        seed: of what is random; today nothing is.

    Returns: a PairFit; look at `fit.ok`, or call `fit.raise_if_failed()`.

    Raises: InputError's children for images that cannot be used (constant, empty, masked
        away, complex, apart in the world), OptionError for unknown options.
    """
    began = time.perf_counter()
    check_options(metric, optimizer, init)
    where = resolve(device)
    with limit_threads(1):
        f = read_image(fixed, what="fixed", mask=fixed_mask, channel=channel, device=where)
        m = read_image(moving, what="moving", mask=moving_mask, channel=channel, device=where)
    if f.grid.ndim != m.grid.ndim:
        raise ShapeMismatchError(f"fixed is {f.grid.ndim}D and moving {m.grid.ndim}D")
    unit = common_unit(f.grid.unit, m.grid.unit, "fixed and moving")
    pose = Pose.of(model, f.grid.ndim)
    if isinstance(init, Fit):
        init = init.pull
    start: str | Floats = init if isinstance(init, str) else as_affine(init, f.grid.ndim, "init").matrix
    if not isinstance(start, str) or start in ("auto", "identity"):
        check_meeting(f.grid, m.grid, np.eye(f.grid.ndim + 1) if isinstance(start, str) else start)
    problem = Problem(pose, f.grid.centre, str(metric), max_iterations, tolerance, _MIN_OVERLAP)
    newton = metric in METRICS and optimizer in ("auto", "gauss-newton")
    with limit_threads(_threads(f, m)), use_threads(library_threads()):
        found = _estimated(
            problem,
            f,
            m,
            init=start,
            levels=levels,
            smoothing=smoothing,
            loss=None if newton else loss_of(metric),
            optimizer="lbfgs" if optimizer == "auto" else optimizer,
            progress=progress,
        )
        hidden = (hidden_part(f), hidden_part(m))
    fit = fit_of(problem, found, f, m, model=model, metric=metric, unit=unit, masked=hidden)
    if check_inverse:
        back = register(
            moving,
            fixed,
            model=model,
            metric=metric,
            init=fit.moving_from_fixed.inverse(),
            optimizer=optimizer,
            fixed_mask=moving_mask,
            moving_mask=fixed_mask,
            channel=channel,
            smoothing=smoothing,
            max_iterations=max_iterations,
            tolerance=tolerance,
            device=device,
        )
        fit = replace(fit, inverse_error=_apart(fit.moving_from_fixed, back.moving_from_fixed, f.grid))
    return replace(fit, seconds=time.perf_counter() - began)


def fit_of(
    problem: Problem,
    found: dict[str, Any],
    f: Image,
    m: Image,
    *,
    model: str | Sequence[str],
    metric: str | Loss,
    unit: str | None,
    masked: tuple[float, float],
    seconds: float = 0.0,
) -> PairFit:
    """A PairFit from what an estimate found (see `of_descent`)."""
    pose, p = problem.pose, found.pop("parameters")
    return PairFit(
        moving_from_fixed=Affine(pose.motions(p, problem.centre)[0][0], unit=unit),
        parameters=pose.named(p)[0],
        centre=problem.centre,
        free=pose.names,
        model=model if isinstance(model, str) else pose.groups,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "callable"),
        masked=masked,
        seconds=seconds,
        _images=(f, m),
        **found,
    )


def _apart(there: Affine, back: Affine, grid: Grid) -> float:
    """Voxels by which a corner of the grid is missed, there and back."""
    corners = grid.corners()
    return float(np.linalg.norm(grid.index(back(there(corners))) - grid.index(corners), axis=1).max())


def _threads(fixed: Image, moving: Image) -> int:
    """As many as pay: the operations of small images are over before a second thread has begun."""
    voxels = max(fixed.values.numel(), moving.values.numel())
    return max(1, min(library_threads(), voxels // VOXELS_PER_THREAD))


def _estimated(
    problem: Problem,
    f: Image,
    m: Image,
    *,
    init: str | Floats,
    levels: int | str,
    smoothing: float,
    loss: Loss | None,
    optimizer: str,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The fields of a PairFit that the estimate gives: by Gauss-Newton, or by autograd where `loss` is given."""
    metric = problem.metric
    a, b = (picture(i.values[None], i.grid, None if i.mask is None else i.mask[None]) for i in (f, m))
    steps = ways(a, b, "mse" if metric == "mse" else "ncc", levels=levels, smoothing=smoothing)
    origin = parameters_of(problem, f.grid, [np.eye(f.grid.ndim + 1) if isinstance(init, str) else init])
    starts = origin
    if isinstance(init, str) and init != "identity":
        starts = parameters_of(problem, f.grid, candidates(steps, init))
    if loss is None:
        looks = {"auto": near_turns, "search": all_turns}
        turns = looks[init](f.grid.ndim) if isinstance(init, str) and init in looks else None
        return of_descent(_descended(problem, steps, starts, turns, origin=origin, progress=progress), metric)
    first = torch.from_numpy(origin)
    start = best_of(problem, steps.whole[0], torch.from_numpy(starts), loss)
    return _slope(slope(problem, steps.whole, start, loss, optimizer=optimizer, origin=first, progress=progress))


def check_options(metric: str | Loss, optimizer: str, init: Any) -> None:
    """Raise OptionError for options that are unknown or do not go together."""
    loss_of(metric)
    known = ("auto", "gauss-newton", *OPTIMIZERS)
    if optimizer not in known:
        raise OptionError(f"optimizer {optimizer!r} is unknown: use {', '.join(known)}")
    if optimizer == "gauss-newton" and metric not in METRICS:
        raise OptionError(f"gauss-newton minimises {' and '.join(METRICS)}; for {metric!r} use adam or lbfgs")
    if isinstance(init, str) and init not in STARTS:
        raise OptionError(f"init {init!r} is unknown: use {', '.join(STARTS)}, an Affine or a fit")


def check_meeting(fixed: Grid, moving: Grid, start: Floats) -> None:
    """Raise NoOverlapError where the fixed grid, moved by `start`, misses the moving grid."""
    corners = Affine(start)(fixed.corners(faces=True))
    low, high = moving.extent
    if np.any(corners.min(axis=0) >= high) or np.any(corners.max(axis=0) <= low):
        boxes = [
            ", ".join(f"{n} {a:.6g}..{b:.6g}" for n, a, b in zip(g.names, *g.extent, strict=True)) + f" {g.unit}"
            for g in (fixed, moving)
        ]
        raise NoOverlapError(
            f"the images do not meet in the world: fixed spans {boxes[0]}, moving {boxes[1]}; "
            'check their coordinates, or pass init="moments" or "search" to bring them together'
        )


def parameters_of(problem: Problem, grid: Grid, matrices: Sequence[Floats]) -> Floats:
    return problem.pose.from_matrices(np.stack(matrices), problem.centre, half_extent(grid)).numpy()


def _descended(
    problem: Problem, steps: Ways, starts: Floats, turns: Sequence[Floats] | None, **options: Any
) -> Descent:
    """From the best start to the end, and where flat borders leave a choice, the end to be believed."""
    followed = views(problem, steps, starts, turns=turns)
    ends = [
        descend_levels(problem, seen.whole, start, seen.variance, content=seen.content, **options)
        for seen, start in followed
    ]
    last = [(seen.whole[-1], end.parameters) for (seen, _), end in zip(followed, ends, strict=True)]
    return ends[-1] if len(ends) > 1 and believed(problem, *last) else ends[0]


def of_descent(found: Descent, metric: str, row: int = 0) -> dict[str, Any]:
    """The fields of a PairFit from one pair of a Descent."""
    overlap, after = float(found.overlap[row]), float(found.after[row])
    status = FitStatus.CONVERGED if found.converged[row] else FitStatus.MAX_ITERATIONS
    if not found.improved[row]:
        status = FitStatus.NO_IMPROVEMENT
    if overlap < _LOW_OVERLAP:
        status = FitStatus.LOW_OVERLAP
    elif metric == "ncc" and (not after >= _LOW_NCC or (after < _FAIR_NCC and _spread(found, row) > _VAGUE)):
        status = FitStatus.LOW_SCORE
    losses = found.losses[:, row]
    return {
        "parameters": found.parameters[row : row + 1],
        "status": status,
        "score": (float(found.before[row]), after),
        "overlap": overlap,
        "losses": losses[np.isfinite(losses)],
        "covariance": None if found.covariance is None else found.covariance[row],
        "iterations": int(found.iterations[row]),
    }


def _spread(found: Descent, row: int) -> float:
    """How far, by the covariance, the centre of the fixed image may be from where it was found, in voxels."""
    if found.covariance is None:
        return 0.0
    change = found.pose.motions(found.parameters[row : row + 1], found.centre)[1][0]
    moved = (change @ np.append(found.centre, 1.0))[:, :-1]
    return float(np.sqrt(max(np.trace(moved.T @ found.covariance[row] @ moved), 0.0)) / found.step)


def _slope(found: Slope) -> dict[str, Any]:
    """The fields of a PairFit from a descent by autograd."""
    status = FitStatus.CONVERGED if found.converged else FitStatus.MAX_ITERATIONS
    if not found.after <= found.before:
        status = FitStatus.NO_IMPROVEMENT
    if found.overlap < _LOW_OVERLAP:
        status = FitStatus.LOW_OVERLAP
    return {
        "parameters": found.parameters.numpy(),
        "status": status,
        "score": (found.before, found.after),
        "overlap": found.overlap,
        "losses": found.losses,
        "covariance": None,
        "iterations": found.iterations,
    }


def hidden_part(image: Image) -> float:
    """The fraction of the voxels that do not count."""
    if image.mask is None and all_finite(image.values):
        return 0.0
    valid = torch.isfinite(image.values)
    if image.mask is not None:
        valid = valid & image.mask
    return 1 - float(valid.to(torch.float64).mean())
