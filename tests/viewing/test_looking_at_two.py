"""Two images in one viewer: a checkerboard of both, the state of neuroglancer, and the command that shows them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from skimage import data

import daskreg as dr
from daskreg.cli import run
from daskreg.errors import MissingExtraError, OptionError, ShapeMismatchError
from daskreg.viewing.neuroglancer import viewer_state


def coins() -> np.ndarray[Any, Any]:
    return np.asarray(data.coins()[:211, :303])


def volume() -> xr.DataArray:
    """Anisotropic, with units."""
    return dr.open(np.stack([coins()] * 5), spacing=(4.0, 0.5, 0.5), unit="um")


def test_a_checkerboard_shows_one_and_the_other() -> None:
    """In squares of one size on every level, each image in its own contrast."""
    one = coins()
    other = 1000 - 3.0 * one
    with dr.serve({"one": one, "other": other}, checkerboard=True, levels=2, chunks=50) as server:
        assert list(server.urls)[-1] == "checkerboard.ome.zarr"
        board = dr.open(server.urls["checkerboard.ome.zarr"])
        windows = [image.window for image in server.images.values()][:2]
        shown = [np.clip((a - lo) * 255 / (hi - lo), 0, 255) for a, (lo, hi) in zip((one, other), windows, strict=True)]
        edge = round(303 / 12)
        y, x = np.indices(one.shape) // edge
        want = np.where((y + x) % 2 == 1, shown[1], shown[0])
        assert board.dtype == np.uint8
        assert np.abs(board.values - want).max() <= 1
        half = dr.open(server.urls["checkerboard.ome.zarr"], level=1).values
        inside = half[2:10, 2:10].astype(float)  # of the first square
        assert np.abs(inside - shown[0][4:20, 4:20].reshape(8, 2, 8, 2).mean((1, 3))).max() < 3


def test_a_checkerboard_needs_one_grid() -> None:
    with pytest.raises(ShapeMismatchError, match="like=fixed"):
        dr.serve({"one": coins(), "other": coins()[:200]}, checkerboard=True)
    with pytest.raises(OptionError, match="two images"):
        dr.serve(coins(), checkerboard=True)


def test_the_state_has_the_axes_units_and_colours() -> None:
    with dr.serve({"A": volume(), "B": volume() * 2.0}, checkerboard=True) as server:
        overlay = viewer_state(server.images, server.urls)
        assert list(overlay["dimensions"]) == ["x", "y", "z"]
        assert overlay["dimensions"]["z"] == [pytest.approx(4e-6), "m"]
        layers = {layer["name"]: layer for layer in overlay["layers"]}
        assert {name: layer["visible"] for name, layer in layers.items()} == {
            "A": True,
            "B": True,
            "checkerboard": False,
        }
        assert layers["A"]["source"] == f"zarr://{server.url}"
        assert "#ff00ff" in layers["A"]["shader"]
        low, high = layers["A"]["shaderControls"]["normalized"]["range"]
        assert 0 < low < high < 256
        board = viewer_state(server.images, server.urls, "checkerboard")
        assert [layer["visible"] for layer in board["layers"]] == [False, False, True]
        beside = viewer_state(server.images, server.urls, "side-by-side")["layout"]
        assert [view["layers"] for view in beside["children"]] == [["A"], ["B"]]
        with pytest.raises(OptionError, match="beside"):
            viewer_state(server.images, server.urls, "beside")
    with dr.serve(volume()) as alone, pytest.raises(OptionError, match="checkerboard=True"):
        alone.page("checkerboard")


def test_labels_are_a_segmentation() -> None:
    """With a colour for each value; the image below them is grey then, and means are shown as an image."""
    names = dr.open((coins() // 40).astype(np.uint16))
    labels = dr.warp(names, pull=dr.Affine.translation(x=1.5), order=0)
    with dr.serve({"image": coins(), "labels": labels, "means": names}) as server:
        layers = {layer["name"]: layer for layer in viewer_state(server.images, server.urls)["layers"]}
    assert [layers[name]["type"] for name in ("image", "labels", "means")] == ["image", "segmentation", "image"]
    assert "shader" not in layers["labels"]
    with dr.serve({"image": coins(), "labels": labels}) as server:
        assert "#ffffff" in viewer_state(server.images, server.urls)["layers"][0]["shader"]


def test_the_page_of_neuroglancer_has_this_state() -> None:
    pytest.importorskip("neuroglancer")
    with dr.serve(volume()) as server:
        page = server.page()
        assert page.url.startswith("http://127.0.0.1:")
        assert f"zarr://{server.url}" in str(page._viewer.state.to_json()["layers"][0]["source"])


def test_without_neuroglancer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    with dr.serve(coins()) as server, pytest.raises(MissingExtraError, match=r"daskreg\[viewer\]"):
        server.page()


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    """A and B, moved onto A by a transform; nothing is written."""
    names = [str(tmp_path / f"{name}.npy") for name in "AB"]
    np.save(names[0], coins())
    np.save(names[1], np.roll(coins(), (3, -2), (0, 1)))
    dr.save(dr.Affine.translation(y=3, x=-2), tmp_path / "T.json")
    before = sorted(tmp_path.iterdir())
    # Shells start what runs in the background with this signal ignored, and so would the process be.
    handled = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{handled}; from daskreg.cli import main; main()"
    words = ["view", *names, "--pull", str(tmp_path / "T.json"), "--chunks", "100"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        urls = {}
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
            if found := re.match(r"(\S+\.ome\.zarr) +(http://\S+)$", line):
                urls[found[1]] = found[2]
        assert set(urls) == {"A.ome.zarr", "B.ome.zarr", "checkerboard.ome.zarr"} or process.kill()
        shown = [dr.open(urls[f"{name}.ome.zarr"]).values[5:-5, 5:-5] for name in "AB"]
        np.testing.assert_array_equal(*shown)
        process.send_signal(signal.SIGINT)
        assert "ended" in process.stdout.read()
        assert process.wait(20) == 0
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "A.npy", coins())
    dr.save(dr.Affine.translation(y=3, x=-2), tmp_path / "T.json")
    a, t = str(tmp_path / "A.npy"), str(tmp_path / "T.json")
    for words, said in (
        (["view", a + "x"], "A.npyx"),
        (["view", a, "--pull", t, "--push", t], "not both"),
        (["view", a, "--cache", "much"], "much"),
        (["view", a, "--arrangement", "beside"], "beside"),
    ):
        assert run(words) == 2
        assert said in capsys.readouterr().err
