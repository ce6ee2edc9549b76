"""The table of bad input: each row on every public function that it concerns, and on the command line.

What an array, a transform or a place may be is tested in depth beside each function; here is
that no door is left open: the same typed error from `open`, `register`, `align_stack`, `icp`,
`warp`, `plan` and `write`, and one line with exit code 2 from the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run
from daskreg.errors import (
    ChannelError,
    ChunkReadError,
    DaskregWarning,
    DegenerateImageError,
    EmptyArrayError,
    EmptyMaskError,
    EmptyOutputError,
    GridError,
    InputError,
    InvalidSpacingError,
    InvalidTransformError,
    NoOverlapError,
    NotAVolumeError,
    OptionError,
    OutputExistsError,
    ShapeMismatchError,
    UnitError,
    UnsafeOutputError,
    UnsupportedDTypeError,
)
from daskreg.sources.storage import retrying
from daskreg.volumes import to_dataarray
from daskreg.writing import verify

pytestmark = pytest.mark.slow

SHAPE = (6, 40, 44)
RNG = np.random.default_rng(0)
VALUES = RNG.random(SHAPE).astype(np.float32)
IMAGE = VALUES[0]
SHIFT = dr.Affine.translation(x=1)

Flow = Callable[[Any, Path], Any]

FLOWS: dict[str, Flow] = {
    "open": lambda bad, _: dr.open(bad),
    "register fixed": lambda bad, _: dr.register(bad, IMAGE),
    "register moving": lambda bad, _: dr.register(IMAGE, bad),
    "align_stack": lambda bad, _: dr.align_stack(bad),
    "warp": lambda bad, _: dr.warp(bad, pull=SHIFT),
    "warp like": lambda bad, _: dr.warp(IMAGE, pull=SHIFT, like=bad),
    "plan": dr.plan,
    "write": lambda bad, path: dr.write(bad, path, progress=False),
}


def named(values: Any = IMAGE, **coords: Any) -> xr.DataArray:
    return xr.DataArray(values, dims=("z", "y", "x")[3 - np.ndim(values) :], coords=coords, name="bad")


def axis(name: str, values: Any, unit: str = "um") -> dict[str, Any]:
    return {name: (name, np.asarray(values, float), {"units": unit})}


ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "complex": (IMAGE.astype("c8"), UnsupportedDTypeError, "complex64"),
    "object": (IMAGE.astype(object), UnsupportedDTypeError, "object"),
    "string": (np.array([["a", "b"]]), UnsupportedDTypeError, "<U1"),
    "zero size": (IMAGE[:, :0], EmptyArrayError, "axis x .*length 0"),
    "irregular": (named(**axis("y", [*range(39), 99])), GridError, "axis y .*from index 38 to 39"),
    "spacing of zero": (named(**axis("x", np.zeros(44))), GridError, "axis x .*step is 0"),
    "spacing of NaN": (named(**axis("x", np.full(44, np.nan))), GridError, "axis x"),
    "mixed units": (
        named(**axis("y", range(40), "degree"), **axis("x", range(44), "um")),
        UnitError,
        "degree and micrometer",
    ),
    "unknown unit": (named(**axis("y", range(40), "furlong")), UnitError, "'furlong'"),
    "not a volume": ({"a": 1}, NotAVolumeError, "dict"),
    "no such path": ("nowhere.zarr", NotAVolumeError, r"nowhere\.zarr"),
    "a number": (3, NotAVolumeError, "number"),
}


@pytest.mark.filterwarnings("ignore::daskreg.errors.PixelUnitWarning")
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
@pytest.mark.parametrize(("bad", "error", "words"), ARRAYS.values(), ids=ARRAYS)
def test_arrays(tmp_path: Path, flow: Flow, bad: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        flow(bad, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())


POINTS = RNG.random((50, 3))
CLOUDS: dict[str, tuple[Any, type[Exception]]] = {
    "complex": (POINTS.astype(complex), InputError),
    "object": (np.array([["a", "b", "c"]] * 5, dtype=object), InputError),
    "empty": (POINTS[:0], InputError),
    "flat shape": (POINTS[:, 0], InputError),
    "4D": (np.hstack([POINTS, POINTS[:, :1]]), InputError),
    "one spot": (np.ones((50, 3)), DegenerateImageError),
    "other ndim": (POINTS[:, :2], ShapeMismatchError),
}


@pytest.mark.parametrize("role", ["target", "source"])
@pytest.mark.parametrize(("bad", "error"), CLOUDS.values(), ids=CLOUDS)
def test_clouds(role: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        dr.icp(*((bad, POINTS) if role == "target" else (POINTS, bad)))
    assert len(str(raised.value)) > 20


def spots(shape: tuple[int, ...] = SHAPE[1:], grid: dr.Grid | None = None, *, y: int = 0, x: int = 0) -> xr.DataArray:
    """A piece of a smooth random field, whose content lies y, x pixels further."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(3).random((120, 120)), 2)
    values = field[20 - y : 20 - y + shape[0], 20 - x : 20 - x + shape[1]]
    return to_dataarray(values, grid or dr.Grid(shape), name="spots")


ESTIMATES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "constant image": (lambda: dr.register(np.ones((40, 44)), spots()), DegenerateImageError, "constant"),
    "constant moving": (lambda: dr.register(spots(), np.ones((40, 44))), DegenerateImageError, "constant"),
    "constant stack": (lambda: dr.align_stack(np.ones(SHAPE)), DegenerateImageError, "constant"),
    "no overlap": (
        lambda: dr.register(spots(), spots(grid=dr.Grid(SHAPE[1:], origin=(900, 0))), init="identity"),
        NoOverlapError,
        r"y -0\.5.*y 899\.5",
    ),
    "everything masked": (
        lambda: dr.register(spots(), spots(), fixed_mask=np.zeros(SHAPE[1:], bool)),
        EmptyMaskError,
        "mask",
    ),
    "all NaN": (lambda: dr.register(np.full((40, 44), np.nan), spots()), InputError, "no finite voxel"),
    "all NaN stack": (lambda: dr.align_stack(np.full(SHAPE, np.nan)), DegenerateImageError, "holds no finite voxel"),
    "control points": (
        lambda: dr.register(IMAGE, IMAGE, model="bspline", spacing=-3),
        OptionError,
        "spacing=-3: .*positive, one number or one for each of 2 axes",
    ),
    "masked stack": (lambda: dr.align_stack(VALUES, mask=np.zeros(SHAPE[1:], bool)), EmptyMaskError, "mask"),
    "other ndim": (lambda: dr.register(IMAGE, VALUES), ShapeMismatchError, "2D|ndim|dimension"),
    "mixed units": (
        lambda: dr.register(
            spots(grid=dr.Grid(SHAPE[1:], unit="um")), spots(grid=dr.Grid(SHAPE[1:], unit="mm")), init="identity"
        ),
        UnitError,
        "micrometer and millimeter",
    ),
    "channels": (lambda: dr.register(RNG.random((3, 6, 40, 44)), RNG.random((3, 6, 40, 44))), ChannelError, "channel"),
    "channels of a stack": (lambda: dr.align_stack(RNG.random((3, 6, 40, 44))), ChannelError, "channel"),
}


@pytest.mark.parametrize(("estimate", "error", "words"), ESTIMATES.values(), ids=ESTIMATES)
def test_estimates(estimate: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        estimate()


NAN, INF = float("nan"), float("inf")
WHOLE: list[Any] = [-1, -5, 2.5, "x", None, True, NAN]
NUMBERS: list[Any] = [-1, NAN, INF, "x", None, True]
SOLVERS: dict[str, tuple[Callable[..., Any], dict[str, list[Any]]]] = {
    "register": (
        lambda **options: dr.register(IMAGE, IMAGE, **options),
        {
            "max_iterations": WHOLE,
            "tolerance": NUMBERS,
            "smoothing": [*NUMBERS, 1001],
            "levels": [*WHOLE, 0, 33],
        },
    ),
    "register bspline": (
        lambda **options: dr.register(IMAGE, IMAGE, model="bspline", **options),
        {"max_iterations": [2.5], "tolerance": [NAN], "smoothing": [-1], "levels": [0]},
    ),
    "register_many": (
        lambda **options: dr.register_many([IMAGE], [IMAGE], **options),
        {"max_iterations": WHOLE, "tolerance": NUMBERS, "smoothing": NUMBERS},
    ),
    "align_stack": (
        lambda **options: dr.align_stack(VALUES, **options),
        {"max_iterations": WHOLE, "tolerance": NUMBERS, "smooth": [*NUMBERS, 1], "neighbors": [*WHOLE, 0, 17]},
    ),
    "icp": (lambda **options: dr.icp(POINTS, POINTS, **options), {"max_iterations": WHOLE, "seed": WHOLE}),
}


@pytest.mark.parametrize(
    ("solve", "name", "bad"),
    [
        pytest.param(solve, name, bad, id=f"{what} {name}={bad!r}")
        for what, (solve, options) in SOLVERS.items()
        for name, values in options.items()
        for bad in values
    ],
)
def test_numbers_of_solvers(solve: Callable[..., Any], name: str, bad: Any) -> None:
    """Refused before anything is estimated, by what the option is called, was, and takes."""
    with pytest.raises(OptionError) as raised:
        solve(**{name: bad})
    assert re.fullmatch(
        rf"{name}={re.escape(repr(bad))}: use .*number .*(\d or more|from \d+ to \d+)", str(raised.value)
    )


def test_numbers_of_numpy_are_numbers() -> None:
    one, tenth = np.int64(1), np.float32(0.1)
    dr.register(spots(), spots(x=1), levels=one, max_iterations=one, tolerance=tenth, smoothing=tenth)
    dr.align_stack(np.stack([spots()] * 4), neighbors=one, max_iterations=one, tolerance=tenth)


def test_nan_is_masked_in_estimates_and_lowers_the_overlap(caplog: pytest.LogCaptureFixture) -> None:
    moving = spots((60, 64), y=1, x=2)
    holes = moving.values.copy()
    holes[10:16, 20:30] = np.nan
    fit = dr.register(spots((60, 64)), moving.copy(data=holes), model="translation")
    assert fit.ok
    assert abs(fit.parameters["tx"] - 2) < 0.05
    assert 0.9 < fit.overlap < 1


def with_holes(image: Any, value: float, share: float, seed: int) -> np.ndarray:
    """The image in float64, with a value at random places that are a share of it."""
    holes = np.random.default_rng(seed).random(image.shape) < share
    return np.where(holes, value, np.asarray(image, np.float64))


HOLES: dict[str, Callable[[Any, Any], Any]] = {
    "register": lambda a, b: dr.register(a, b, model="translation"),
    "register bspline": lambda a, b: dr.register(a, b, model="bspline"),
    "register_many": lambda a, b: dr.register_many([a, a], [b, b], model="translation")[1],
    "align_stack": lambda a, b: dr.align_stack(np.stack([a, b] * 3), model="translation"),
}


@pytest.mark.filterwarnings("ignore:.*hot, dead or gaps:daskreg.errors.DaskregWarning")
@pytest.mark.parametrize("estimate", HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("bad", [INF, -INF, 1e300], ids=["inf", "-inf", "beyond float32"])
def test_infinity_is_masked_as_nan_is(estimate: Callable[[Any, Any], Any], bad: float) -> None:
    fixed, moving = spots((60, 64)), spots((60, 64), y=1)
    fits = [estimate(with_holes(fixed, value, 0.01, 1), with_holes(moving, value, 0.01, 2)) for value in (bad, np.nan)]
    points = np.full((6, 2), 30.0)
    found, expected = (fit.pull(points, *([range(6)] if isinstance(fit, dr.StackFit) else [])) for fit in fits)
    assert fits[0].ok == fits[1].ok
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("model", ["translation", "bspline"])
@pytest.mark.parametrize("share", [0.8, 0.9, 0.95, 0.97, 0.99])
@pytest.mark.parametrize("bad", [NAN, INF], ids=["NaN", "inf"])
def test_images_of_next_to_no_voxels_give_a_fit_without_warnings(model: str, share: float, bad: float) -> None:
    fixed, moving = spots((60, 64)), spots((60, 64), y=1)
    fit = dr.register(with_holes(fixed, bad, share, 1), with_holes(moving, bad, share, 2), model=model)
    assert share < 0.95 or not fit.ok


def test_nan_points_are_dropped_and_counted() -> None:
    holes = POINTS.copy()
    holes[3] = np.nan
    with pytest.warns(DaskregWarning, match="1 of 50 points of the source hold NaN"):
        assert dr.icp(POINTS, holes, init="identity").rmse < 1e-9


def test_a_constant_slice_is_an_outlier_between_its_neighbours() -> None:
    clean = spots((60, 64)).values
    stack = np.stack([clean + 0.02 * noise for noise in np.random.default_rng(5).normal(size=(7, *clean.shape))])
    stack[3] = 0.5
    fit = dr.align_stack(stack, model="translation")
    assert list(fit.outliers) == [3]
    np.testing.assert_allclose(fit.raw_from_aligned.matrices[3], np.eye(3), atol=0.1)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.zeros((2, 5)), np.zeros((3, 5))])
def test_matrices(matrix: np.ndarray, tmp_path: Path) -> None:
    for use in (
        lambda: dr.Affine(matrix),
        lambda: dr.SliceAffines(matrix[None]),
        lambda: dr.warp(IMAGE, pull=matrix),
        lambda: dr.warp(IMAGE, push=matrix),
    ):
        with pytest.raises(InvalidTransformError):
            use()
    path = tmp_path / "bad.json"
    entry = {"type": "affine", "matrix": matrix.tolist(), "axes": None, "unit": None}
    path.write_text(json.dumps({"schema": "daskreg/transform", "version": 1, "transform": entry}))
    with pytest.raises(InvalidTransformError):
        dr.load(path)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    array = zarr.create_array(tmp_path / "in.zarr", shape=SHAPE, chunks=(1, 40, 44), dtype="f4", fill_value=7)
    array[:] = VALUES
    return tmp_path / "in.zarr"


def test_missing_chunks_are_counted_or_refused(tmp_path: Path, stored: Path) -> None:
    for name in ("2", "4"):
        (stored / "c" / name / "0" / "0").unlink()
    with pytest.warns(DaskregWarning, match="2 chunks of the source are not stored and are shown as the fill value"):
        written = dr.write(dr.open(stored), tmp_path / "out.zarr", progress=False)
    assert written.missing == 2
    assert "2 missing chunks read as fill" in repr(written)
    assert sum(entry.lost.missing for entry in Ledger(tmp_path / "out.zarr").entries().values()) == 2
    assert (dr.open(tmp_path / "out.zarr").values[[2, 4]] == 7).all()
    strict = dr.open(stored, missing="error")
    assert dr.open(stored).data.name != strict.data.name
    for use in (
        strict.compute,
        lambda: dr.register(strict[2], IMAGE),
        lambda: dr.align_stack(strict),
        lambda: dr.warp(strict, pull=SHIFT).compute(),
        lambda: dr.write(strict, tmp_path / "strict.zarr", progress=False),
    ):
        with pytest.raises(dr.errors.RunError, match=r"chunk c/[24]/0/0 of .*in\.zarr is missing"):
            use()
    whole = zarr.create_array(tmp_path / "whole.zarr", shape=SHAPE, chunks=(1, 40, 44), shards=(2, 40, 44), dtype="f4")
    whole[:] = VALUES
    assert dr.write(dr.open(tmp_path / "whole.zarr"), tmp_path / "w.zarr", progress=False).missing == 0


@pytest.mark.parametrize("damage", [b"", b"garbage"], ids=["empty", "garbage"])
@pytest.mark.parametrize("shards", [None, (2, 40, 44)], ids=["chunks", "shards"])
def test_damaged_chunks_are_named_or_filled_and_reported(
    tmp_path: Path, damage: bytes, shards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "LONGEST_DELAY", 0.01)
    path = tmp_path / "in.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(1, 40, 44), shards=shards, dtype="f4", fill_value=7)
    array[:] = VALUES
    (path / "c" / "1" / "0" / "0").write_bytes(damage)
    with pytest.raises(ChunkReadError, match=r"chunk c/1/0/0 of .*in\.zarr"):
        dr.open(path).compute()
    lenient = dr.open(path, corrupt="fill")
    lost = [1] if shards is None else [2, 3]
    expected = VALUES.copy()
    expected[lost] = 7
    np.testing.assert_array_equal(lenient.values, expected)
    with pytest.warns(DaskregWarning, match=rf"{len(lost)} damaged chunks were read as the fill value: .*in\.zarr Box"):
        written = dr.write(lenient, tmp_path / "out.zarr", progress=False)
    assert len(written.damaged) == len(lost)
    assert verify(tmp_path / "out.zarr") == []
    np.testing.assert_array_equal(dr.open(tmp_path / "out.zarr").values, expected)


@pytest.mark.parametrize("option", ["missing", "corrupt"])
def test_what_becomes_of_chunks_is_one_of_two(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}='maybe'"):
        dr.open(VALUES, **{option: "maybe"})


def test_a_rewritten_source_slice_redoes_what_it_touches(tmp_path: Path, stored: Path) -> None:
    path, options = tmp_path / "out.zarr", {"chunks": (1, 40, 44), "levels": 2, "progress": False}
    first = dr.write(dr.open(stored), path, **options)
    corrected = VALUES.copy()
    corrected[3] = 1
    zarr.open_array(stored, mode="r+")[3] = corrected[3]
    assert dr.write(dr.open(stored), path, **options).blocks == 0
    again = dr.write(dr.open(stored), path, resume="changed", **options)
    assert (again.blocks, again.changed, again.skipped) == (2, 2, first.blocks - 2)
    np.testing.assert_array_equal(dr.open(path).values, corrected)
    means = corrected.astype(float).reshape(3, 2, 20, 2, 22, 2).mean((1, 3, 5))
    np.testing.assert_allclose(dr.open(path, level=1).values, means, rtol=1e-6)
    assert dr.write(dr.open(stored), path, resume="changed", **options).blocks == 0


def test_one_slice_is_handled_as_2d() -> None:
    with pytest.warns(DaskregWarning):
        fit = dr.register(spots().values[None], spots(x=2).values[None], model="translation")
    assert abs(fit.parameters["tx"] - 2) < 0.1


@pytest.fixture
def here(tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each kind of bad input."""
    monkeypatch.chdir(tmp_path)
    zarr.create_array("flat.zarr", shape=SHAPE, chunks=(1, 40, 44), dtype="f4")[:] = 1
    zarr.create_array("empty.zarr", shape=(0, 4, 4), chunks=(1, 4, 4), dtype="f4")
    zarr.create_array("complex.zarr", shape=SHAPE, chunks=(1, 40, 44), dtype="c8")
    zarr.create_array("plane.zarr", shape=SHAPE[1:], chunks=SHAPE[1:], dtype="f4")[:] = IMAGE
    rgb = zarr.create_array("rgb.zarr", shape=(3, *SHAPE), chunks=(1, 1, 40, 44), dtype="f4")
    rgb[:] = np.stack([VALUES] * 3)
    xr.DataArray(
        IMAGE, dims=("y", "x"), coords={"y": [*range(39), 99.0], "x": np.arange(44.0)}, name="v"
    ).to_dataset().to_zarr("irregular.zarr", consolidated=False)
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    (tmp_path / "notes.txt").write_text("no volume")
    (tmp_path / "taken.zarr").mkdir()
    (tmp_path / "taken.zarr" / "thesis.txt").write_text("years of work")
    (tmp_path / "link.zarr").symlink_to(stored)
    SHIFT.save("t.json")
    dr.Affine.translation(x=1e6).save("far.json")
    dr.SliceAffines(np.stack([np.eye(3)] * 4)).save("four.json")
    bad = {
        "schema": "daskreg/transform",
        "version": 1,
        "transform": {"type": "affine", "matrix": np.diag([1, 0, 1, 1]).tolist()},
    }
    (tmp_path / "singular.json").write_text(json.dumps(bad))
    (tmp_path / "evil.json").write_bytes(b"\x80\x04cposix\nsystem\n")
    np.save("evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savetxt("points.csv", POINTS)
    return tmp_path


WARP = ["--pull", "t.json"]
COMMANDS: dict[str, tuple[list[str], str]] = {
    "constant": (["register", "flat.zarr", "in.zarr", "--out", "f.json"], "constant"),
    "constant stack": (["align", "flat.zarr", "--out", "f.json"], "constant"),
    "other ndim": (["register", "plane.zarr", "in.zarr", "--out", "f.json"], "2D"),
    "complex": (["convert", "complex.zarr", "o.zarr"], "complex64"),
    "zero size": (["info", "empty.zarr"], "length 0"),
    "irregular": (["info", "irregular.zarr"], "axis y"),
    "singular": (["warp", "in.zarr", "o.zarr", "--pull", "singular.json"], "singular"),
    "too few slices": (["warp", "in.zarr", "o.zarr", "--pull", "four.json"], "4 slices"),
    "all fill": (["warp", "in.zarr", "o.zarr", "--pull", "far.json"], "no voxel of the source"),
    "spacing": (["convert", "in.zarr", "o.zarr", "--spacing", "-1"], "positive"),
    "spacing of NaN": (["info", "in.zarr", "--spacing", "nan"], "spacing"),
    "unknown unit": (["info", "in.zarr", "--unit", "furlong"], "furlong"),
    "broken metadata": (["info", "broken.zarr"], "broken.zarr"),
    "no volume": (["convert", "notes.txt", "o.zarr"], "notes.txt"),
    "nothing there": (["align", "gone.zarr", "--out", "f.json"], "gone.zarr is not there"),
    "output exists": (["warp", "in.zarr", "taken.zarr", *WARP, "--overwrite"], "daskreg did not make it"),
    "output is the input": (["warp", "in.zarr", "in.zarr", *WARP], "is, contains or lies in the input"),
    "output in the input": (["warp", "in.zarr", "in.zarr/o.zarr", *WARP], "is, contains or lies in the input"),
    "output links to the input": (["warp", "in.zarr", "link.zarr", *WARP], "is, contains or lies in the input"),
    "output holds the input": (["warp", "in.zarr", ".", *WARP], "is, contains or lies in the input"),
    "channels": (["register", "rgb.zarr", "rgb.zarr", "--out", "f.json"], "channel"),
    "channels of a stack": (["align", "rgb.zarr", "--out", "f.json"], "channel"),
    "a pickle": (["warp", "in.zarr", "o.zarr", "--pull", "evil.json"], "evil.json is not"),
    "a pickle of points": (["icp", "evil.npy", "points.csv", "--out", "f.json"], "evil.npy holds no points"),
    "out of the store": (["info", "in.zarr/../in.zarr"], "'..' inside a store is not allowed"),
    "out of the zip": (["info", "in.zarr::/../x"], "leads out of the store"),
}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("command", "words"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_line(here: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str) -> None:
    before = sorted(here.rglob("*"))
    assert run(command) == 2
    caught = capsys.readouterr()
    told = [line for line in caught.err.splitlines() if "warning: " not in line]
    assert len(told) == 1, caught.err
    assert words in told[0]
    assert "Traceback" not in caught.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.filterwarnings("always")
def test_damage_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "in.zarr" / "c" / "2" / "0" / "0").unlink()
    (here / "in.zarr" / "c" / "3" / "0" / "0").write_bytes(b"garbage")
    assert run(["convert", "in.zarr", "out.zarr", "-q"]) == 1
    assert "chunk c/3/0/0 of" in capsys.readouterr().err
    assert run(["convert", "in.zarr", "out.zarr", "-q", "--corrupt", "fill", "--missing", "error"]) == 1
    assert "chunk c/2/0/0 of" in capsys.readouterr().err
    for _ in range(2):  # also where an earlier run has made these blocks
        assert run(["convert", "in.zarr", "new.zarr", "-q", "--corrupt", "fill"]) == 3
        assert "1 missing chunks read as fill, 1 damaged chunks read as fill" in capsys.readouterr().out


def test_an_empty_output_is_refused_before_running() -> None:
    with pytest.raises(EmptyOutputError):
        dr.warp(VALUES, pull=dr.Affine.translation(x=1e4))


def test_outputs_that_exist(tmp_path: Path, stored: Path) -> None:
    dr.write(dr.open(stored), tmp_path / "out.zarr", progress=False)
    with pytest.raises(OutputExistsError, match="resume=True takes it up again, overwrite=True replaces it"):
        dr.write(dr.open(stored), tmp_path / "out.zarr", resume=False, progress=False)
    # A ledger's folder is emptied on overwrite, so nothing may be read from there.
    inside = tmp_path / "o.zarr.daskreg" / "in.zarr"
    zarr.create_array(inside, shape=SHAPE, chunks=(1, 40, 44), dtype="f4")
    with pytest.raises(UnsafeOutputError, match=r"in\.zarr"):
        dr.write(dr.open(inside), tmp_path / "o.zarr", progress=False)
    with pytest.raises(InvalidSpacingError):
        dr.open(stored, spacing=0)
