"""Sequences of images: every pair is registered as it would be alone, or by way of a third image."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from oracles import pull, random_walk
from scipy import ndimage

from daskreg.geometry import Grid
from daskreg.registration.pose import Pose
from daskreg.stacks import neighbor_registration
from daskreg.stacks.model import StackModel
from daskreg.stacks.neighbor_registration import ImageSequence, pairs_within
from daskreg.stacks.pair_registration import PairOptions, register_pairs
from daskreg.stacks.pair_table import PairTable, SliceFeatures, packed, reliable, unpacked
from daskreg.stacks.verdict.pair_errors import covariance_of

pytestmark = pytest.mark.slow

SHAPE = (300, 340)  # the finest level is for direct neighbours only


@pytest.fixture(scope="module")
def drift():
    return random_walk(5, SHAPE, step=2, turn=0.5, seed=0)


@pytest.fixture(scope="module")
def images(drift):
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 3)
    return torch.from_numpy(np.stack([pull(image, m, order=3)[0] for m in np.linalg.inv(drift)]).astype("f4"))


def apart(table, drift):
    """Voxels between where pairs bring the corners and where they belong."""
    truth = drift[table.edges[:, 1]] @ np.linalg.inv(drift[table.edges[:, 0]])
    corners = np.array([[0, 0, 1], [0, SHAPE[1], 1], [SHAPE[0], 0, 1], [*SHAPE, 1]]).T
    return np.linalg.norm(((table.matrices - truth) @ corners)[:, :2], axis=1).max(axis=1)


def sequence(images, blank=None, metric="ncc", model="rigid"):
    flat = np.zeros(len(images), bool) if blank is None else blank
    options = PairOptions(Pose.of(model, images.ndim - 1), metric)
    return ImageSequence(images, flat, Grid(tuple(images.shape[1:])), options)


@pytest.mark.parametrize("metric", ["ncc", "mse"])
def test_all_pairs_are_found(images, drift, metric):
    table = sequence(images, metric=metric).register(pairs_within(np.zeros(5, bool), 3))
    assert len(table) == 9
    assert apart(table, drift).max() < 0.06
    near = np.diff(table.edges, axis=1)[:, 0] == 1
    assert apart(table.take(near), drift).max() < 0.03
    alone = register_pairs(images[:1], images[1:2], Grid(SHAPE), PairOptions(Pose.of("rigid", 2), metric))[0]
    assert np.allclose(table.matrices[0], alone.matrices[0], atol=2e-2)
    assert np.allclose(table.scores[0], alone.after[0], rtol=0.05, atol=1e-3)
    assert reliable(table, StackModel(Pose.of("rigid", 2), Grid(SHAPE).centre, Grid(SHAPE), metric)).all()


def test_pairs_reach_over_blank_images():
    blank = np.array([False, True, True, False, False, True, False])
    assert pairs_within(blank, 1).tolist() == [[0, 3], [3, 4], [4, 6]]
    assert pairs_within(blank, 2).tolist() == [[0, 3], [0, 4], [3, 4], [3, 6], [4, 6]]
    assert pairs_within(np.ones(3, bool), 2).shape == (0, 2)


def test_what_is_not_wanted_is_left_out(images):
    edges = pairs_within(np.zeros(5, bool), 2)
    whole, part = sequence(images).register(edges), sequence(images).register(edges, wanted=edges[:, 1] >= 3)
    assert part.edges.tolist() == [[1, 3], [2, 3], [2, 4], [3, 4]]
    assert np.allclose(part.matrices, whole.matrices[edges[:, 1] >= 3], atol=1e-9)
    assert len(sequence(images).register(edges, wanted=edges[:, 1] >= 9)) == 0


def test_a_wrong_initial_pose_is_corrected_over_a_third_image(images, drift, monkeypatch):
    from daskreg.stacks import neighbor_registration

    found = neighbor_registration.identity_or_shift

    def misled(*args, **options):
        p = found(*args, **options)
        p[1, -2:] += 40  # the pair (0, 2)
        return p

    monkeypatch.setattr(neighbor_registration, "identity_or_shift", misled)
    table = sequence(images[:3]).register(pairs_within(np.zeros(3, bool), 2))
    assert apart(table, drift).max() < 0.06


def test_fields_tell_where_images_agree(images):
    torn = images.clone()
    torn[1, :, 170:] = torn[1, :, 170:].flip(0)
    table = sequence(torn).register(np.array([[0, 1]]))
    fields = table.fields[0].reshape(8, 8)
    assert np.nanmin(fields[1:-1, 1:3]) > 0.9
    assert np.nanmax(fields[1:-1, 5:7]) < 0.9


def test_features(images):
    some = images.clone()
    some[1] = some[0]
    some[2] = torch.from_numpy(ndimage.gaussian_filter(some[2].numpy(), 4))
    some[3] = 5
    blank = np.array([False, False, False, True, False])
    features = sequence(some, blank).features()
    assert features.digest[0] == features.digest[1] != features.digest[4]
    assert features.contrast[3] == 0
    assert features.texture[2, 0] < 0.3 * features.texture[0, 0]
    assert features.blank.tolist() == blank.tolist()


def test_tables_survive_being_text(images):
    table = sequence(images).register(np.array([[0, 1], [0, 2]]))
    back = unpacked(PairTable, packed(table))
    for name in ("edges", "matrices", "covariance", "scores", "similarity", "overlap", "fields", "evidence"):
        assert np.array_equal(getattr(back, name), getattr(table, name), equal_nan=True)
    older = io.BytesIO()
    with np.load(io.BytesIO(base64.b64decode(packed(table)))) as columns:
        np.savez(older, **{name: columns[name] for name in columns if name != "evidence"})
    assert np.isnan(unpacked(PairTable, base64.b64encode(older.getvalue()).decode()).evidence).all()
    features = sequence(images).features()
    assert np.array_equal(unpacked(SliceFeatures, packed(features)).digest, features.digest)
    with pytest.raises(ValueError):
        unpacked(SliceFeatures, "no base64!")


def test_earlier_levels_are_asked_only_where_gradients_are_noise(images, monkeypatch):
    asked = []
    evaluated = ImageSequence._evaluated
    monkeypatch.setattr(ImageSequence, "_evaluated", lambda self, *a: asked.append(a) or evaluated(self, *a))
    edges = pairs_within(np.zeros(5, bool), 1)
    sequence(images).register(edges)
    assert not asked
    noise = np.random.default_rng(5).normal(size=tuple(images.shape)) * 2 * float(images.std())
    sequence(images + torch.from_numpy(noise.astype(np.float32))).register(edges)
    assert asked


def test_images_that_agree_to_rounding_are_not_uncertain(images):
    exact = torch.stack([images[0, 10 : 10 + 201, k : k + 223] for k in (5, 4, 3)])
    covariance = sequence(exact, model="translation").register(np.array([[0, 1], [1, 2]])).covariance
    assert np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).max() < 0.1


def test_a_pose_that_went_astray_does_not_make_the_parts_of_all_pairs_large(images, monkeypatch):
    """Covariances are the same in parts, and no part has more voxels than are evaluated at once."""
    some = sequence(images)
    edges, level = pairs_within(np.zeros(5, bool), 2), some.levels[-1]
    p = np.zeros((len(edges), 3))
    p[:, 1:] = np.random.default_rng(7).normal(size=(len(edges), 2))
    p[3] = 0.9, 60, -50
    here = some._evaluated(level, edges, p)
    at_once, parts = some.covariance(level, edges, here), []

    def recorded(problem, part, iterate):
        parts.append((len(part.moving.values), part.moving.values.numel()))
        return covariance_of(problem, part, iterate)

    limit = SHAPE[0] * SHAPE[1]
    monkeypatch.setattr(neighbor_registration, "_VOXELS", {"cpu": limit})
    monkeypatch.setattr(neighbor_registration, "covariance_of", recorded)
    in_parts = some.covariance(level, edges, here)
    assert len(parts) > 2
    assert sum(pairs for pairs, _ in parts) == len(edges)
    assert max(voxels for _, voxels in parts) <= limit
    for one, other in zip(at_once, in_parts, strict=True):
        assert np.allclose(one, other, rtol=2e-3, atol=1e-9 * np.abs(one).max())
