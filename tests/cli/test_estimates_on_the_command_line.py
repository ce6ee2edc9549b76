"""register, align and icp: the numbers, the files that they write, and their exit codes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import daskreg as dr
from daskreg.cli import run
from daskreg.reporting import figures, plots, stack_section

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texture(seed: int = 0, size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(size, size))
    smooth = gaussian_filter(noise, 4)
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 60_000, dtype=np.float32)


def test_register_then_warp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, centre = texture(size=160), np.array([47.5, 47.5])
    motion, moving = (
        dr.Affine.from_parameters(theta=np.radians(4), tx=3, ty=-2, centre=c) for c in (centre, centre + 32)
    )
    fixed = large[32:-32, 32:-32]
    tifffile.imwrite("fixed.tif", fixed)
    tifffile.imwrite("moving.tif", dr.warp(large, push=moving)[32:-32, 32:-32])
    command = ["register", "fixed.tif", "moving.tif", "--model", "rigid", "--out", "fit.json"]
    assert run([*command, "--plot", "fit.png", "--report", "page.html"]) == 0
    told = capsys.readouterr().out
    assert "saved to fit.json" in told
    assert " deg" in told
    found = dr.load("fit.json")
    corners = np.array([[0.0, 0], [95, 0], [0, 95], [95, 95]])
    assert np.abs(found(corners) - motion(corners)).max() < 0.05
    assert (here / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (here / "page.html").read_text()
    assert run(["warp", "moving.tif", "back.zarr", "--pull", "fit.json", "--like", "fixed.tif", "-q"]) == 0
    back = dr.open("back.zarr").values[12:-12, 12:-12]
    assert np.corrcoef(back.ravel(), fixed[12:-12, 12:-12].ravel())[0, 1] > 0.999
    assert run(["register", "fixed.tif", "moving.tif", "--out", "again.json", "--init", "fit.json"]) == 0
    assert "init=dr.Affine([[" in dr.PairFit.load("again.json").recipe
    images = ["--fixed", "fixed.tif", "--moving", "moving.tif"]
    assert run(["report", "fit.json", "--out", "fit.html", *images]) == 0
    page = (here / "fit.html").read_text()
    assert f"daskreg {' '.join(command)} --plot fit.png --report page.html  # in {here}" in page, "what made the fit"
    assert page.count("<image") == (here / "page.html").read_text().count("<image") == 6


def test_register_at_full_resolution(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished blocks lie beside the fit until it is saved."""
    from daskreg.registration import images
    from daskreg.registration.blockwise import register
    from daskreg.runtime.line_file import LineFile

    monkeypatch.setattr(images, "_voxel_budget", lambda: 10_000)
    monkeypatch.setattr(register, "COARSE_VOXELS", 10_000)
    points = np.indices((150, 140)).astype(float)
    for name, shift in (("a", 0.0), ("b", 2.4)):
        y, x = points[0], points[1] - shift
        image = np.sin(x / 7) + np.cos(y / 9 + x / 23) + np.sin(y / 5 - x / 31) * np.cos(x / 11)
        tifffile.imwrite(f"{name}.tif", (image * 1000 + 5000).astype("uint16"))
    kept: list[Path] = []
    append = LineFile.append
    monkeypatch.setattr(LineFile, "append", lambda self, entry: (kept.append(self.path), append(self, entry))[1])
    command = ["register", "a.tif", "b.tif", "--model", "translation", "--resolution", "full", "--out", "fit.json"]
    assert run(command) == 0
    fit = json.loads(Path("fit.json").read_text())
    assert dr.load("fit.json").offset[1] == pytest.approx(2.4, abs=0.01)
    assert fit["reduced"] == [[1, 1], [1, 1]]
    assert {path.name for path in kept} == {"fit.blocks.jsonl"}
    assert not Path("fit.blocks.jsonl").exists()
    kept.clear()
    assert run([*command, "--checkpoint", "blocks.jsonl"]) == 0
    assert {path.name for path in kept} == {"blocks.jsonl"}
    assert not Path("blocks.jsonl").exists()


def test_a_fit_that_failed_is_not_saved_unless_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("a.tif", texture(1))
    tifffile.imwrite("b.tif", np.random.default_rng(7).normal(size=(96, 96)).astype(np.float32))
    command = ["register", "a.tif", "b.tif", "--model", "translation", "--out", "fit.json"]
    assert run(command) == 1
    caught = capsys.readouterr()
    assert "daskreg: failed: " in caught.err
    assert "fit.json was not written" in caught.err
    assert not (here / "fit.json").exists()
    assert run([*command, "--keep-failed"]) == 1
    assert json.loads((here / "fit.json").read_text())["ok"] is False


def no_work(*args: object, **options: object) -> None:
    raise AssertionError("the work has begun")


@pytest.mark.parametrize("plot", ["fit.docx", "fit", "nowhere/fit.png"])
@pytest.mark.parametrize("command", ["register", "align", "icp"])
def test_a_figure_that_cannot_be_drawn_is_refused_before_the_work(
    here: Path, command: str, plot: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite("a.tif", texture(1))
    np.save("points.npy", np.random.default_rng(0).random((30, 3)))
    inputs = {"register": ["a.tif", "a.tif"], "align": ["a.tif"], "icp": ["points.npy", "points.npy"]}[command]
    monkeypatch.setattr(dr, {"align": "align_stack"}.get(command, command), no_work)
    assert run([command, *inputs, "--out", "fit.json", "--plot", plot]) == 2
    told = capsys.readouterr().err
    assert plot.partition("/")[0] in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("options", [["register", "a.tif", "a.tif"], ["align", "a.tif"]])
def test_figures_without_matplotlib_are_refused_before_the_work(
    here: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tifffile.imwrite("a.tif", texture(1))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    figures.figure_class.cache_clear()
    monkeypatch.setattr(dr, "register", no_work)
    monkeypatch.setattr(dr, "align_stack", no_work)
    assert run([*options, "--plot", "fit.png", "--out", "fit.json"]) == 2
    assert "pip install 'daskreg[report]'" in capsys.readouterr().err


def test_a_fit_is_saved_before_it_is_drawn(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = np.stack([texture(3)] * 5)
    tifffile.imwrite("stack.tif", stack)
    tifffile.imwrite("a.tif", stack[0])

    def broken(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "pair", broken)
    monkeypatch.setattr(stack_section, "drift_charts", broken)
    assert run(["register", "a.tif", "a.tif", "--out", "pair.json", "--plot", "pair.png"]) == 1
    assert dr.load("pair.json").ndim == 2
    command = ["align", "stack.tif", "--out", "fit.json", "--table", "fit.csv", "--report", "fit.html"]
    assert run(command) == 1
    assert len(dr.load("fit.json").matrices) == 5
    assert (here / "fit.csv").read_text().count("\n") == 6
    assert json.loads((here / "fit.report.json").read_text())["entries"][0]["ok"] is True


def test_align_then_warp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifts = np.array([[0, 0], [2, -1], [3, 1], [1, 2], [-1, 1], [0, 3]])
    large = texture(2, size=128)
    stack = np.stack([dr.warp(large, push=dr.Affine.translation(y=y, x=x))[16:-16, 16:-16] for y, x in shifts])
    tifffile.imwrite("stack.tif", stack)
    command = ["align", "stack.tif", "--model", "translation", "--reference", "first", "--out", "fit.json"]
    assert run([*command, "--plot", "drift.png", "--table", "drift.csv"]) == 0
    assert "saved to fit.json" in capsys.readouterr().out
    found = dr.load("fit.json")
    assert isinstance(found, dr.SliceAffines)
    offsets = found.matrices[:, :2, 2]
    assert np.abs((offsets - offsets[0]) - shifts).max() < 0.1
    assert len((here / "drift.csv").read_text().splitlines()) == 7
    assert (here / "drift.png").stat().st_size > 1000
    assert run(["warp", "stack.tif", "aligned.zarr", "--pull", "fit.json", "-q"]) == 0
    aligned = dr.open("aligned.zarr").values[:, 8:-8, 8:-8].reshape(6, -1)
    assert np.corrcoef(aligned)[0].min() > 0.99
    assert run(["report", "fit.json", "--out", "drift.html"]) == 0
    assert "shift (px)" in (here / "drift.html").read_text()


def test_icp(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(size=(400, 3)) * (1, 2, 3)
    motion = dr.Affine.from_parameters(rz=np.radians(10), tx=0.2, ty=-0.1, tz=0.3)
    np.save("source.npy", source)
    np.savetxt("target.csv", rng.permutation(motion(source)), delimiter=",", header="x,y,z", comments="")
    assert run(["icp", "target.csv", "source.npy", "--out", "fit.json", "--plot", "fit.png"]) == 0
    told = capsys.readouterr().out
    assert "rmse" in told
    np.testing.assert_allclose(dr.load("fit.json").matrix, motion.matrix, atol=1e-3)
    assert dr.load("fit.json").axes == ("x", "y", "z")
    np.save("zyx.npy", source[:, ::-1])  # columns with names are taken in that order, too
    assert run(["icp", "target.csv", "zyx.npy", "--axes", "zyx", "--out", "named.json"]) == 0
    assert dr.load("named.json").axes == ("z", "y", "x")
    np.testing.assert_allclose(dr.load("named.json").matrix[:3, :3], motion.matrix[2::-1, 2::-1], atol=1e-3)
    assert run(["icp", "target.csv", "source.npy", "--axes", "zz", "--out", "none.json"]) == 2
    assert "--axes zz" in capsys.readouterr().err
    assert not Path("none.json").exists()


def test_the_demo(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--size", "96", "--slices", "6", "--workers", "1", "--out", "d", "--quiet"]) == 0
    caught = capsys.readouterr()
    assert caught.out.startswith("stack       6 x 96 x 96 uint16 with a known drift: d/stack.ome.zarr")
    assert caught.err == ""
    assert (here / "d" / "report.html").exists()
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").touch()
    assert run(["demo", "--out", "mine"]) == 2
    assert "mine holds other files" in capsys.readouterr().err
    assert (here / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["register", "a.tif", "a.tif", "--out", "f.json", "--model", "banana"], "banana"),
        (["register", "a.tif", "none.tif", "--out", "f.json"], "none.tif"),
        (["register", "a.tif", "a.tif", "--out", "f.txt"], "f.txt must end in .json"),
        (["register", "a.tif", "a.tif", "--out", "gone/f.json"], "there is no folder gone"),
        (["register", "flat.tif", "flat.tif", "--out", "f.json"], "constant"),
        (["align", "a.tif", "--out", "f.json", "--reference", "nobody"], "nobody"),
        (["align", "a.tif"], "Missing option '-o' / '--out'"),
    ],
)
def test_wrong_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    tifffile.imwrite("a.tif", texture(3))
    tifffile.imwrite("flat.tif", np.ones((40, 40), np.float32))
    assert run(command) == 2
    caught = capsys.readouterr()
    assert words in caught.err
    assert caught.err.count("\n") == 1
    assert not (here / "f.json").exists()


def test_align_edit_and_apply_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifts = np.array([[0, 0], [2, -1], [3, 1], [1, 2], [-1, 1], [0, 3]])
    large = texture(2, size=128)
    stack = np.stack([dr.warp(large, push=dr.Affine.translation(y=y, x=x))[16:-16, 16:-16] for y, x in shifts])
    stack[3] = 0
    tifffile.imwrite("stack.tif", stack)
    command = ["align", "stack.tif", "--model", "translation"]
    outputs = ["--table", "drift.csv", "--report", "page.html"]
    assert run([*command, "--out", "fit.json", *outputs]) == 0
    assert "blank 3" in capsys.readouterr().out
    page = (here / "page.html").read_text()
    for part in (
        "stack before and after",
        "Slices that stand out",
        "Neighbours that agree least",
        "daskreg align stack",
    ):
        assert part in page
    assert 'class="chart"' in page
    assert not (here / "fit.pairs.jsonl").exists()
    lines = (here / "drift.csv").read_text().splitlines()
    columns = lines[0].split(",")
    units = {"tx (pixel)", "ty (pixel)", "sigma_tx (pixel)", "cycle (pixel)"}
    assert {"slice", "score", "outlier", "kind", *units} <= set(columns)
    fit = dr.StackFit.load("fit.json")
    at = columns.index("tx (pixel)")
    rows = [line.split(",") for line in lines]
    rows[5][at] = "7.5"
    del rows[3]  # slice 2: interpolated from its neighbours
    (here / "edited.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    assert run([*command, "--edit", "edited.csv", "--out", "edited.json"]) == 0
    edited = dr.load("edited.json")
    before = fit.raw_from_aligned.matrices
    assert edited.matrices[4, 1, 2] == 7.5
    assert np.allclose(edited.matrices[[0, 1, 5]], before[[0, 1, 5]], atol=1e-12)
    assert np.allclose(edited.matrices[2], (edited.matrices[1] + edited.matrices[3]) / 2)
    assert edited.unit == fit.raw_from_aligned.unit
    assert run(["warp", "stack.tif", "out.zarr", "--pull", "edited.json", "-q"]) == 0
    assert run(["report", "fit.json", "--out", "fit.html"]) == 0
    assert len((here / "fit.html").read_text()) < 1_000_000
    (here / "bad.csv").write_text("slice,tx\n0,1\n9,1\n")
    assert run([*command, "--edit", "bad.csv", "--out", "bad.json"]) == 2
    assert "no slice 9, but 0 to 5" in capsys.readouterr().err


def test_align_with_anchors_and_more_slices(here: Path) -> None:
    large = texture(3, size=128)
    stack = np.stack([dr.warp(large, push=dr.Affine.translation(x=x))[16:-16, 16:-16] for x in range(7)])
    tifffile.imwrite("five.tif", stack[:5])
    tifffile.imwrite("seven.tif", stack)
    dr.Affine.translation(x=2.0, y=1.0).save("pose.json")
    command = ["align", "five.tif", "--model", "translation", "-q", "--out"]
    assert run([*command, "anchored.json", "--anchor", "2=pose.json"]) == 0
    anchored = dr.load("anchored.json").matrices
    assert np.allclose(anchored[2, :2, 2], (1, 2))
    assert np.allclose(anchored[:, 1, 2], range(5), atol=0.05)
    assert run([*command, "x.json", "--anchor", "pose.json"]) == 2
    assert run([*command, "five.json"]) == 0
    more = ["align", "seven.tif", "--model", "translation", "-q", "--out", "seven.json", "--previous", "five.json"]
    assert run(more) == 0
    assert np.allclose(np.diff(dr.load("seven.json").matrices[:, 1, 2]), 1, atol=0.02)


def test_the_page_of_a_fit_with_fields_says_what_before_is(here: Path) -> None:
    """Its own page compares with the affine map; a page of its file and the images with these as they are."""
    scene, (y, x) = texture(5, 128), np.mgrid[:128, :128].astype(float)
    nodes = dr.Grid((128, 128))
    field = dr.DisplacementField(np.stack([3 * np.sin(x / 20), 2 * np.cos(y / 18) + 4]), nodes)
    tifffile.imwrite("fixed.tif", scene)
    tifffile.imwrite("moving.tif", dr.warp(scene, push=field, edge="clamp").astype("u2"))
    images = ["fixed.tif", "moving.tif"]
    command = ["register", *images, "--model", "bspline", "--out", "fit.json", "--report", "page.html"]
    assert run([*command, "--keep-failed"]) in {0, 1}
    given = ["--fixed", images[0], "--moving", images[1]]
    assert run(["report", "fit.json", "--out", "fit.html", *given]) == 0
    assert run(["report", "fit.json", "--out", "bare.html"]) == 0
    own, raw, bare = ((here / name).read_text() for name in ("page.html", "fit.html", "bare.html"))
    assert own.count("<image") == raw.count("<image") == 6
    assert "by the affine map alone on its right" in own
    assert "before on its right" in raw
    agreements = [
        [float(v) for v in re.findall(r"correlate by (\S+) .*? and by (\S+) after", p)[0]] for p in (own, raw)
    ]
    (affine, after), (before, again) = agreements
    assert before < affine < after
    assert again == pytest.approx(after, abs=0.01)
    assert "daskreg report FIT.json -o PAGE.html --fixed FIXED --moving MOVING" in bare
    for page in (own, raw, bare):
        assert re.search(r"by the affine map alone, \S+ after", page)
        row = re.search(r"change by factors of</th><td>(.*?)</td>", page)
        names, values = zip(*(part.rsplit(" ", 1) for part in row[1].split(", ")), strict=True) if row else ((), ())
        assert names == ("least", "1 %", "median", "99 %", "greatest")
        jacobian = dr.DeformableFit.load("fit.json").jacobian
        assert [float(v) for v in values] == pytest.approx(jacobian, rel=1e-3)


def test_report_shows_each_kind_of_fit_as_the_fit_itself_does(here: Path) -> None:
    scene, rng = texture(3, 40), np.random.default_rng(0)
    points = rng.normal(size=(60, 3)) * (1.0, 2.0, 3.0)
    shifted = np.roll(scene, 1, axis=0)
    fits = {
        "pair": dr.register(scene, shifted, model="translation"),
        "deformable": dr.register(scene, shifted, model="bspline", spacing=20),
        "stack": dr.align_stack(np.stack([scene, shifted, scene]), model="translation"),
        "elastic": dr.align_stack(np.stack([scene, shifted, scene]), model="bspline", spacing=20),
        "cloud": dr.icp(points, points + 0.01),
        "points": dr.fit_points(points, points + 0.01),
    }
    for name, fit in fits.items():
        fit.save(here / f"{name}.json")
        assert run(["report", f"{name}.json", "-o", f"{name}.html"]) == 0
        fields = {"deformable", "elastic"}
        assert (here / f"{name}.html").read_text().count("<img") == (name in fields), "of its control points"
        type(fit).load(here / f"{name}.json").report(here / "same.html")
        pictures = {"pair": 1, "deformable": 2, "stack": 0, "elastic": 1, "cloud": 3, "points": 3}
        assert fit._repr_html_().count("data:image/png") == pictures[name], name
        told, same = (json.loads((here / f"{one}.report.json").read_text()) for one in (name, "same"))
        assert told["entries"] == same["entries"], name
        assert told["entries"][0]["kind"] == fit.kind
    fits["deformable"].transform.save("field.zarr")
    assert run(["report", "field.zarr", "-o", "field.html"]) == 0
    page = (here / "field.html").read_text()
    assert "Displacements from the affine map that fits best are up to" in page
    assert page.count("<img") == 1
    page = (here / "elastic.html").read_text()
    assert "growth of areas" in page
    assert "A stack of slices, with deformation" in page
    assert '<th scope="row">kinds</th>' not in page


def test_report_opens_the_stack_as_align_did_and_refuses_what_it_would_ignore(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = texture(3, 70)[:, :61]
    slices = np.stack([np.roll(scene, k % 3, axis=1) for k in range(5)])
    tifffile.imwrite("two.tif", np.stack([slices, slices[::-1]], 1), imagej=True, metadata={"axes": "ZCYX"})
    opened = ["--spacing", "3,2,2", "--unit", "nm"]
    assert run(["align", "two.tif", "-o", "fit.json", "--model", "translation", "-q", "--channel", "1", *opened]) == 0
    assert run(["report", "fit.json", "-o", "fit.html", "--stack", "two.tif"]) == 0, "with the spacing of `align`"
    assert 'type="range"' in (here / "fit.html").read_text()
    stack, fit = dr.open("two.tif", spacing=(3, 2, 2), unit="nm"), dr.StackFit.load("fit.json")
    shown = [fit.section(stack=stack, channel=channel).comparisons for channel in (None, 1, 0)]
    assert shown[0] == shown[1] != shown[2], "the channel of the fit, where none is named"
    dr.register(scene, np.roll(scene, 2, axis=0), model="translation").save("pair.json")
    assert run(["convert", "two.tif", "out.zarr", "-q"]) == 0
    capsys.readouterr()
    for words, expected in (
        (["fit.json", "--stack", "tow.tif"], "did you mean two.tif?"),
        (["fit.json", "--before", "two.tif"], "give the stack as --stack"),
        (["pair.json", "--stack", "two.tif"], "--stack is for the fit of a stack"),
        (["pair.json", "--fixed", "two.tif"], "--fixed and --moving belong together"),
        (["fit.json", "--fixed", "two.tif", "--moving", "two.tif"], "--fixed and --moving are for the fit of a pair"),
        (["out.zarr", "--stack", "two.tif"], "--stack is for the fit of a stack"),
        (["pair.json", "--before", "two.tif"], "--before is for an output"),
        (["out.zarr", "--before", "tow.tif"], "did you mean two.tif?"),
        (["fit.json", "--channel", "1"], "--channel"),
    ):
        assert run(["report", *words, "-o", "other.html"]) == 2, words
        assert expected in capsys.readouterr().err, words
