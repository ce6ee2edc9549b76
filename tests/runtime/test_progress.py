"""Progress in the kernel of a notebook, without a terminal, and its text."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from daskreg.runtime.progress import at_stage, bar_html, progress_bar, shown, shows_progress

CELL = """
from daskreg.runtime.progress import at_stage, progress_bar
with progress_bar("writing <b>") as show:
    with at_stage("compiling"):
        pass
    for done in range(5):
        show(done + 1, 5, 1000 * done)
"""


@pytest.mark.slow
def test_a_notebook_without_widgets_shows_a_bar() -> None:
    """In a real kernel, whose display messages are looked at."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbclient.NotebookClient(notebook, timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    page = output["data"]["text/html"]
    assert "writing &lt;b&gt;" in page
    assert 'value="1.0000"' in page
    assert "5 of 5" in page


def test_where_there_is_no_terminal_short_work_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "daskreg")
    with progress_bar("writing") as show:
        show(1, 2, 0)
        show(2, 2, 0)
    assert caplog.text == ""


def test_names_and_links_are_escaped() -> None:
    page = bar_html("<script>", 0.5, "a & b", 'http://h/"onclick="x')
    assert "<script>" not in page
    assert "a &amp; b" in page
    assert '"onclick' not in page


@pytest.mark.slow
def test_importing_progress_imports_no_notebook() -> None:
    code = "import sys, daskreg.runtime.progress; print('IPython' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_bar_on_a_terminal_names_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read or compiled, as long as it is; nested bars all say it."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar("registering") as show:
        with at_stage("compiling"):
            time.sleep(0.15)
        show(1, 2, 0)
        time.sleep(0.15)
        before = written.getvalue()
        show(2, 2, 0)
    assert "registering: compiling" in before
    assert "registering: compiling" not in before.rpartition("1/2")[0].rpartition("\r")[2]
    with at_stage("reading"):
        pass
    assert "reading" not in written.getvalue()


def test_compiling_is_a_stage() -> None:
    """Of any kernel that is compiled in this process, and told while numba's lock is free."""
    from numba.core.compiler_lock import global_compiler_lock

    from daskreg.runtime import progress
    from daskreg.runtime.compiled import jit

    told: list[tuple[str, bool]] = []
    kernel = jit(lambda x: x + 1)
    with progress._told(lambda stage: told.append((stage, global_compiler_lock.is_locked()))):
        assert kernel(2) == 3
        assert kernel(3) == 4
    assert told == [("compiling", False), ("", False)]


def test_a_function_with_a_parameter_stage_is_told_of_stages() -> None:
    """One within another ends first, and what ends says what goes on; the numbers are those of the call before."""
    calls: list[tuple[int, int, str]] = []

    @shows_progress("registering")
    def long_call(*, progress: Callable[[int, int], None] | None = None) -> None:
        assert callable(progress)
        with at_stage("reading"), at_stage("compiling"):
            pass
        progress(1, 2)

    long_call(progress=lambda done, total, stage="": calls.append((done, total, stage)))
    stages = ["reading", "compiling", "reading", "fitting"]
    assert calls == [*((0, 1, stage) for stage in stages), (1, 2, "fitting")]
    with at_stage("reading"):
        pass
    assert len(calls) == 5  # of a call that has ended nothing is told


class Cancelled(BaseException):
    pass


def cancel(done: int, total: int, *, stage: str = "") -> None:
    if stage == "reading":
        raise Cancelled


def test_what_the_function_raises_at_a_stage_ends_its_own_call_alone() -> None:
    """The stage is that of another call, in another thread."""

    @shows_progress("registering")
    def counts(*, progress: Callable[[int, int], None] | None = None, parts: int) -> None:
        assert callable(progress)
        with ThreadPoolExecutor(1) as pool:
            other.append(pool.submit(reads).exception())
        for part in range(parts):
            progress(part + 1, parts)

    def reads() -> None:
        with at_stage("reading"):
            pass

    other: list[BaseException | None] = []
    for parts in (2, 0):
        with pytest.raises(Cancelled):
            counts(progress=cancel, parts=parts)
    assert other == [None, None]


def test_a_function_without_it_is_called_with_the_numbers_alone() -> None:
    calls: list[tuple[int, ...]] = []
    staged: list[str] = []
    with (
        shown(lambda *numbers: calls.append(numbers), "writing a") as plain,
        shown(lambda done, total, nbytes, stage: staged.append(stage), "writing b") as told,
        at_stage("compiling"),
    ):
        assert plain is not None
        assert told is not None
        plain(1, 2, 30)
        told(1, 2, 30)
    assert calls == [(1, 2, 30)]
    assert staged == ["compiling", "compiling", "writing"]


def set_by_position(done: int, total: int, nbytes: int, stage: str = "", /) -> None: ...


def set_by_name(done: int, total: int, nbytes: int, stage: str) -> None: ...


def too_few_numbers(done: int, total: int, stage: Any) -> None: ...


def any_names(*numbers: int, **stage: str) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        max,
        print,
        [].append,
        set_by_position,
        partial(set_by_name, stage="pair 3"),
        partial(partial(set_by_name, stage="pair 3")),
        too_few_numbers,
        any_names,
    ],
)
def test_a_function_that_takes_no_stage_is_left_as_it_is(function: Callable[..., None]) -> None:
    """Functions of C, and those where it has another meaning or a value of the user."""
    with shown(function, "writing") as report:
        assert report is function
