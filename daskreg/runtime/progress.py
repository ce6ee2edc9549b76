"""A progress bar with rate and time left, on a terminal or in a notebook; lines of a log elsewhere."""

from __future__ import annotations

import html
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from daskreg.errors import check_flags

log = logging.getLogger("daskreg")

ByteProgress = Callable[[int, int, int], None]
"""Called with (parts done, parts in all, bytes so far)."""

Progress = Callable[[int, int], None]
"""Called with (parts done, parts in all)."""

P = ParamSpec("P")
T = TypeVar("T")

REDRAW_EVERY = 0.5
"""Seconds between two states of a notebook's bar, each of which is a message to the browser."""

LOG_EVERY = 30.0
"""Seconds between two lines of the log."""

Tell = Callable[[str], None]
_shown: list[Tell] = []  # what bars and functions of this process are told of stages
_stages: list[str] = []  # the stages that are running, the latest last


@contextmanager
def at_stage(name: str) -> Iterator[None]:
    """While the block runs, bars of this process say what is being done, such as "reading" or "compiling"."""
    _stages.append(name)
    try:
        _tell_all()
        yield
    finally:
        _stages.remove(name)
        _tell_all()


def _tell_all() -> None:
    running = _stages[-1:]  # one slice, as another thread may end the stage meanwhile
    for tell in tuple(_shown):
        tell(running[0] if running else "")


@contextmanager
def _told(tell: Tell) -> Iterator[None]:
    """A bar is told of stages while the block runs."""
    _shown.append(tell)
    try:
        yield
    finally:
        _shown.remove(tell)


def shows_progress(label: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: `progress=True` of the function shows a bar with this label while it runs.

    The function itself is given a callable or None. A callable of the user that takes `stage` is told of stages.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def with_bar(*args: P.args, **options: P.kwargs) -> T:
            asked = options.get("progress")
            if asked is True:
                with progress_bar(label) as show:
                    options["progress"] = lambda done, total: show(done, total, 0)
                    return function(*args, **options)
            if not callable(asked):
                check_flags(progress=asked is not None and asked)
                options["progress"] = None
                return function(*args, **options)
            with _told_of_stages(asked, "fitting", (0, 1)) as options["progress"]:
                return function(*args, **options)

        return with_bar

    return decorated


def shown(progress: bool | ByteProgress, label: str) -> AbstractContextManager[ByteProgress | None]:
    """What `progress=` of a call that counts bytes means: a bar with this label, a function to call, or None."""
    if callable(progress):
        return _told_of_stages(progress, label.partition(" ")[0], (0, 1, 0))
    check_flags(progress=progress)
    return progress_bar(label) if progress else nullcontext(None)


@contextmanager
def _told_of_stages(
    progress: Callable[..., None], work: str, numbers: tuple[int, ...]
) -> Iterator[Callable[..., None]]:
    """What calls a function of the user with its numbers, and with `stage=` where it has a free parameter of this name.

    Such a function is also called when a stage begins or ends, with the numbers of the call before. Stages of other
    threads are told from these threads, which may work for another call: what the function raises there is raised
    when parts are counted next, or at the end.

    work: the stage while nothing is read or compiled, such as "fitting". numbers: what stands before the first part.
    """
    if not _takes_stage(progress, numbers):
        yield progress
        return
    stage = work
    raised: list[BaseException] = []

    def count(*now: int) -> None:
        nonlocal numbers
        if raised:
            raise raised.pop()
        numbers = now
        progress(*now, stage=stage)

    def tell(name: str) -> None:
        nonlocal stage
        if stage == (name or work) or raised:
            return
        stage = name or work
        try:
            progress(*numbers, stage=stage)
        except BaseException as error:
            raised.append(error)

    with _told(tell):
        yield count
    if raised:
        raise raised.pop()


def _takes_stage(progress: Callable[..., None], numbers: tuple[int, ...]) -> bool:
    """Whether `stage=` can be passed beside the numbers, and is no argument that the user has set."""
    try:
        signature = inspect.signature(progress)
    except (TypeError, ValueError):  # some functions of C have no signature
        return False
    parameter = signature.parameters.get("stage")
    if parameter is None or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        return False
    if isinstance(progress, partial) and "stage" in progress.keywords:
        return False
    try:
        signature.bind(*numbers, stage="")
    except TypeError:
        return False
    return True


@contextmanager
def progress_bar(label: str) -> Iterator[ByteProgress]:
    """Gives `progress(done, total, bytes)`: a live bar on a terminal or in a notebook, else log lines."""
    if _in_notebook():
        show, tell, finish = _notebook_bar(label)
        with _told(tell):
            yield show
        finish()
        return
    if not sys.stderr.isatty():
        yield _logged(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(label, total=None, rate="")
        started = time.monotonic()

        def show(done: int, total: int, nbytes: int) -> None:
            bar.update(task, completed=done, total=total, rate=_rate(done, nbytes, time.monotonic() - started))

        with _told(lambda stage: bar.update(task, description=_labelled(label, stage))):
            yield show


def _labelled(label: str, stage: str) -> str:
    return f"{label}: {stage}" if stage else label


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return "ipykernel" in sys.modules and ipython is not None and ipython.get_ipython() is not None


def _notebook_bar(label: str) -> tuple[ByteProgress, Tell, Callable[[], None]]:
    """A bar of HTML alone, which needs no widgets; what names the stage, and what shows the last state."""
    from IPython.display import HTML, display

    started = time.monotonic()
    shown: Any = display(HTML(bar_html(label, 0.0, "")), display_id=True)
    last, stage, fraction, text = started, "", 0.0, ""
    timer: threading.Timer | None = None
    drawn = False

    def draw() -> None:
        shown.update(HTML(bar_html(_labelled(label, stage), fraction, text)))

    def show(done: int, total: int, nbytes: int) -> None:
        nonlocal last, fraction, text
        now = time.monotonic()
        seconds = now - started
        left = "" if done >= total else f", {_duration(seconds / max(1, done) * (total - done))} left"
        fraction, text = done / max(1, total), f"{done} of {total}, {_rate(done, nbytes, seconds)}{left}"
        if now - last > REDRAW_EVERY:
            last = now
            draw()

    def name_stage(name: str) -> None:
        nonlocal stage, drawn
        stage, drawn = name, bool(name)
        draw()

    def tell(name: str) -> None:
        nonlocal timer
        if timer is not None:
            timer.cancel()
        timer = threading.Timer(REDRAW_EVERY, name_stage, [name]) if name else None  # short stages are not shown
        if timer is not None:
            timer.daemon = True
            timer.start()
        elif drawn:
            name_stage("")

    return show, tell, draw


def bar_html(label: str, fraction: float, text: str, link: str | None = None) -> str:
    """A bar with a name in front and a text behind; `link` is the address of a dashboard."""
    page = f' <a href="{html.escape(link, quote=True)}" target="_blank">dashboard</a>' if link else ""
    return (
        f"<div><b>{html.escape(label)}</b> "
        f'<progress value="{fraction:.4f}" max="1" style="width: 20em"></progress> {html.escape(text)}{page}</div>'
    )


def _logged(label: str) -> ByteProgress:
    started = last = time.monotonic()

    def show(done: int, total: int, nbytes: int) -> None:
        nonlocal last
        now = time.monotonic()
        # Work that takes less than that logs nothing, so that an error message stands alone.
        if now - last < LOG_EVERY and (done < total or last == started):
            return
        last = now
        left = (now - started) / max(1, done) * (total - done)
        ends = f"{_duration(left)} left" if done < total else f"done in {_duration(now - started)}"
        log.info("%s: %d of %d, %s, %s", label, done, total, _rate(done, nbytes, now - started), ends)

    return show


def _duration(seconds: float) -> str:
    from dask.utils import format_time

    return format_time(seconds)


def _rate(done: int, nbytes: int, seconds: float) -> str:
    from dask.utils import format_bytes

    if seconds <= 0:
        return ""
    return f"{format_bytes(int(nbytes / seconds))}/s" if nbytes else f"{done / seconds:.1f}/s"
