"""URLs where a file on a disk is needed: refused before anything is computed, and no folder `s3:` is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskreg as dr
from daskreg.cli import run
from daskreg.demo import run as run_demo
from daskreg.errors import InputError, OptionError
from daskreg.fields.field import DisplacementField
from daskreg.formats.points import read_points
from daskreg.reporting.page import report
from daskreg.runs.status import cancel_run, status
from daskreg.runtime.paths import local_path
from daskreg.stacks.align import StackFit, from_table
from daskreg.writing import verify

URLS = ("s3://bucket/{}", "gs://bucket/{}", "https://example.org/{}", "file:///tmp/{}")
MOVED = dr.Affine.translation(y=1, x=2)
FIELD = DisplacementField(np.zeros((2, 6, 7)), dr.Grid((6, 7), axes=("y", "x")))
STACK = np.random.default_rng(0).normal(size=(4, 20, 22)).astype(np.float32)


@pytest.fixture(autouse=True)
def in_a_folder_that_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


CALLS: dict[str, Callable[[str], Any]] = {
    "transform.json": dr.load,
    "transform.nrrd": dr.load,
    "fields.zarr": dr.load,
    "of-slices.json": StackFit.load,
    "out.json": MOVED.save,
    "out.tfm": MOVED.save,
    "out.h5": MOVED.save,
    "out.zarr": FIELD.save,
    "out.ngff.zarr": FIELD.save,
    "out.nii.gz": FIELD.save,
    "pairs.csv": dr.landmarks.read_pairs,
    "points.ply": read_points,
    "table.csv": lambda url: from_table(STACK, url),
    "fit.json": lambda url: dr.align_stack(STACK, save=url),
    "fit2.json": lambda url: dr.align_stack(STACK, save=url, wait=False),
    "pairs.jsonl": lambda url: dr.align_stack(STACK, checkpoint=url),
    "pairs2.jsonl": lambda url: dr.align_stack(STACK, save="fit.json", checkpoint=url, wait=False),
    "earlier.json": lambda url: dr.align_stack(STACK, previous=url),
    "page.html": lambda url: report({}, url),
    "demo": run_demo,
}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("name", CALLS)
def test_a_url_is_refused_where_a_file_is_needed(name: str, url: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*it is a URL, and this has to be a file or folder on a disk"):
        CALLS[name](url.format(name))


@pytest.mark.parametrize("act", [dr.attach, status, cancel_run])
def test_runs_are_not_recorded_at_schemes_that_are_not_written(act: Callable[[str], Any]) -> None:
    with pytest.raises(OptionError, match="it is a URL"):
        act("ftp://example.org/out.ome.zarr")


def test_a_path_that_was_made_of_a_url_is_refused_too() -> None:
    with pytest.raises(OptionError, match="it is a URL"):
        dr.write(STACK, Path("s3://bucket/out.ome.zarr"), progress=False)
    with pytest.raises(InputError, match="it is a URL"):
        verify(Path("s3://bucket/out.ome.zarr"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("align", "{stack}", "--out", "{url}"),
        ("warp", "{stack}", "out.zarr", "--pull", "{url}"),
        ("transform", "show", "{url}"),
        ("report", "{url}", "--out", "page.html"),
        ("icp", "{url}", "{url}", "--out", "fit.json"),
        ("submit", "{url}", "--", "warp"),
    ],
)
def test_the_command_line_says_that_it_is_a_url(
    arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = tmp_path_factory.mktemp("input") / "stack.npy"
    np.save(stack, STACK)
    values = {"stack": stack, "url": "s3://bucket/fit.json"}
    assert run([part.format(**values) for part in arguments]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "it is a URL" in said
    assert "s3://bucket/fit.json" in said


def test_secrets_of_a_url_are_not_repeated() -> None:
    with pytest.raises(OptionError, match="it is a URL") as refused:
        local_path("https://me:geheim@example.org/fit.json?signature=geheim")
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("path", ["a:b/c", "C:/data/fit.json", "data/s3:/fit.json", "fit.json"])
def test_paths_with_colons_are_paths(path: str) -> None:
    assert local_path(path) == Path(path)
