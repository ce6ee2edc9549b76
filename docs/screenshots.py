"""The pictures in docs/images: `make screenshots`, or, after `make docs`, `python docs/screenshots.py`.

Pages are drawn by Chromium (`tests/browser.py`). The data are those of the demo and of the notebooks `real_stack` (of
sections in DASKREG_DATA, where they are) and `deformable`; the notebook itself is the page that `make docs` made of it.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from browser import Page, chromium  # noqa: E402 - found by the line above

from daskreg.demo import run as run_demo  # noqa: E402
from daskreg.reporting.figures import png  # noqa: E402

_MARGIN = 12
"""Pixels above what a picture begins with."""
_COLOURS = 256
"""Of a picture: what is drawn here has few, and the files are half as large."""


def main() -> None:
    notebook = HERE.parent / "build/docs/notebooks/real_stack.html"
    if not notebook.exists():
        raise SystemExit(f"{notebook} is not there: `make docs` first, or `make screenshots`")
    mpl.use("agg")
    images = HERE / "images"
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder) / "profile") as browser:
        demo = run_demo(Path(folder) / "demo", progress=False, show=lambda _: None)
        shoot(browser, Path(demo.page), images / "demo.png", width=1000, since="section", until="section > figure")
        fit, raw = of_notebook("real_stack", "fit", "raw", cells=4)
        page = fit.report(Path(folder) / "drift.html", stack=raw)
        for scheme in ("light", "dark"):
            shoot(browser, page, images / f"report-{scheme}.png", width=800, height=800, scheme=scheme)
        shoot(browser, notebook, images / "notebook.png", width=720, since="p:has(+ .cell .daskreg-fit)", height=605)
        (fit,) = of_notebook("deformable", "fit", cells=3)
        save(png(fit.plot(), dpi=77), images / "field.png", colours=None)


def of_notebook(name: str, *variables: str, cells: int) -> list[Any]:
    """Variables after the first cells of a notebook, which are run as a script, without their pictures."""
    found = json.loads((HERE.parent / f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"][:cells]
    code = "\n".join("".join(cell["source"]) for cell in found if cell["cell_type"] == "code")
    names: dict[str, Any] = {}
    exec(code, names)
    return [names[variable] for variable in variables]


def shoot(
    browser: Page,
    page: Path,
    file: Path,
    *,
    width: int,
    height: int | None = None,
    scheme: str = "light",
    since: str = "",
    until: str = "",
) -> None:
    """A picture of a page in a window so wide: of a height, or down to the end of an element.

    Args:
        since, until: selectors of the element with which the picture begins, and with which it ends.
    """
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Emulation.setScrollbarsHidden", hidden=True)  # they are not in the picture, and would take room
    browser.open(page)
    top = 0 if not since else browser.evaluate(f"{_box(since)}.top + window.scrollY - {_MARGIN}")
    if until:
        height = browser.evaluate(f"{_box(until)}.bottom + window.scrollY") - top
    clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
    taken = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    save(base64.b64decode(taken["data"]), file)


def _box(selector: str) -> str:
    return f"document.querySelector({selector!r}).getBoundingClientRect()"


def save(picture: bytes, file: Path, *, colours: int | None = _COLOURS) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    (image if colours is None else image.quantize(colours)).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
