"""Plans: exact figures for a case worked by hand, and refusals before anything runs."""

from __future__ import annotations

import ast
import math
import re

import numpy as np
import pytest
import zarr

import daskreg as dr
from daskreg.blocks.plan import Layout, Plan, make_layout, plan_level
from daskreg.blocks.run_levels import grouped_blocks
from daskreg.errors import MemoryBudgetError, OptionError
from daskreg.geometry import Box
from daskreg.volumes import volume_of
from daskreg.warping import make_job


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "stack.zarr"
    zarr.create_array(path, shape=(32, 256, 256), chunks=(8, 64, 64), dtype="u2")
    return str(path)


def boxes(plan: Plan) -> list[Box]:
    """The output boxes of the blocks of level 0, as a run makes them."""
    level = plan.levels[0]
    groups = grouped_blocks(level.task, level.layout.shape, level.block_shape)
    found = [box for _, blocks in groups for _, box in blocks]
    assert len(found) == level.block_count
    return found


def test_a_copy_reads_each_byte_once(stack: str, tmp_path) -> None:
    plan = dr.plan(dr.open(stack), tmp_path / "out.zarr", chunks=(8, 64, 64), levels=1)
    assert plan.bytes_read == plan.bytes_written == 32 * 256 * 256 * 2
    assert plan.amplification == 1
    assert plan.files == 4 * 4 * 4
    assert plan.levels[0].exact


def test_a_level_reads_each_byte_of_the_level_below_once(tmp_path) -> None:
    """The chunks of a copy are as flat as its files; cubes would need each of them several times."""
    stored = zarr.create_array(tmp_path / "flat.zarr", shape=(70, 1030, 1100), chunks=(1, 1030, 1100), dtype="u2")
    plan = dr.plan(dr.open(str(tmp_path / "flat.zarr")), tmp_path / "out.zarr")
    assert len(plan.levels) > 2
    assert plan.levels[0].layout.nbytes == stored.nbytes
    for below, level in zip(plan.levels, plan.levels[1:], strict=False):
        chunks = zip(level.task.source.chunks, below.layout.shape, strict=True)
        ends = math.prod(-(-n // c) * c / n for c, n in chunks)  # chunks at the far ends are stored whole
        assert below.layout.nbytes <= level.bytes_read <= below.layout.nbytes * ends


def test_blocks_grow_to_read_less(stack: str, tmp_path) -> None:
    turned = dr.warp(dr.open(stack), pull=dr.Affine.rotation(0.3, centre=(128, 128)))
    plan = dr.plan(turned, tmp_path / "out.zarr", chunks=(8, 64, 64), levels=1)
    assert plan.levels[0].block_shape == (8, 256, 256)
    assert plan.amplification <= 1.0
    small = dr.plan(turned, tmp_path / "out.zarr", chunks=(8, 64, 64), levels=1, memory="2 MiB")
    assert small.memory <= 2 * 2**20
    assert small.amplification > plan.amplification
    assert small.block_count > plan.block_count


def test_blocks_are_whole_shards_and_cover_the_output_once(stack: str, tmp_path) -> None:
    plan = dr.plan(dr.open(stack), tmp_path / "o.zarr", chunks=(4, 32, 32), shards=(8, 96, 64), levels=1)
    seen = np.zeros((32, 256, 256), np.uint8)
    for box in boxes(plan):
        assert all(a % s == 0 for a, s in zip(box.start, (8, 96, 64), strict=True))
        assert all(b % s == 0 or b == n for b, s, n in zip(box.stop, (8, 96, 64), (32, 256, 256), strict=True))
        seen[box.slices] += 1
    assert (seen == 1).all()


def test_fill_only_blocks_read_nothing(stack: str, tmp_path) -> None:
    far = dr.warp(dr.open(stack), pull=dr.Affine.translation(x=192))
    plan = dr.plan(far, tmp_path / "o.zarr", chunks=(32, 64, 64), levels=1, memory="8 MiB")
    empty = [box for box in boxes(plan) if plan.levels[0].task.read_box(box).empty]
    assert {box.start[2] for box in empty} == {64, 128, 192}


@pytest.mark.parametrize("layout", [{"chunks": (32, 256, 256)}, {"chunks": (8, 64, 64), "shards": (32, 256, 256)}])
def test_what_cannot_fit_is_refused_with_what_would(stack: str, tmp_path, monkeypatch, layout) -> None:
    """And it does: each of the remedies that the error names is taken."""
    volume, path = dr.open(stack), tmp_path / "o.zarr"
    monkeypatch.setattr("daskreg.blocks.memory.threads_per_process", lambda client: 4)
    with pytest.raises(MemoryBudgetError, match=r"a block of .* what would fit: ") as refused:
        dr.plan(volume, path, **layout, levels=1, memory="30 MiB")
    assert not path.exists()
    said = str(refused.value)
    found = re.search(r"memory='(.*)', or workers of (\d+) threads?, or chunks=(.*) and shards=(.*)$", said)
    assert found is not None
    assert dr.plan(volume, path, **layout, levels=1, memory=found[1]).threads == 4
    fitting = {"chunks": ast.literal_eval(found[3]), "shards": ast.literal_eval(found[4])}
    assert dr.plan(volume, path, **fitting, levels=1, memory="30 MiB").threads == 4
    monkeypatch.setattr("daskreg.blocks.memory.threads_per_process", lambda client: int(found[2]))
    dr.plan(volume, path, **layout, levels=1, memory="30 MiB")


def test_many_files_are_gathered_in_shards() -> None:
    class Task:
        dims, shape, dtype, grid = ("z", "y", "x"), (4096, 4096, 4096), np.dtype("u1"), dr.Grid((4096,) * 3)

    layout = make_layout(Task(), 64, "auto")  # type: ignore[arg-type]
    assert layout.shards is not None
    assert layout.files <= 50_000
    assert all(s % c == 0 for s, c in zip(layout.shards, layout.chunks, strict=True))


def test_large_plans_are_estimated_from_a_sample(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskreg.blocks.plan.SAMPLED_BLOCKS", 16)
    spec = volume_of(dr.open(stack)).source
    job = make_job(spec, None, spec.grid)
    level = plan_level(
        0, job, Layout(job.dims, job.shape, job.dtype, (8, 64, 64), None), limit=2**30, threads=2, workers=1
    )
    assert level.block_count == 64
    assert level.exact is False
    assert level.bytes_read == 32 * 256 * 256 * 2


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": 0},
        {"chunks": "big"},
        {"chunks": (1, 2, 3, 4, 5)},
        {"chunks": 32, "shards": 48},
        {"levels": 0},
        {"levels": "many"},
        {"downsample": "max"},
        {"memory": "a lot"},
        {"memory": 0},
    ],
)
def test_bad_options_are_named(stack: str, tmp_path, options: dict) -> None:
    with pytest.raises(OptionError):
        dr.plan(dr.open(stack), tmp_path / "o.zarr", **options)


def test_a_plan_says_what_will_happen(stack: str, tmp_path) -> None:
    text = repr(dr.plan(dr.open(stack), tmp_path / "o.zarr", chunks=64, levels=2))
    for words in ("z 32 x y 256 x x 256", "32x256x256, 16x128x128", "reads", "memory", "limit", "files"):
        assert words in text


def test_a_probe_says_how_long_it_will_take(stack: str, tmp_path) -> None:
    turned = dr.warp(dr.open(stack), pull=dr.Affine.rotation(0.3, centre=(128, 128)))
    plan = dr.plan(turned, tmp_path / "out.zarr", chunks=(8, 64, 64), levels=2, probe=True)
    assert plan.seconds is not None
    assert 0 < plan.seconds < 60
    assert "judging by one block" in repr(plan)
    assert not (tmp_path / "out.zarr").exists()
    assert dr.plan(turned, tmp_path / "out.zarr").seconds is None


def test_an_image_smaller_than_a_chunk_can_be_probed(tmp_path) -> None:
    small = dr.open(np.ones((5, 7), np.float32))
    plan = dr.plan(dr.warp(small, pull=dr.Affine.translation(x=0.5)), tmp_path / "o.zarr", probe=True)
    assert plan.seconds is not None
