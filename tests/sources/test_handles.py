"""Handles: opened once, shared among threads, and opened again when a first try failed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import nibabel
import numpy as np
import pytest

import daskreg as dr
from daskreg.errors import SourceLostError
from daskreg.sources import handles
from daskreg.sources.readers import nifti
from daskreg.volumes import volume_of

VALUES = np.random.default_rng(0).integers(0, 999, (20, 30, 40)).astype("i2")


def test_threads_unpack_a_file_once(tmp_path, monkeypatch):
    nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), tmp_path / "a.nii.gz")
    source, times, start = volume_of(dr.open(tmp_path / "a.nii.gz")).source, [], Barrier(8)
    unpack = nifti.unpack

    def counted(*args):
        times.append(args)
        return unpack(*args)

    def read(_):
        start.wait()
        return source.read(source.readable)

    monkeypatch.setattr(nifti, "unpack", counted)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(8)):
            np.testing.assert_array_equal(found, VALUES.T)
    assert len(times) == 1
    assert not handles._opening


def test_a_file_that_comes_back_is_opened_again(tmp_path):
    path = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), path)
    source, whole = volume_of(dr.open(path)).source, path.read_bytes()
    path.unlink()
    with pytest.raises(SourceLostError, match=r"a\.nii\.gz is gone"):
        source.read(source.readable)
    path.write_bytes(whole)
    np.testing.assert_array_equal(source.read(source.readable), VALUES.T)
