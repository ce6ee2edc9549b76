"""The sums of a Gauss-Newton step: compiled code, torch and the definition agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from daskreg.geometry import Grid
from daskreg.registration.normal_equations import equations_torch
from daskreg.registration.normal_equations.edge_weights import fixed_weight, scaling
from daskreg.registration.normal_equations.equations import NormalEquationsNumba
from daskreg.registration.normal_equations.equations_torch import NormalEquationsTorch
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch

SHAPES = [((40, 50), (44, 30)), ((10, 12, 14), (12, 9, 20)), ((1, 9, 8), (2, 9, 8))]


def problem(shapes, *, masked, shared):
    generator = torch.Generator().manual_seed(1)
    batch = 3

    def some(shape, n):
        values = torch.randn((n, *shape), generator=generator)
        mask = torch.rand((n, *shape), generator=generator) > 0.1 if masked else None
        return image_batch(values, Grid(shape), mask)

    level = PyramidLevel(some(shapes[0], 1 if shared else batch), some(shapes[1], batch), 1.0)
    ndim = len(shapes[0])
    maps = torch.eye(ndim + 1, dtype=torch.float64)[:ndim].repeat(batch, 1, 1)
    maps = maps + 0.1 * torch.randn(maps.shape, generator=generator, dtype=torch.float64)
    return level, maps.numpy() @ scaling(shapes[0])


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("masked", "shared"), [(False, False), (True, False), (True, True)])
def test_compiled_and_torch_agree(shapes, masked, shared):
    level, maps = problem(shapes, masked=masked, shared=shared)
    compiled, by_torch = NormalEquationsNumba(level), NormalEquationsTorch(level)
    for index in (np.arange(3), np.array([0, 2])):
        a, b = compiled.take(index)(maps[index]), by_torch.take(index)(maps[index])
        for name in ("scalars", "j", "jw", "jd", "jj"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("masked", [False, True])
def test_torch_in_pieces(masked, monkeypatch):
    for shapes in SHAPES:
        level, maps = problem(shapes, masked=masked, shared=masked)
        whole = NormalEquationsTorch(level)(maps)
        monkeypatch.setattr(equations_torch, "_VOXELS_AT_ONCE", 3 * 7 * shapes[0][-1])
        parts = NormalEquationsTorch(level)(maps)
        monkeypatch.undo()
        for name in ("scalars", "j", "jw", "jd", "jj"):
            x, y = getattr(whole, name), getattr(parts, name)
            np.testing.assert_allclose(y, x, atol=1e-9 * np.abs(x).max())


@pytest.mark.parametrize("shapes", SHAPES[:2])
def test_sums_are_what_they_say(shapes):
    level, maps = problem(shapes, masked=False, shared=False)
    out, weight = NormalEquationsTorch(level).warp(torch.from_numpy(maps))
    w = out.double()
    d, v = level.fixed.values.double() - w, weight.double()
    # What the gradient of the fixed image is in voxels of the moving one.
    index = torch.from_numpy(np.linalg.inv(maps[:, :, :-1] @ np.linalg.inv(scaling(shapes[0])[:-1, :-1])))
    slopes = torch.stack(torch.gradient(level.fixed.values.double(), dim=tuple(range(1, out.ndim))), 1)
    g = torch.einsum("bkd,bk...->bd...", index, slopes)
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in shapes[0]]
    xi = torch.stack([*torch.meshgrid(*axes, indexing="ij"), torch.ones(shapes[0], dtype=torch.float64)])
    j = (g[:, :, None] * xi).flatten(3).flatten(1, 2)
    sums = NormalEquationsNumba(level)(maps)
    expected = {
        "scalars": torch.stack([(v * x).flatten(1).sum(1) for x in (v * 0 + 1, d, w, d * d, d * w, w * w)], 1),
        "j": (j * v.flatten(1)[:, None]).sum(2),
        "jw": (j * (v * w).flatten(1)[:, None]).sum(2),
        "jd": (j * (v * d).flatten(1)[:, None]).sum(2),
        "jj": (j * v.flatten(1)[:, None]) @ j.mT,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(sums, name), value, atol=1e-4 * float(value.abs().max()))


def test_threads_change_no_bit():
    level, maps = problem(((300, 300), (300, 300)), masked=False, shared=False)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(NormalEquationsNumba(level)(maps))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].jj, other.jj)
        np.testing.assert_array_equal(found[0].scalars, other.scalars)


def test_edges_weigh_less():
    level, _ = problem(((60, 20), (60, 20)), masked=False, shared=True)
    weight = fixed_weight(level)[0]
    np.testing.assert_allclose(weight[:3, 10], [0.25, 0.75, 1.0])
    np.testing.assert_allclose(weight[30, :2], [0.5, 1.0])
