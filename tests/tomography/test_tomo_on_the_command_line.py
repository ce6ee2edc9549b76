"""`daskreg tomo`: align, centre, reconstruct."""

from __future__ import annotations

import numpy as np
import pytest
from ellipsoids import Ellipsoids

import daskreg as dr
from daskreg.cli import run
from daskreg.tomography import TiltFit

pytestmark = pytest.mark.slow
ANGLES = np.arange(0, 180, 5.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shifts = np.random.default_rng(0).uniform(-1, 1, (36, 2))
    body = Ellipsoids(28, count=5)
    np.save("moving.npy", body.project(np.radians(ANGLES), (20, 28), shifts=shifts).astype(np.float32))
    np.save("still.npy", body.project(np.radians(ANGLES), (20, 28), axis=15.0).astype(np.float32))
    np.savetxt("angles.txt", ANGLES)
    return tmp_path


def test_align_and_reconstruct(folder, capsys):
    words = ["tomo", "align", "moving.npy", "--angles", "angles.txt", "--out", "fit.json", "--axis-angle", "0"]
    assert run([*words, "--plot", "fit.png"]) == 0
    assert "TiltFit(converged: 36 projections" in capsys.readouterr().out
    fit = TiltFit.load("fit.json")
    assert fit.axis == 0
    assert run(["tomo", "reconstruct", "moving.npy", "out.ome.zarr", "--fit", "fit.json", "-q"]) == 0
    expected = dr.tomography.reconstruct(np.load("moving.npy"), fit=fit).values
    np.testing.assert_allclose(dr.open("out.ome.zarr").values, expected, atol=1e-5)


def test_a_mask_steps_and_progress(folder, capsys):
    """As the options and `progress=` of `align_projections`."""
    still = np.load("still.npy")
    np.save("mask.npy", np.ones(still.shape[1:]))
    told = []
    fit = dr.tomography.align_projections(
        still,
        np.loadtxt("angles.txt"),
        unit="degrees",
        mask=np.ones(still.shape[1:]),
        max_steps=1,
        progress=lambda *stages: told.append(stages),
    )
    total = told[-1][1]
    assert told == [(k + 1, total) for k in range(total)]
    words = ["tomo", "align", "still.npy", "--angles", "angles.txt", "-o", "still.json", "--keep-failed", "-q"]
    run([*words, "--mask", "mask.npy", "--max-steps", "1"])
    saved = TiltFit.load("still.json")
    assert saved.steps == fit.steps == 1
    np.testing.assert_allclose(saved.transform.matrices, fit.transform.matrices, atol=1e-9)


def test_the_centre(folder, capsys):
    assert run(["tomo", "centre", "still.npy", "--angles", "angles.txt"]) == 0
    assert float(capsys.readouterr().out) == pytest.approx(15, abs=0.2)
    words = ["tomo", "reconstruct", "still.npy", "out.ome.zarr", "--angles", "angles.txt", "--centre", "15", "-q"]
    assert run([*words, "--method", "sirt", "--iterations", "3", "--minimum", "0", "--size", "20", "--order", "1"]) == 0
    volume = dr.open("out.ome.zarr")
    assert volume.shape[1:] == (20, 20)
    assert volume.values.min() == 0


def test_what_is_refused(folder, capsys):
    (folder / "words.txt").write_text("ten\n")
    np.savetxt(folder / "radians.txt", np.radians(np.loadtxt(folder / "angles.txt")))
    for words, told in (
        (["align", "moving.npy", "--out", "fit.json"], "--angles FILE"),
        (["align", "moving.npy", "--out", "fit.json", "--angles", "words.txt"], "no list of angles"),
        (["align", "moving.npy", "--out", "fit.json", "--angles", "radians.txt"], "--unit-of-angles degrees"),
        (["align", "moving.npy", "--out", "fit.json", "--angles", "angles.txt", "--centre", "left"], "number nor auto"),
        (["reconstruct", "moving.npy", "out.ome.zarr"], "needs angles"),
        (["reconstruct", "moving.npy", "out.ome.zarr", "--order", "0"], "is not one of '1', '3'"),
    ):
        assert run(["tomo", *words]) == 2
        assert told in capsys.readouterr().err
