"""The mutual information of two images, against a closed form and finite differences."""

from __future__ import annotations

import numpy as np

from daskreg.registration.deformable.mutual_information import Bins, dependence


def test_jointly_normal_images_have_the_dependence_of_their_correlation() -> None:
    rng, r = np.random.default_rng(0), 0.8
    fixed = rng.normal(size=(301, 407)).astype(np.float32)
    warped = (r * fixed + np.sqrt(1 - r * r) * rng.normal(size=fixed.shape)).astype(np.float32)
    ends = Bins.of(fixed, np.isfinite(fixed)), Bins.of(warped, np.isfinite(warped))
    found = dependence(fixed, warped, np.ones_like(fixed), ends)
    assert abs(found.nats + np.log(1 - r * r) / 2) < 0.05  # windows blur the joint distribution a little
    inner = np.abs(fixed) < 1.5
    # d/df of log p(w | f) for normal values, and its mean square.
    score = r * (warped - r * fixed) / (1 - r * r)
    assert np.corrcoef(found.by_fixed[inner], score[inner])[0, 1] > 0.97
    assert abs(found.information[inner].mean() / (r * r / (1 - r * r)) - 1) < 0.25
    assert np.corrcoef(found.predicted[inner], warped[inner])[0, 1] > 0.99


def test_the_derivative_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    fixed = rng.normal(size=(23, 31)).astype(np.float32)
    warped = (np.abs(fixed) + 0.3 * rng.normal(size=fixed.shape)).astype(np.float32)
    weight = rng.uniform(size=fixed.shape).astype(np.float32)
    ends = Bins(-2.0, 2.0), Bins(-0.5, 2.5)
    found = dependence(fixed, warped, weight, ends)
    direction, step = rng.normal(size=fixed.shape).astype(np.float32), np.float32(1e-3)
    up, down = (dependence(fixed, warped + s * direction, weight, ends).nats for s in (step, -step))
    slope = float((weight * found.by_warped * direction).sum() / weight.sum())
    np.testing.assert_allclose((up - down) / (2 * step), slope, rtol=0.05)
