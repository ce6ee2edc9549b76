"""What is opened, held against other readers: places of corners, values of boxes."""

from __future__ import annotations

import pickle

import numpy as np
import SimpleITK as sitk  # noqa: N813

from daskreg.geometry import Box
from daskreg.volumes import grid, volume_of


def turned(angles=(0.2, -0.3, 0.5), spacing=(0.7, 1.1, 2.5), origin=(-12.0, 30.0, 7.5)):
    """An affine of NIfTI (x, y, z; RAS) without shear."""
    matrix = np.eye(4)
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = one @ turn
    matrix[:3, :3], matrix[:3, 3] = turn * spacing, origin
    return matrix


def corners(shape):
    return np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(len(shape), -1).T


def agrees_with_itk(path, volume):
    """Corners of the spatial grid lie where SimpleITK puts them."""
    image, where = sitk.ReadImage(str(path)), grid(volume)
    for corner in corners(where.shape):
        index = [int(i) for i in corner[::-1]] + [0] * (image.GetDimension() - where.ndim)
        expected = image.TransformIndexToPhysicalPoint(index)[: where.ndim][::-1]
        np.testing.assert_allclose(where.world(corner), expected, atol=2e-4 * min(where.spacing))


def boxes_agree(volume, expected, *, seed=0, atol=0.0):
    """Random boxes read through the source are those of the whole array."""
    source, rng = volume_of(volume).source, np.random.default_rng(seed)
    source = pickle.loads(pickle.dumps(source))
    for _ in range(8):
        ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in source.shape]
        box = Box(tuple(int(a) for a, _ in ends), tuple(int(b) for _, b in ends))
        np.testing.assert_allclose(source.read(box), expected[box.slices], rtol=0, atol=atol)
    np.testing.assert_allclose(volume.values, expected, rtol=0, atol=atol)
