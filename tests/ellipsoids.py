"""Ellipsoids whose line integrals are known in closed form, at any angle and pose of the detector."""

from __future__ import annotations

import numpy as np


class Ellipsoids:
    """A large ellipsoid with smaller ones inside, within `size` voxels; axes (z, and two in the plane, turned)."""

    def __init__(self, size, *, count=14, seed=0):
        rng = np.random.default_rng(seed)
        self.size, r = size, size / 2
        inner = rng.uniform(-0.4, 0.4, (count, 3)) * r
        axes = rng.uniform(0.05, 0.22, (count, 3)) * r
        self.centres = np.concatenate([[[0, 0.03 * r, -0.02 * r]], inner])
        self.axes = np.concatenate([[[0.7 * r, 0.72 * r, 0.6 * r]], axes])
        self.turns = np.concatenate([[0.3], rng.uniform(0, np.pi, count)])
        self.values = np.concatenate([[1.0], rng.uniform(-0.6, 1.2, count)]) / r

    def project(self, angles, shape, *, shifts=0.0, turn=0.0, axis=None, samples=2):
        """(A, rows, columns) line integrals: a point is seen at row z and column axis + x cos + y sin, then turned
        about the middle of the detector and shifted; means of samples x samples points of a pixel."""
        angles = np.asarray(angles, dtype=float)
        shifts = np.broadcast_to(shifts, (len(angles), 2))
        turn = np.broadcast_to(turn, len(angles))
        middle = (np.array(shape) - 1) / 2
        axis = middle[1] if axis is None else axis
        inside = (np.arange(samples) + 0.5) / samples - 0.5
        out = np.zeros((len(angles), *shape))
        for dv in inside:
            for du in inside:
                v, u = np.mgrid[: shape[0], : shape[1]] + np.array([dv, du])[:, None, None]
                v = v - middle[0] - shifts[:, 0, None, None]
                u = u - middle[1] - shifts[:, 1, None, None]
                c, s = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
                out += self._at(c * v - s * u, s * v + c * u - (axis - middle[1]), angles[:, None, None])
        return out / samples**2

    def _at(self, z, u, angles):
        total = np.zeros(np.broadcast(z, u, angles).shape)
        for (z0, y0, x0), (c, a, b), turn, value in zip(self.centres, self.axes, self.turns, self.values, strict=True):
            width = (a * np.cos(angles - turn)) ** 2 + (b * np.sin(angles - turn)) ** 2
            off = u - x0 * np.cos(angles) - y0 * np.sin(angles)
            inside = width * (1 - ((z - z0) / c) ** 2) - off**2
            total += value * 2 * a * b / width * np.sqrt(np.maximum(inside, 0))
        return total

    def volume(self, shape, samples=2):
        """(Z, Y, X) means over voxels, the origin in the middle."""
        out = np.zeros(shape)
        inside = (np.arange(samples) + 0.5) / samples - 0.5
        for offsets in np.stack(np.meshgrid(inside, inside, inside), axis=-1).reshape(-1, 3):
            z, y, x = (
                np.moveaxis(np.mgrid[tuple(slice(n) for n in shape)], 0, -1) + offsets - (np.array(shape) - 1) / 2
            ).transpose(3, 0, 1, 2)
            for (z0, y0, x0), (c, a, b), t, value in zip(self.centres, self.axes, self.turns, self.values, strict=True):
                p = (x - x0) * np.cos(t) + (y - y0) * np.sin(t)
                q = -(x - x0) * np.sin(t) + (y - y0) * np.cos(t)
                out += value * ((p / a) ** 2 + (q / b) ** 2 + ((z - z0) / c) ** 2 <= 1)
        return out / samples**3
