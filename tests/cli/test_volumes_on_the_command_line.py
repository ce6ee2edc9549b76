"""info, convert, warp, transform, report and verify, as typed at the prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import daskreg as dr
from daskreg.cli import run

pytestmark = pytest.mark.slow

SHIFT = (1, 2)  # whole voxels along y, x


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a volume `in.tif`."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("in.tif", volume(), photometric="minisblack")
    dr.Affine.translation(y=SHIFT[0], x=SHIFT[1]).save("t.json")
    return tmp_path


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 60_000, (4, 20, 30), dtype=np.uint16)


def shifted(image: np.ndarray) -> np.ndarray:
    y, x = SHIFT
    out = np.zeros_like(image)
    out[:, : -y or None, : -x or None] = image[:, y:, x:]
    return out


def test_help_is_quick_and_complete(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from daskreg.cli import run; run(['--help']); "
        "assert not {'torch', 'numpy', 'zarr', 'xarray', 'distributed', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    told = capfd.readouterr().out
    for word in ("info", "convert", "register", "align", "warp", "icp", "transform", "report", "demo", "resume"):
        assert word in told


@pytest.mark.parametrize("name", ["info", "convert", "register", "align", "warp", "icp", "transform", "report", "demo"])
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "-h"]) == 0
    assert f"Usage: daskreg {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert dr.__version__ in capsys.readouterr().out


def test_info(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "in.tif", "--spacing", "2,0.5,0.5", "--unit", "um"]) == 0
    told = capsys.readouterr().out
    assert "z 4, y 20, x 30; uint16, 4.69 kiB" in told
    assert "spacing  z 2, y 0.5, x 0.5 micrometer" in told
    assert "stored   tiff" in told
    series, names = np.zeros((3, 2, 5, 6), np.uint8), {"axes": "TCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    times = {"TimeIncrement": 30, "TimeIncrementUnit": "s"}
    tifffile.imwrite("series.ome.tif", series, metadata=names | times, photometric="minisblack")
    assert run(["info", "series.ome.tif"]) == 0
    told = capsys.readouterr().out
    assert "  t        0 to 60 s\n  c        DAPI, GFP\n" in told


def test_convert_and_warp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spaced = ["--spacing", "2,1,1", "--unit", "um", "--chunks", "1,16,16", "--levels", "2", "-q"]
    assert run(["convert", "in.tif", "in.zarr", *spaced]) == 0
    assert run(["info", "in.zarr"]) == 0
    told = capsys.readouterr().out
    assert "level 1  4x10x15, spacing 2x2x2 micrometer" in told
    np.testing.assert_array_equal(dr.open("in.zarr").values, volume())
    assert run(["warp", "in.zarr", "pulled.zarr", "--pull", "t.json", "--quiet"]) == 0
    np.testing.assert_array_equal(dr.open("pulled.zarr").values, shifted(volume()))
    assert run(["warp", "in.zarr", "same.zarr", "--push", "t.json", "--push", "inv.json"]) == 2
    assert run(["transform", "invert", "t.json", "--out", "inv.json"]) == 0
    assert run(["warp", "in.zarr", "same.zarr", "--push", "t.json", "--push", "inv.json", "-q"]) == 0
    np.testing.assert_array_equal(dr.open("same.zarr").values, volume())


def test_warp_onto_another_grid(here: Path) -> None:
    tifffile.imwrite("like.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack")
    assert run(["warp", "in.tif", "cut.zarr", "--pull", "t.json", "--like", "like.tif", "-q"]) == 0
    np.testing.assert_array_equal(dr.open("cut.zarr").values, shifted(volume())[:, :5, :6])
    assert run(["warp", "in.tif", "all.zarr", "--pull", "t.json", "--grid", "union", "--dtype", "float32", "-q"]) == 0
    whole = dr.open("all.zarr")
    assert (whole.dtype, whole.shape) == (np.dtype("float32"), (4, 20, 30))
    np.testing.assert_array_equal(whole.values, volume())


def test_the_same_command_resumes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["warp", "in.tif", "out.zarr", "--pull", "t.json", "-q"]
    assert run(command) == 0
    capsys.readouterr()
    assert run(command) == 0
    assert "1 were there" in capsys.readouterr().out
    dr.Affine.translation(x=1).save("t.json")
    assert run(command) == 2
    assert "--resume changed" in capsys.readouterr().err
    assert run([*command, "--resume", "changed"]) == 0
    assert "1 made again" in capsys.readouterr().out
    assert run([*command, "--overwrite"]) == 0


def test_a_dry_run_prints_the_plan_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["warp", "in.tif", "out.zarr", "--pull", "t.json", "--dry-run", "--memory", "1GiB"]) == 0
    told = capsys.readouterr().out
    assert "Plan: z 4 x y 20 x x 30" in told
    assert "limit of 1.00 GiB" in told
    assert not list(here.glob("*.zarr*"))


def test_progress_is_lines_where_nobody_watches(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of less than half a minute prints no line."""
    assert run(["convert", "in.tif", "short.zarr", "--shards", "none"]) == 0
    assert not capsys.readouterr().err
    monkeypatch.setattr("daskreg.runtime.progress.LOG_EVERY", 0.0)
    assert run(["convert", "in.tif", "out.zarr", "--shards", "none"]) == 0
    caught = capsys.readouterr()
    assert "writing out.zarr: 1 of 1" in caught.err
    assert caught.out.startswith("Written(")
    assert run(["convert", "in.tif", "quiet.zarr", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_local_workers_do_the_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "local.yaml").write_text("kind: local\nworkers: 1\ndashboard_port: null\n")
    assert run(["warp", "in.tif", "out.zarr", "--pull", "t.json", "--cluster", "local.yaml"]) == 0
    assert "processes=1 threads=1" in capsys.readouterr().err
    np.testing.assert_array_equal(dr.open("out.zarr").values, shifted(volume()))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["warp", "in.tif", "o.zarr"], "give one of --pull T.json"),
        (["warp", "in.tif", "o.zarr", "--pull", "none.json"], "'none.json' does not exist"),
        (["warp", "in.tif", "o.zarr", "--pull", "in.tif"], "in.tif is not a transform file"),
        (["warp", "none.tif", "o.zarr", "--pull", "t.json"], "none.tif"),
        (["warp", "in.tif", "in.tif", "--pull", "t.json"], "lies in the input"),
        (["warp", "in.tif", "in.tif/o.zarr", "--pull", "t.json"], "in.tif is a file, not a folder"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--memory", "1KiB"], "what would fit: --memory '"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--device", "tpu"], "--device tpu"),
        (["warp", "in.tif", "o.zarr", "--pull", "far.json"], "would hold no voxel of the source"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--scheduler", "x:1", "--workers", "2"], "leave out"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--scheduler", "nowhere"], "is not an address"),
        (["convert", "in.tif", "o.zarr", "--spacing", "a,b"], "'a,b' is not like 2 or 1,2,2"),
        (["convert", "in.tif", "o.zarr", "--spacing", "0"], "it must be positive"),
        (["info", "t.json"], "t.json"),
        (["report", "t.json", "--out", "gone/r.html"], "there is no folder gone"),
        (["report", ".", "--out", "r.html"], "has no ledger"),
        (["transform", "convert", "t.json", "t.png"], "t.png"),
        (["icp", "in.tif", "in.tif", "--out", "f.json"], "has no rows of numbers"),
        (["nonsense"], "there is no command 'nonsense'"),
    ],
)
def test_wrong_usage_and_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    dr.Affine.translation(x=1e6).save("far.json")
    assert run(command) == 2
    caught = capsys.readouterr()
    assert words in caught.err
    assert caught.err.startswith("daskreg: ")
    assert caught.err.count("\n") == 1
    assert not (here / "o.zarr").exists()


def test_failed_blocks_are_listed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise dr.errors.BlocksFailedError("1 blocks of out.zarr failed:\n  level 0, block (0, 0, 0): OSError: broken")

    monkeypatch.setattr(dr, "write", fail, raising=False)
    assert run(["warp", "in.tif", "out.zarr", "--pull", "t.json"]) == 1
    assert "block (0, 0, 0): OSError: broken" in capsys.readouterr().err


def test_an_interrupted_command_says_that_it_resumes(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dr, "write", interrupt, raising=False)
    assert run(["warp", "in.tif", "out.zarr", "--pull", "t.json"]) == 130
    assert "interrupted: finished blocks are kept, and the same command resumes" in capsys.readouterr().err
    monkeypatch.setattr(dr, "open", interrupt, raising=False)
    assert run(["info", "in.tif"]) == 130
    assert capsys.readouterr().err.strip() == "daskreg: interrupted"


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("float.tif", np.linspace(-5, 300, 20 * 30, dtype=np.float32).reshape(20, 30))
    assert run(["warp", "float.tif", "bytes.zarr", "--pull", "t.json", "--dtype", "uint8", "-q"]) == 0
    warned = capsys.readouterr().err
    assert warned.startswith("daskreg: warning: ")
    assert "did not fit uint8" in warned
    assert warned.count("\n") == 1


def test_transforms_are_shown_composed_and_converted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dr.Affine.rotation(np.radians(30), centre=(4, 5)).save("r.json")
    dr.SliceAffines(np.stack([dr.Affine.translation(x=k).matrix for k in range(3)])).save("s.json")
    assert run(["transform", "show", "r.json", "--matrix"]) == 0
    told = capsys.readouterr().out
    assert "theta 30 deg" in told
    assert "0.866025404" in told
    assert run(["transform", "show", "s.json"]) == 0
    assert "tx 0 to 2" in capsys.readouterr().out
    assert run(["transform", "compose", "s.json", "t.json", "--out", "st.json"]) == 0
    assert dr.load("st.json") == dr.load("s.json") @ dr.load("t.json")
    assert run(["transform", "convert", "r.json", "r.tfm"]) == 0
    np.testing.assert_allclose(dr.load("r.tfm").matrix, dr.load("r.json").matrix, atol=1e-12)


def test_a_page_about_a_run_and_about_a_transform(here: Path) -> None:
    """The page of an output names the command that made it, which its record keeps, and not that of the page."""
    assert run(["warp", "in.tif", "out.zarr", "--pull", "t.json", "-q"]) == 0
    assert run(["report", "out.zarr", "--out", "run.html"]) == 0
    told = json.loads((here / "run.report.json").read_text())
    assert told["entries"][0]["blocks"] == [1]
    page = (here / "run.html").read_text()
    assert "The volume is complete" in page
    assert f"daskreg warp in.tif out.zarr --pull t.json -q  # in {here}" in page
    assert "daskreg report" not in page
    assert page.count('href="data:image/png') == 3, "a slice and both side views"
    dr.SliceAffines(np.stack([dr.Affine.translation(x=k).matrix for k in range(3)])).save("s.json")
    assert run(["report", "s.json", "--out", "drift.html"]) == 0
    assert "shift (px)" in (here / "drift.html").read_text()


def test_verify_lists_what_is_wrong(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "in.tif", "out.zarr", "--quiet"]) == 0
    assert run(["verify", "out.zarr"]) == 0
    assert "out.zarr is complete and undamaged" in capsys.readouterr().out
    victim = next(p for p in (here / "out.zarr" / "0" / "c").rglob("*") if p.is_file())
    victim.write_bytes(victim.read_bytes()[:-1])
    assert run(["verify", "out.zarr"]) == 1
    assert "bytes," in capsys.readouterr().out
    assert run(["verify", "in.tif"]) == 2
    assert "no ledger" in capsys.readouterr().err


def test_a_dry_run_of_a_part_says_which_share_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shares of all parts are the blocks that parts make alone; of a single file there are none."""
    words = ["convert", "in.tif", "out.ome.zarr", "--dry-run", "--chunks", "8", "--levels", "2", "--memory", "1GiB"]
    shares = []
    for number in (1, 2, 3):
        assert run([*words, "--part", f"{number}/3", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["part"]["number"], facts["part"]["of"]) == (number, 3)
        shares.append(facts["part"]["blocks"])
    assert 0 < sum(shares) <= facts["blocks"]
    assert run([*words, "--part", "3/3"]) == 0
    assert f"part     3/3: {shares[2]:,} of {facts['blocks']:,} blocks" in capsys.readouterr().out
    assert run(["convert", "in.tif", "out.tif", "--dry-run", "--part", "1/2"]) == 2
    assert "--part" in capsys.readouterr().err
    assert run([*words, "--ome-version", "0.4"]) == 0
    assert "no shards" in capsys.readouterr().out
    assert not (here / "out.ome.zarr").exists()
