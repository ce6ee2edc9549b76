"""Hypothesis strategies for boxes, grids and transforms, of numbers that real data has."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from daskreg.geometry import Affine, Box, Grid, SliceAffines

Floats = NDArray[np.float64]

settings.register_profile(
    "daskreg",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("daskreg")

UNITS = ("pixel", "nanometer", "micrometer", "millimeter")

ndims = st.sampled_from((2, 3))


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats without the extremes (subnormals) that no image has."""
    return st.floats(low, high, allow_subnormal=False).map(lambda v: round(v, 6))


def vectors(ndim: int, low: float = -100.0, high: float = 100.0) -> st.SearchStrategy[Floats]:
    return st.lists(numbers(low, high), min_size=ndim, max_size=ndim).map(np.array)


def shapes(ndim: int, *, largest: int = 40) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, largest)] * ndim)


@st.composite
def boxes(draw: st.DrawFn, ndim: int, *, low: int = -30, high: int = 30, empty: bool = True) -> Box:
    start = draw(st.tuples(*[st.integers(low, high)] * ndim))
    size = draw(st.tuples(*[st.integers(0 if empty else 1, 20)] * ndim))
    return Box(start, tuple(a + n for a, n in zip(start, size, strict=True)))


@st.composite
def rotations(draw: st.DrawFn, ndim: int, *, flips: bool = True) -> Floats:
    """Orthonormal matrices, among them reflections and permutations of axes."""
    kind = draw(st.sampled_from(("axes", "any")))
    if kind == "axes":
        q = np.eye(ndim)[list(draw(st.permutations(range(ndim))))]
    else:
        angles = draw(vectors(1 if ndim == 2 else 3, -np.pi, np.pi))
        named = {"theta": angles[0]} if ndim == 2 else dict(zip(("rx", "ry", "rz"), angles, strict=True))
        q = np.array(Affine.from_parameters(named, ndim=ndim).linear)
    signs = draw(st.tuples(*[st.sampled_from((-1.0, 1.0))] * ndim)) if flips else (1.0,) * ndim
    q = q * np.array(signs)
    if not flips and np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


@st.composite
def grids(
    draw: st.DrawFn, ndim: int, *, oblique: bool | None = None, largest: int = 40, unit: str | None = None
) -> Grid:
    """Grids of any spacing and origin; `oblique` None means either."""
    turned = draw(st.booleans()) if oblique is None else oblique
    return Grid(
        draw(shapes(ndim, largest=largest)),
        draw(vectors(ndim, 0.05, 20.0)),
        draw(vectors(ndim, -500.0, 500.0)),
        draw(rotations(ndim)) if turned else None,
        unit or draw(st.sampled_from(UNITS)),
    )


@st.composite
def parameters(draw: st.DrawFn, ndim: int, *, upper: bool = True) -> dict[str, float]:
    """Named parameters, away from singular maps; `upper`: only the shears that are unique."""
    angle, shift, shear = numbers(-1.5, 1.5), numbers(-50.0, 50.0), numbers(-0.6, 0.6)
    scale = numbers(0.3, 3.0)
    if ndim == 2:
        named: dict[str, Any] = {"theta": numbers(-3.1, 3.1), "tx": shift, "ty": shift, "sx": scale, "sy": scale}
        named |= {"shx": shear} | ({} if upper else {"shy": shear})
    else:
        named = {"rx": numbers(-3.1, 3.1), "ry": angle, "rz": numbers(-3.1, 3.1)}
        named |= {"tx": shift, "ty": shift, "tz": shift, "sx": scale, "sy": scale, "sz": scale}
        named |= {"shxy": shear, "shxz": shear, "shyz": shear}
        named |= {} if upper else {n: numbers(-0.3, 0.3) for n in ("shyx", "shzx", "shzy")}
    return {name: draw(strategy) for name, strategy in named.items()}


@st.composite
def affines(draw: st.DrawFn, ndim: int, *, unit: str | None = None) -> Affine:
    """Affine maps of a condition that images have, reflections among them."""
    named = draw(parameters(ndim))
    flip = draw(st.sampled_from((-1.0, 1.0)))
    named["sx"] *= flip
    return Affine.from_parameters(named, ndim=ndim, unit=unit)


@st.composite
def slice_affines(draw: st.DrawFn, ndim: int = 2, *, unit: str | None = None) -> SliceAffines:
    maps = draw(st.lists(affines(ndim), min_size=1, max_size=5))
    return SliceAffines([m.matrix for m in maps], axis=0, unit=unit, start=draw(st.integers(0, 4)))
