"""Errors in the words of the command line, suggestions, examples in every help, JSON, versions, doctor."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import click
import numpy as np
import pytest
import tifffile

import daskreg as dr
from daskreg.cli import COMMANDS, app, run
from daskreg.cli.options import Opening
from daskreg.cli.words import as_options, similar
from daskreg.runtime.typed_command import typed, typed_command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command_named(name: str) -> click.Command:
    found = app.get_command(click.Context(app), name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("message", "command", "expected"),
    [
        ("pass channel= (c has 3)", "register", "pass --channel (c has 3)"),
        ("missing='fill' or raw_shape=", "convert", "--missing fill or --raw-shape"),
        ("init 'x': use init=\"search\"", "register", "init 'x': use --init search"),
        ("tolerance= is no option here", "register", "tolerance= is no option here"),
        ("memory='4 GiB', overwrite=True", "warp", "--memory '4 GiB', --overwrite"),
        ("axis.channel=3", "register", "axis.channel=3"),
        ("chunks=(64, 64) and shards=None", "warp", "--chunks 64,64 and --shards none"),
    ],
)
def test_options_are_named_as_they_are_typed(message: str, command: str, expected: str) -> None:
    assert as_options(message, command_named(command)) == expected


def test_what_is_mistyped_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("Stack_A.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    (here / "drift.json").write_text("{}")
    lines = {
        ("algin", "x"): "did you mean align?",
        ("info", "stack_a.tif"): "did you mean Stack_A.tif?",
        ("warp", "Stack_A.tif", "o.zarr", "--pull", "drft.json"): "did you mean drift.json?",
        ("align", "Stack_A.tif", "-o", "f.json", "--refrence", "first"): "--reference",
        ("info", "nowhere/a.tif"): "nowhere/a.tif is not there",
        ("info", "Stack_A.tif", "nowhere/a.tif"): "nowhere/a.tif is not there",
        ("info", "Stack_A.tif", "."): ". is no file: several paths are taken as the images of one sequence",
    }
    for words, expected in lines.items():
        assert run(words) == 2
        error = capsys.readouterr().err
        assert expected in error, (words, error)
        assert error.count("\n") == 1, "one line"
    assert similar("zzz", ["align"]) == []


def test_a_pattern_that_the_shell_expanded_is_a_sequence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In natural order, where one volume is read; where an output follows, quotes are asked for.

    `convert a*.tif` of two images has the second as its output, which is refused since it is there.
    """
    texture = np.random.default_rng(0).integers(0, 255, (40, 31)).astype(np.uint8)
    names = [f"a{k}.tif" for k in (1, 10, 2)]
    for name, shift in zip(names, (0, 2, 1), strict=True):
        tifffile.imwrite(name, np.roll(texture, shift, axis=0))
    assert run(["info", *names]) == 0
    told = capsys.readouterr().out
    assert "a1.tif to a10.tif (3 files)" in told
    assert "z 3, y 40, x 31" in told
    assert run(["align", *names, "-o", "fit.json", "--model", "translation", "-q"]) == 0
    assert np.allclose(np.diff(dr.load("fit.json").matrices[:, 0, 2]), 1, atol=0.05)
    assert run(["info", "a*.tif"]) == 0
    assert "z 3, y 40, x 31" in capsys.readouterr().out
    warp = ["warp", *names, "out.zarr", "--pull", "fit.json"]
    for words in (["convert", *names, "out.zarr"], ["convert", *names[:2], "out.zarr"], warp):
        assert run(words) == 2
        assert "'*.tif'" in capsys.readouterr().err
    before = (here / "a2.tif").read_bytes()
    assert run(["convert", "a1.tif", "a2.tif"]) == 2
    assert (here / "a2.tif").read_bytes() == before


def test_an_error_of_the_package_is_told_in_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    tifffile.imwrite("rgb.tif", colour, photometric="rgb")
    assert run(["register", "rgb.tif", "rgb.tif", "-o", "fit.json"]) == 2
    error = capsys.readouterr().err
    assert "--channel" in error
    assert "channel=" not in error


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "transform"])
def test_every_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  daskreg {name}" in shown, shown


def test_the_version_says_what_results_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-V", "--version"):
        assert run([option]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"daskreg {dr.__version__}\n")
        assert f"numpy {np.__version__}" in shown
        assert "torch " in shown


@pytest.mark.slow
def test_the_doctor_names_remedies(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert run(["doctor", "--json"]) == 1
    findings = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert "unset NUMBA_NUM_THREADS" in findings["processors"]["remedy"]
    assert {"memory", "disk", "kernels", "libraries", "ports"} <= set(findings)
    assert list(here.iterdir()) == [], "the file that measures the disk is gone"


@pytest.mark.slow
def test_masks_times_and_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    scene = gaussian_filter(rng.normal(size=(90, 100)), 2).astype(np.float32)
    other = gaussian_filter(rng.normal(size=(90, 100)), 2).astype(np.float32)
    moving = np.roll(scene, (2, -3), (0, 1))
    moving[:, 60:] = 3 * other[:, 60:]  # another thing, which does not move
    fixed = scene.copy()
    fixed[:, 60:] = 3 * other[:, 60:]
    mask = np.zeros(scene.shape, np.uint8)
    mask[:, :55] = 1
    series = np.stack([other, fixed])[:, None, None]
    tifffile.imwrite("series.ome.tif", series, metadata={"axes": "TCZYX"}, ome=True)
    tifffile.imwrite("moving.tif", moving)
    tifffile.imwrite("mask.tif", mask)
    tifffile.imwrite("fixed.tif", fixed)
    command = ["register", "fixed.tif", "moving.tif", "-o", "fit.json", "--model", "translation", "-q", "--json"]
    assert run([*command, "--mask", "mask.tif"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "pair"
    assert found["parameters"]["tx"] == pytest.approx(-3, abs=0.1)
    assert found["parameters"]["ty"] == pytest.approx(2, abs=0.1)
    assert run(["info", "series.ome.tif", "--time", "1"]) == 0
    assert "t 2" not in capsys.readouterr().out


@pytest.mark.parametrize("out", ["out.zarr", "out.tif"])
def test_a_plan_is_printed_as_json(out: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(1).random((37, 53)).astype(np.float32)
    tifffile.imwrite("image.tif", image)
    dr.Affine.translation(x=2.5, y=1.0).save("shift.json")
    for words in (["convert", "image.tif", out], ["warp", "image.tif", out, "--push", "shift.json"]):
        assert run([*words, "--dry-run", "--json", "-q"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert made["path"].endswith(out)
        assert made["bytes_written"] >= image.nbytes
        assert (made.get("shape") or made["levels"][0]["shape"]) == [37, 53]
        assert made["blocks"] >= 1
        assert made["memory"] > 0
    assert not (here / out).exists()


def test_commands_in_groups_have_their_own_words(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("projections.npy", np.random.default_rng(0).random((5, 12, 24), dtype=np.float32))
    Path("angles.txt").write_text("0\n30\n60\n90\n120\n")
    command = ["tomo", "reconstruct", "projections.npy", "out.zarr", "--angles", "angles.txt", "-q"]
    for words, expected in (
        ([*command, "--window", "flat"], "--window flat"),
        ([*command, "--method", "cgls", "--iterations", "0"], "--iterations 0"),
    ):
        assert run(words) == 2
        error = capsys.readouterr().err
        assert expected in error, (words, error)


def test_units_that_differ_are_told_in_options(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(2).random((40, 50)).astype(np.float32)
    dr.write(dr.open(image, spacing=0.5, unit="um"), "a.zarr", progress=False)
    tifffile.imwrite("b.tif", image)
    assert run(["register", "a.zarr", "b.tif", "-o", "f.json", "-q"]) == 2
    error = capsys.readouterr().err
    assert "give the spacing of both, as in --spacing 0.5, --unit micrometer, or of none" in error
    assert "(" not in error


def test_the_spacing_of_control_points_is_named_as_it_is_typed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("a.tif", np.random.default_rng(2).random((40, 50)).astype(np.float32))
    for value in ("-3", "1,2,3", "0", "nan", "20,-3"):
        words = ["register", "a.tif", "a.tif", "-o", "f.json", "--model", "bspline", f"--control-spacing={value}", "-q"]
        assert run(words) == 2
        error = capsys.readouterr().err
        assert "--control-spacing" in error, error
        assert " spacing" not in error.replace("--control-spacing", ""), error
        assert f"--control-spacing {value}" in error.replace(".0", "").replace("'", ""), error
        assert "distances of control points are positive, one number or one for each of 2 axes" in error
    assert run(["register", "a.tif", "a.tif", "-o", "f.json", "--spacing", "-2", "-q"]) == 2
    assert "--control-spacing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("daskreg wa", {"warp", "warm-up"}),
        ("daskreg warp --pu", {"--pull", "--push"}),
        ("daskreg tomo al", {"align"}),
    ],
)
def test_the_shell_completes_commands_and_options(
    words: str, found: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As bash asks for them, by the script that is printed."""
    assert run(["completion", "bash"]) == 0
    assert "_DASKREG_COMPLETE=bash_complete" in capsys.readouterr().out
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    monkeypatch.setenv("_DASKREG_COMPLETE", "bash_complete")
    with pytest.raises(SystemExit, match="0"):
        run([])
    assert {line.partition(",")[2] for line in capsys.readouterr().out.split()} == found


def test_a_fit_keeps_the_name_of_its_file_alone() -> None:
    opening = Opening(channel=2)
    for path, name in {
        "folder/a#1.tif": "a#1.tif",
        "https://me:s/e?c@host/x.tif?token=a/b'c#d": "x.tif",
        "https://host/a@2x.tif#t=1/2": "a@2x.tif",
        "s3://bucket/a.zarr/": "a.zarr",
    }.items():
        stored = opening.to_dict(path, 1)
        assert stored == {"name": name, "level": 1, "channel": 2}
        assert Opening().like(stored, path) == (opening, 1)
    stored = opening.to_dict("https://host/x.tif?token=abc", 1)
    assert Opening().like(stored, "https://host/x.tif?token=another") == (opening, 1)


def test_a_command_is_known_where_its_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    words = ["register", "my a.tif", "https://h/b.tif?token=it's secret"]
    with typed(words):
        shown = "daskreg register 'my a.tif' 'https://h/b.tif?token=***'"
        assert typed_command() == f"{shown}  # in {tmp_path / 'gone'}"
        (tmp_path / "gone").rmdir()
        assert typed_command() == shown


def test_the_package_is_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["daskreg", "warp", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("daskreg", run_name="__main__")
    assert ended.value.code == 0
    assert "block by block" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["warp", "none.zarr", "o.zarr", "--pull", "t.json"], "none.zarr is not there"),
        (["warp", "in.tif", "o.zarr", "--pul", "t.json"], "No such option '--pul'"),
        (["warp", "in.tif", "o.zarr", "--pull", "none.json"], "'none.json' does not exist"),
        (["align", "none.tif", "--out", "fit.json"], "none.tif is not there"),
        (["align", "in.tif", "--out", "none/fit.json"], "there is no folder none"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--workers", "2"], "--workers is what submit adds"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--dry-run"], "--dry-run in the command would"),
        (["warp", "in.tif", "in.tif", "--pull", "t.json"], "choose another"),
        (["warp", "in.tif", "o.tif", "--pull", "t.json", "--part", "1/2"], "o.tif is a single file"),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json"], ""),
        (["warp", "in.tif", "o.zarr", "--pull", "t.json", "--device", "cuda"], ""),  # of the node
    ],
)
def test_a_command_is_looked_at_before_it_is_submitted(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    """Not days later, when its job begins."""
    tifffile.imwrite("in.tif", np.zeros((4, 5), np.uint8))
    dr.Affine.translation(x=1).save("t.json")
    Path("slurm.yaml").write_text("kind: slurm\ninterface: lo\ncores: 1\nmemory: 1 GiB\nwalltime: '1:00:00'\n")
    code = run(["submit", "slurm.yaml", "--dry-run", "--", *words])
    shown = capsys.readouterr()
    assert code == (2 if expected else 0)
    assert expected in shown.err
    assert ("#SBATCH" in shown.out) == (not expected)


def test_a_stack_to_be_aligned_is_tried(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = np.random.default_rng(0).random((70, 72)).repeat(2, 0).repeat(2, 1)
    tifffile.imwrite("stack.tif", np.stack([np.roll(moved, k, 0) for k in range(5)]).astype(np.float32))
    Path("slurm.yaml").write_text("kind: slurm\ninterface: lo\ncores: 2\nmemory: 9 GiB\nwalltime: '1:00:00'\n")
    submit = ["submit", "slurm.yaml", "--dry-run", "--", "align", "stack.tif", "-o", "fit.json"]
    assert run(submit) == 0
    script = capsys.readouterr().out
    assert "1 node of 2 workers for 5 slices" in script
    assert "for its slices, 00:" in script
    assert ", as a trial promises" in script
    for words, expected in (
        (["--common-line", "q"], "--common-line q"),
        (["--reference", "9"], "the stack has slices 0 to 4"),
        (["--model", "bspline", "--reference", "mean"], "needs pairs of neighbours"),
        (["--control-spacing", "20"], "--control-spacing is that of the control points"),
    ):
        assert run([*submit, *words]) == 2
        assert expected in capsys.readouterr().err


def test_a_part_without_blocks_is_not_submitted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("in.tif", np.zeros((4, 5), np.uint8))
    Path("slurm.yaml").write_text("kind: slurm\ninterface: lo\ncores: 1\nmemory: 1 GiB\nwalltime: '1:00:00'\n")
    words = ["convert", "in.tif", "out.zarr", "--part", "1/2"]
    numbers = [run(["submit", "slurm.yaml", "--dry-run", "--", *words[:-1], f"{k}/2"]) for k in (0, 1, 2)]
    shown = capsys.readouterr()
    assert shown.out.count("#!/bin/bash") == 1, numbers
    assert "this part has no block to make" in shown.err
