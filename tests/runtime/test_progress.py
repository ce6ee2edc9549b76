"""Progress in the kernel of a notebook, without a terminal, and its text."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from daskreg.runtime.progress import bar_html, progress_bar

CELL = """
from daskreg.runtime.progress import progress_bar
with progress_bar("writing <b>") as show:
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
