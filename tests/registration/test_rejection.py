"""Outlier regions have no weight, in each pair its own."""

from __future__ import annotations

import torch

from daskreg.geometry import Grid
from daskreg.registration.pyramids.pyramid import PyramidLevel, image_batch, smooth
from daskreg.registration.rejection import with_inliers


def test_pairs_that_share_a_fixed_image_have_inliers_of_their_own():
    generator = torch.Generator().manual_seed(0)
    shared = image_batch(torch.randn((1, 40, 44), generator=generator), Grid((40, 44)))
    moving = image_batch(torch.randn((3, 40, 44), generator=generator), Grid((40, 44)))
    inliers = torch.rand((3, 40, 44), generator=generator) > 0.2
    together = smooth(with_inliers(PyramidLevel(shared, moving, 1.0), inliers).fixed, (1, 1))
    for k in range(3):
        alone = smooth(with_inliers(PyramidLevel(shared, moving, 1.0), inliers[k : k + 1]).fixed, (1, 1))
        assert torch.equal(together.values[k], alone.values[0])
        assert torch.equal(together.weight[k], alone.weight[0])
