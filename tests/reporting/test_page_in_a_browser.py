"""Pages in a real browser: nothing is refused or fails, the slider moves, hostile names are only text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from browser import Page, chromium, needs_chromium
from skimage import data

import daskreg as dr
from daskreg.reporting.page import report
from daskreg.reporting.section import Section, Verdict
from daskreg.volumes import to_dataarray

pytestmark = [pytest.mark.slow, needs_chromium]

HOSTILE = '"><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">\u202egnp.exe\'${7*7}'

WIDTH = "document.querySelector('.view svg').viewBox.baseVal.width"
SHOWN = f"document.querySelector('.shown').getAttribute('width') / {WIDTH}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def pair_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = data.coins()[::3, ::3].astype(np.float32)
    grid = dr.Grid(image.shape, spacing=(0.8, 0.4), unit="um")
    moving = scipy.ndimage.shift(image, (3, -5), order=1)
    fit = dr.register(to_dataarray(image, grid), to_dataarray(moving, grid), model="translation")
    command = "daskreg register a.tif b.tif --out fit.json"
    return fit.report(tmp_path_factory.mktemp("pair") / "fit.html", command=command)


def test_the_slider_uncovers_the_other_picture(page: Page, pair_page: Path) -> None:
    page.open(pair_page)
    assert page.evaluate(SHOWN) == pytest.approx(0.5)
    page.evaluate("{const s = document.querySelector('input'); s.value = 80; s.dispatchEvent(new Event('input'))}")
    assert page.evaluate(SHOWN) == pytest.approx(0.8)
    assert page.evaluate(f"document.querySelector('.cut').getAttribute('x1') / {WIDTH}") == pytest.approx(0.8)
    page.evaluate("document.querySelector('input').focus()")
    key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, **key)
    assert page.evaluate(SHOWN) == pytest.approx(0.81)
    box = page.evaluate("(b => [b.left, b.top, b.width])(document.querySelector('.view svg').getBoundingClientRect())")
    at = {"x": box[0] + box[2] / 4, "y": box[1] + 20, "button": "left", "buttons": 1, "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, **at)
    assert page.evaluate(SHOWN) == pytest.approx(0.25, abs=0.01)
    assert page.logged == []


def test_all_pictures_are_shown_with_the_aspect_of_the_voxels(page: Page, pair_page: Path) -> None:
    page.open(pair_page)
    count = page.evaluate("document.querySelectorAll('image').length")
    assert count == 6, "overlay, swipe and difference, each before and after"
    ratio = page.evaluate("(b => b.height / b.width)(document.querySelector('.view svg').getBoundingClientRect())")
    rows, columns = data.coins()[::3, ::3].shape
    assert ratio == pytest.approx(rows * 0.8 / (columns * 0.4), rel=0.01)
    assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label').length > 20)")
    assert page.evaluate("document.querySelector('.view text').textContent").endswith(" µm")
    assert page.logged == []


@pytest.mark.parametrize("width", [320, 1000])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_dark(page: Page, pair_page: Path, width: int, scheme: str) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.open(pair_page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light")
    assert page.logged == []
    page.call("Emulation.clearDeviceMetricsOverride")


def test_hostile_names_are_text(page: Page, tmp_path: Path) -> None:
    section = Section(HOSTILE, Verdict(False, HOSTILE, HOSTILE), numbers=((HOSTILE, HOSTILE),), missing=HOSTILE,
                      calls=(("Python", HOSTILE),))  # fmt: skip
    names = {"title": HOSTILE, "facts": {HOSTILE: HOSTILE}, "command": HOSTILE}
    made = report([{HOSTILE: HOSTILE}], tmp_path / "r.html", sections=[section], **names)
    page.open(made)
    assert page.evaluate("document.title") == " ".join(HOSTILE.split())
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.querySelector('.said').textContent") == HOSTILE
    assert page.logged == []


def test_the_policy_refuses_what_is_not_of_the_page(page: Page, pair_page: Path) -> None:
    """The judge is judged: a refusal is seen."""
    page.open(pair_page)
    page.evaluate("{const s = document.createElement('script'); s.text = 'owned = 1'; document.body.append(s)}")
    assert page.evaluate("window.owned") is None
    assert any("Content Security Policy" in line for line in page.logged)
    page.logged.clear()
