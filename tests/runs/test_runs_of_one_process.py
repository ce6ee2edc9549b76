"""Runs in a thread of this process, runs that others look at, and what their records hold."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from processes import BLOCKS, CHUNKS, HOW, SHAPE, TOTAL, SlowRun, until

import daskreg as dr
from daskreg.blocks.record.ledger import Ledger
from daskreg.cli import run as command
from daskreg.errors import (
    BlocksFailedError,
    MissingExtraError,
    NotAVolumeError,
    OptionError,
    OutputExistsError,
    RunCancelledError,
    RunError,
    RunInterruptedError,
    StorageFullError,
)
from daskreg.runs.liveness import Liveness
from daskreg.runs.place import CLUSTER, Place, ProcessId
from daskreg.runs.record import (
    RunRecord,
    error_facts,
    error_of,
    read_record,
    record_folder,
    request_cancel,
    write_record,
)
from daskreg.runs.recorder import Recorder
from daskreg.runs.status import cancel_run, status

PIXELS = np.random.default_rng(5).integers(0, 60_000, SHAPE, dtype=np.uint16)


@pytest.fixture
def slow(tmp_path: Path) -> SlowRun:
    zarr.create_array(tmp_path / "in.zarr", data=PIXELS, chunks=CHUNKS)
    return SlowRun(tmp_path, tmp_path / "in.zarr", tmp_path / "out.zarr")


def entries(path: Path) -> int:
    return len(Ledger(path).entries()) if Ledger(path).exists else 0


@pytest.mark.slow
def test_a_run_in_a_thread_is_followed_cancelled_and_resumed(slow: SlowRun) -> None:
    run = dr.write(slow.volume(), slow.out, wait=False, **HOW)
    assert "ends" in repr(run)
    until(lambda: run.progress.done > 2)
    page = run._repr_html_()
    assert "<progress" in page
    assert f"of {TOTAL}" in page
    assert dr.attach(slow.out).progress.total == TOTAL
    with pytest.raises(TimeoutError, match=f"of {TOTAL} done after"):
        run.wait(timeout=0.1)
    run.cancel()
    with pytest.raises(RunCancelledError):
        run.wait(timeout=300)
    assert run.state == "cancelled"
    kept = entries(slow.out)
    assert kept == slow.made < BLOCKS
    slow.release()
    again = dr.write(slow.volume(), slow.out, wait=False, **HOW)

    async def awaited() -> dr.Written:
        return await again

    assert asyncio.run(awaited()).blocks == TOTAL - kept
    assert np.array_equal(zarr.open_array(slow.out / "0", mode="r")[:], PIXELS)
    again.cancel()  # of a run that is over: nothing
    assert again.state == "done"


@pytest.mark.slow
def test_a_run_in_a_thread_ends_with_its_process_and_resumes(slow: SlowRun) -> None:
    body = "run = dr.write(VOLUME, OUT, wait=False, **HOW); time.sleep(2)"
    with slow.script(body) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "goes on in this process and ends with it" in err
    assert "Traceback" not in err
    run = dr.attach(slow.out)
    assert run.state == "interrupted"
    assert 0 < run.progress.done < TOTAL
    with pytest.raises(RunInterruptedError, match="the same call as before resumes"):
        run.wait()
    assert "interrupted" in status(slow.out).lines()[0]


def test_what_is_wrong_at_once_is_raised_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    dr.write(PIXELS, out, progress=False)
    with pytest.raises(OutputExistsError):
        dr.write(PIXELS, out, resume=False, wait=False)
    assert dr.attach(out).state == "done"  # of the run before
    with pytest.raises(OptionError, match=r"end in \.json"):
        dr.align_stack(PIXELS, save=tmp_path / "fit.txt", wait=False)


@pytest.mark.slow
def test_an_error_is_raised_as_itself(slow: SlowRun) -> None:
    victim = slow.stored / "c" / "3" / "2" / "0"
    victim.write_bytes(victim.read_bytes()[:20])
    run = dr.write(dr.open(slow.stored), slow.out, wait=False, **HOW)
    with pytest.raises(BlocksFailedError, match="block"):
        run.wait(timeout=300)
    with pytest.raises(BlocksFailedError, match="block"):
        dr.attach(slow.out).wait()
    found = status(slow.out)
    assert (found.state, found.failed) == ("failed", 1)
    assert any("level 0, block" in line for line in found.lines())


@pytest.mark.slow
def test_a_write_that_waits_is_seen_and_cancelled_by_others(slow: SlowRun, capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    try:
        dr.write(VOLUME, OUT, **HOW)
    except dr.errors.RunCancelledError as error:
        print(error)
    """
    with slow.script(body) as process:
        until(lambda: entries(slow.out) > 2)
        found = status(slow.out)
        assert (found.state, found.total) == ("running", TOTAL)
        assert f"process {process.pid} on" in found.where
        assert command(["cancel", str(slow.out)]) == 0
        out, _ = process.communicate(timeout=300)
    assert "the same call resumes" in out
    assert "cancelled" in capsys.readouterr().out
    assert command(["status", str(slow.out)]) == 0
    assert "the same command as before resumes it" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_was_killed_is_known_to_be(slow: SlowRun) -> None:
    with slow.script("dr.write(VOLUME, OUT, **HOW)") as process:
        until(lambda: entries(slow.out) > 2)
        process.kill()
        process.wait()
    began = time.monotonic()
    assert status(slow.out).state == "interrupted"
    assert dr.attach(slow.out).state == "interrupted"
    assert time.monotonic() - began < 10
    assert cancel_run(slow.out) == []


def test_an_output_of_an_earlier_version_has_a_status_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.zarr"
    blocks = dr.write(PIXELS, out, progress=False).blocks
    (Ledger(out).folder / "state.json").unlink()
    found = status(out)
    assert (found.state, found.done, found.total, found.where) == ("done", blocks, blocks, "")
    with pytest.raises(NotAVolumeError, match="no run is recorded"):
        dr.attach(out)
    assert command(["status", str(tmp_path / "nothing.zarr")]) == 2
    assert command(["cancel", str(tmp_path / "nothing.zarr")]) == 2
    capsys.readouterr()
    assert command(["status", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == blocks


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": "daskreg/run"}', '{"schema": 1, "version": 1}', "\0"]
)
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert read_record(tmp_path) is None
    (tmp_path / "state.json").unlink()
    os.mkfifo(tmp_path / "state.json")
    assert read_record(tmp_path) is None


def test_a_record_is_read_as_it_was_written_also_with_fields_of_a_later_version(tmp_path: Path) -> None:
    place = Place("t", CLUSTER, "tls://h:1", None, {"ca_file": "a", "cert": "b", "key": "c"})
    record = RunRecord(place, process=ProcessId.own(), done=3, total=4, failures=("one",), error={"type": "RunError"})
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    data = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(data | {"later": 1}))
    assert read_record(tmp_path) == record


@pytest.mark.parametrize(
    "error",
    [
        StorageFullError(28, "no space left while writing x"),
        MissingExtraError("h5py", "formats"),
        BlocksFailedError("2 blocks failed:\n  one\n  two"),
        RunCancelledError("cancelled"),
    ],
)
def test_errors_are_made_again_out_of_a_record(error: Exception) -> None:
    again = error_of(json.loads(json.dumps(error_facts(error))))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args or isinstance(error, MissingExtraError)


def test_errors_of_others_name_their_type_and_hold_no_secret() -> None:
    facts = error_facts(KeyError("s3://user:geheim@host/x"))
    assert "geheim" not in json.dumps(facts)
    assert "KeyError" in str(error_of(facts))
    assert isinstance(error_of({"type": "SystemExit", "args": [1]}), RunError)
    assert isinstance(error_of(None), RunError)


@pytest.mark.slow
def test_a_process_of_another_machine_is_watched_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daskreg.runs.liveness.QUIET", 0.3)
    record = RunRecord(Place("t"), process=ProcessId("elsewhere boot", 1, 1.0), beat=1)
    watch = Liveness()
    assert watch.is_over(record) is None
    assert watch.is_over(replace(record, beat=2)) is False
    assert watch.is_over(replace(record, beat=2)) is None
    time.sleep(0.4)
    assert watch.is_over(replace(record, beat=2)) is True


@pytest.mark.slow
def test_a_request_to_cancel_is_of_one_run_only(tmp_path: Path) -> None:
    request_cancel(tmp_path, "another")
    with Recorder(tmp_path, Place("own")) as recorder:
        recorder.check()
        request_cancel(tmp_path, "own")
        until(lambda: recorder._stop)
        with pytest.raises(RunCancelledError):
            recorder.check()


def test_a_disk_that_is_full_ends_no_run(tmp_path: Path) -> None:
    with Recorder(tmp_path / "nothing", Place("own")) as recorder:
        recorder.progress(1, 2, 3)


def test_the_folder_of_a_run_is_found_through_links_and_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert record_folder(tmp_path / "link" / "out.zarr") == tmp_path / "real" / "out.zarr.daskreg"
    assert record_folder(f"file://{tmp_path}/real/out.zarr") == tmp_path / "real" / "out.zarr.daskreg"


@pytest.mark.slow
def test_a_stack_is_aligned_in_a_thread(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    image = np.cumsum(np.cumsum(rng.normal(size=(70, 80)), 0), 1).astype(np.float32)
    stack = np.stack([image[5 + k : 55 + k, 10:70] for k in (0, 2, -1, 1)])
    expected = dr.align_stack(stack).raw_from_aligned.matrices
    run = dr.align_stack(stack, wait=False)
    assert np.array_equal(run.wait().raw_from_aligned.matrices, expected)
    assert not list(tmp_path.iterdir())
    dr.align_stack(stack, wait=False, save=tmp_path / "fit.json").wait()
    assert np.allclose(dr.attach(tmp_path / "fit.json").wait().raw_from_aligned.matrices, expected)


@pytest.mark.slow
def test_an_interrupted_alignment_says_what_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stack = np.random.default_rng(1).normal(size=(4, 40, 50)).astype(np.float32)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dr.align_stack(stack, progress=interrupt, checkpoint=tmp_path / "pairs.jsonl")
    assert "nothing more is begun; finished pairs are kept, and the same call goes on" in caplog.text


@pytest.mark.slow
def test_a_notebook_shows_a_run_until_it_has_ended(slow: SlowRun, monkeypatch: pytest.MonkeyPatch) -> None:
    IPython = pytest.importorskip("IPython.display")
    pages: list[str] = []

    class Shown:
        def update(self, page: object) -> None:
            pages.append(page.data)  # type: ignore[attr-defined]

    monkeypatch.setattr(IPython, "display", lambda page, display_id: pages.append(page.data) or Shown())
    run = dr.write(slow.volume(), slow.out, wait=False, **HOW)
    run._ipython_display_()
    until(lambda: len(pages) > 1)
    slow.release()
    run.wait(timeout=300)
    until(lambda: "done" in pages[-1])
