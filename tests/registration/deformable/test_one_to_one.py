"""When a layer of B-splines is known to be one to one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from daskreg.geometry import Affine, Grid
from daskreg.registration.deformable.splines.control_grid import ControlGrid, control_grids, subdivided
from daskreg.registration.deformable.splines.layers import Layers
from daskreg.registration.deformable.splines.one_to_one import _definite, is_one_to_one, share_of_step


def control_of(ndim: int) -> ControlGrid:
    return control_grids(Grid((40, 30, 21)[:ndim], (1.0, 1.5, 2.0)[:ndim], 5.0), (8.0, 9.0, 10.0)[:ndim])[-1]


def derivatives(control: ControlGrid, c: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, D, D) of the layer at random points of the image, by differences."""
    points = control.image.world(
        np.random.default_rng(0).uniform(0, np.array(control.image.shape) - 1, (1000, control.ndim))
    )
    field, h = control.field(c), 1e-5
    return np.stack([(field(points + h * e) - field(points - h * e)) / (2 * h) for e in np.eye(control.ndim)], -1)


@pytest.mark.parametrize("ndim", [2, 3])
def test_steps_end_before_a_layer_folds(ndim: int) -> None:
    control, rng = control_of(ndim), np.random.default_rng(ndim)
    for size in (0.3, 1.0, 3.0):
        step = rng.normal(size=(ndim, *control.shape)) * size * np.reshape(control.spacing, (-1, *[1] * ndim)) / 4
        share = share_of_step(control, np.zeros_like(step), step)
        assert share == 1 if size < 1 else share > 0
        assert share < 1 or size < 3
        assert is_one_to_one(control, share * step)
        assert np.linalg.det(derivatives(control, share * step)).min() > 0
        if share < 1:
            assert not is_one_to_one(control, min(1.0, share + 1 / 32) * step)


@pytest.mark.parametrize("ndim", [2, 3])
def test_halving_where_it_is_needed_knows_what_halving_everywhere_does(ndim: int) -> None:
    control, rng, known = control_of(ndim), np.random.default_rng(0), []
    spacing = np.array(control.spacing)
    for size in np.linspace(0.3, 1.0, 29):
        smooth = np.stack([gaussian_filter(c, 1.0) for c in rng.normal(size=(ndim, *control.shape))])
        c = smooth * (size / np.abs(smooth).max()) * np.reshape(spacing, (-1, *[1] * ndim))
        fine = c
        for axis in range(1, ndim + 1):
            fine = subdivided(fine, axis)
        cells = _definite(c, spacing), _definite(fine, spacing / 2)
        assert is_one_to_one(control, c) == bool(cells[0].all() or cells[1].all())
        known.append(is_one_to_one(control, c) and not cells[0].all())
    assert 0 < sum(known) < len(known)  # there are layers that only halving tells


@pytest.mark.parametrize("ndim", [2, 3])
def test_smooth_layers_may_be_larger_than_rough_ones(ndim: int) -> None:
    """Of nearly one distance of control points, where the symmetric part of the derivative is positive definite."""
    control = control_of(ndim)
    place = np.indices(control.shape)
    size = 0.9 * np.reshape(control.spacing, (-1, *[1] * ndim))
    for period, known in ((24.0, True), (8.0, False)):
        c = size * np.stack([np.sin(2 * np.pi * (place[a] + place[(a + 1) % ndim]) / period) for a in range(ndim)])
        found = derivatives(control, c)
        least = np.linalg.eigvalsh((found + found.swapaxes(1, 2)) / 2).min()
        assert (least > 0.2, least < 0) == (known, not known)
        assert is_one_to_one(control, c) == known
    assert size.max() > control.limits.max()
    assert not is_one_to_one(control, np.broadcast_to(1.2 * size, c.shape))  # leaves the layers before


@pytest.mark.parametrize("ndim", [2, 3])
def test_layers_together_lead_no_point_to_where_one_of_them_ends(ndim: int) -> None:
    """Several in one direction, over the border, beyond which the field of a layer is zero."""
    control = control_of(ndim)
    layers = Layers.start(Affine.identity(ndim), control)
    for _ in range(5):
        wanted = np.broadcast_to(-0.95 * np.reshape(control.spacing, (-1, *[1] * ndim)), layers.current.shape)
        step, share = layers.allowed(wanted)
        assert share == 1
        layers = layers.at(step).finish()
    image = control.image
    points = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 25) for n in image.shape], indexing="ij"), -1)
    moved = layers.transform(image.world(points.reshape(-1, ndim))).reshape(points.shape)
    h = [(n - 1) / 24 * s for n, s in zip(image.shape, image.spacing, strict=True)]
    slopes = np.stack([np.diff(moved, axis=a).min(tuple(range(ndim)))[a] / h[a] for a in range(ndim)])
    assert slopes.min() > 0.05
