"""`write(part=(i, n))`: several processes write one image without a scheduler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import HOW, SlowRun, until

import daskreg as dr
from daskreg.blocks.levels import RunOptions, plan_levels
from daskreg.blocks.memory import Processes
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run as command
from daskreg.contents import task_of
from daskreg.errors import OptionError, OutputBusyError, RunCancelledError
from daskreg.geometry import Box
from daskreg.runs.part_locks import active_parts
from daskreg.runs.parts import Part, owned_blocks
from daskreg.runs.status import cancel_run, status
from daskreg.writing import verify, volume_of

SHAPE, CHUNKS = (20, 70, 55), (2, 25, 30)
PIXELS = np.random.default_rng(3).integers(0, 60_000, SHAPE, dtype=np.uint16)
PULL = dr.Affine.from_parameters(theta=0.1, tx=2, centre=(35, 27))
LAYOUT = {"chunks": CHUNKS, "levels": 3, "memory": "16 MiB", "progress": False, "client": False}
SCRIPT = f"""
import sys, daskreg as dr
pull = dr.Affine.from_parameters(theta=0.1, tx=2, centre=(35, 27))
stored, out, number, of = sys.argv[1:]
sys.stdin.readline()  # all begin at once
print(dr.write(dr.warp(dr.open(stored), pull=pull), out, part=(int(number), int(of)), **{LAYOUT!r}))
"""


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    zarr.create_array(tmp_path / "in.zarr", data=PIXELS, chunks=CHUNKS)
    return tmp_path / "in.zarr"


def warped(stored: Path) -> object:
    return dr.warp(dr.open(stored), pull=PULL)


def files(path: Path) -> dict[str, bytes]:
    """What is stored, but for the metadata file that holds the run's id."""
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert found.pop("zarr.json")
    return found


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(1, 50)),
    chunks=st.tuples(st.integers(1, 9), st.integers(8, 20), st.integers(8, 20)),
    of=st.integers(1, 9),
)
def test_every_block_of_the_lowest_level_is_of_one_part_and_no_other_of_two(
    shape: tuple[int, ...], chunks: tuple[int, ...], of: int
) -> None:
    volume = volume_of(np.zeros(shape, "u1"))
    chunks = tuple(map(min, chunks, shape))
    made = plan_levels(task_of(volume), "out.zarr", RunOptions(chunks, None, 3), Processes.of(None, None))
    owners = [owned_blocks(made, Part(number, of)) for number in range(1, of + 1)]
    counts = [np.sum([masks[level] for masks in owners], axis=0) for level in range(len(made.levels))]
    assert (counts[0] == 1).all()
    assert all((count <= 1).all() for count in counts[1:])
    sizes = [int(masks[0].sum()) for masks in owners]
    assert max(sizes) - min(sizes) <= 1
    for masks in owners:  # what a block above is made of is its own part's
        for level, above in zip(made.levels[1:], masks[1:], strict=True):
            below, block = masks[level.level - 1], made.levels[level.level - 1].block_shape
            for index in np.argwhere(above):
                box = level.task.read_box(Box(tuple(index * level.block_shape), tuple((index + 1) * level.block_shape)))
                corners = product(*((a // b, (z - 1) // b) for a, z, b in zip(box.start, box.stop, block, strict=True)))
                assert all(below[corner] for corner in corners)


@pytest.mark.slow
def test_parts_in_several_processes_at_once_equal_one_run(tmp_path: Path, stored: Path) -> None:
    whole, out = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    expected = dr.write(warped(stored), whole, **LAYOUT)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SCRIPT, str(stored), str(out), str(number), "2"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in (1, 2)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert files(out) == files(whole)
    assert verify(out) == []
    lines = sum(file.read_bytes().count(b"}\n") for file in Ledger(out).folder.glob("*.jsonl"))
    assert lines == expected.blocks  # nothing was made twice
    assert sum("left to other parts" not in one for one in said) >= 1
    found = status(out)
    assert (found.state, found.done, found.total) == ("done", expected.blocks, expected.blocks)
    assert [(one.number, one.of, one.state) for one in found.parts] == [(k, 2, "done") for k in (1, 2)]


@pytest.mark.slow
def test_parts_one_after_another_and_again(tmp_path: Path, stored: Path) -> None:
    whole, out = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    dr.write(warped(stored), whole, **LAYOUT)
    third = dr.write(warped(stored), out, part=(3, 3), **LAYOUT)
    assert third.remaining > 0
    assert f"{third.remaining} are left to other parts" in repr(third)
    assert status(out).state == "incomplete"
    with pytest.raises(OptionError, match="written in parts"):
        dr.attach(out)
    first = dr.write(warped(stored), out, part=(1, 3), **LAYOUT)
    assert first.blocks + third.blocks == third.blocks + third.remaining - first.remaining
    last = dr.write(warped(stored), out, part=(2, 3), **LAYOUT)
    assert last.remaining == 0
    assert files(out) == files(whole)
    again = dr.write(warped(stored), out, part=(2, 3), **LAYOUT)
    assert (again.blocks, again.remaining) == (0, 0)
    assert dr.write(warped(stored), out, **LAYOUT).blocks == 0
    dr.write(warped(stored), out, overwrite=True, **LAYOUT)
    assert not list(Ledger(out).folder.glob("part-*"))


SLOWLY = "dr.write(dr.open({!r}), OUT, part=(2, 2), **HOW | {{'progress': lambda *_: time.sleep(0.2)}})"


@pytest.mark.slow
def test_a_part_that_was_killed_is_done_again_alone(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", data=PIXELS[:, :50, :30], chunks=(1, 25, 30))
    slow = SlowRun(tmp_path, tmp_path / "in.zarr", tmp_path / "out.zarr")
    how = {**HOW, "client": False}
    volume = dr.open(slow.stored)
    with slow.script(SLOWLY.format(str(slow.stored))):
        until(lambda: Ledger(slow.out).exists and len(Ledger(slow.out).entries()) > 3)
        assert active_parts(Ledger(slow.out).folder) == [(2, 2)]
        with pytest.raises(OutputBusyError, match="part 2/2 is being written"):
            dr.write(volume, slow.out, part=(2, 2), **how)
        with pytest.raises(OutputBusyError, match="of another division"):
            dr.write(volume, slow.out, part=(1, 3), **how)
        with pytest.raises(OutputBusyError, match=r"parts of this output are being written \(2/2\)"):
            dr.write(volume, slow.out, **how)
        assert status(slow.out).parts[0].state == "running"
    assert status(slow.out).parts[0].state == "interrupted"
    kept = len(Ledger(slow.out).entries())
    assert dr.write(volume, slow.out, part=(1, 2), **how).remaining > 0
    second = dr.write(volume, slow.out, part=(2, 2), **how)
    assert (second.skipped, second.remaining) == (kept, 0)
    assert np.array_equal(zarr.open_array(slow.out / "0", mode="r")[:], PIXELS[:, :50, :30])


@pytest.mark.slow
def test_parts_are_cancelled_together(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", data=PIXELS[:, :50, :30], chunks=(1, 25, 30))
    slow = SlowRun(tmp_path, tmp_path / "in.zarr", tmp_path / "out.zarr")
    body = """
    from daskreg.errors import RunCancelledError
    try:
        dr.write(VOLUME, OUT, part=(1, 2), **HOW)
    except RunCancelledError as error:
        print("cancelled")
    """
    with slow.script(body) as process:
        until(lambda: Ledger(slow.out).exists and len(Ledger(slow.out).entries()) > 3)
        ended = cancel_run(slow.out, timeout=300)
        assert process.communicate(timeout=300)[0].strip() == "cancelled"
    assert [one.state for one in ended] == ["cancelled"]
    assert issubclass(RunCancelledError, dr.errors.RunError)


@pytest.mark.parametrize("part", [(0, 3), (4, 3), (1, 0), (True, 3), (1.0, 3), 3, "1/3", (1, 2, 3)])
def test_parts_that_are_none(tmp_path: Path, part: object) -> None:
    with pytest.raises(OptionError, match="i from 1 to n"):
        dr.write(PIXELS, tmp_path / "out.zarr", part=part, **LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_a_part_overwrites_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="remove it before"):
        dr.write(PIXELS, tmp_path / "out.zarr", part=(1, 2), overwrite=True, **LAYOUT)
    with pytest.raises(OptionError, match="wait=False"):
        dr.write(PIXELS, tmp_path / "out.zarr", part=(1, 2), wait=False, **LAYOUT)


@pytest.mark.slow
def test_parts_on_the_command_line(tmp_path: Path, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.zarr"
    for number in (1, 2):
        assert command(["convert", str(stored), str(out), "--part", f"{number}/2", "--chunks", "2,25,30", "-q"]) == 0
    assert "left to other parts" in capsys.readouterr().out
    assert verify(out) == []
    assert command(["convert", str(stored), str(out), "--part", "0/2"]) == 2
    assert "counted from 1" in capsys.readouterr().err


def test_the_bar_of_the_part_that_ends_last_stays_until_all_is_made(
    tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, int]] = []

    @contextmanager
    def bar(label: str) -> Iterator[Any]:
        shown.clear()
        ended = False

        def show(done: int, total: int, nbytes: int) -> None:
            assert not ended
            shown.append((done, total))

        yield show
        ended = True

    monkeypatch.setattr("daskreg.runtime.progress.progress_bar", bar)
    for number in (1, 2, 3):
        dr.write(warped(stored), tmp_path / "out.zarr", part=(number, 3), **{**LAYOUT, "progress": True})
    whole = len(Ledger(tmp_path / "out.zarr").entries())
    assert shown[-1] == (whole, whole)
