"""A page of the viewer neuroglancer that shows what is served: overlaid, as a checkerboard, or side by side.

The page and its program come from the package neuroglancer, which serves them on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from daskreg.errors import MissingExtraError, OptionError
from daskreg.geometry import Grid
from daskreg.geometry.units import length_ratio
from daskreg.viewing.zarr_form import ZarrForm

OVERLAY, CHECKERBOARD, SIDE_BY_SIDE = "overlay", "checkerboard", "side-by-side"
ARRANGEMENTS = (OVERLAY, CHECKERBOARD, SIDE_BY_SIDE)

BOARD = "checkerboard.ome.zarr"
"""The name of a checkerboard among the images."""

_COLOURS = ("#ff00ff", "#00ff00")
"""Of two images in an overlay: what agrees is grey."""

_LABEL_TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32")

_SHADER = """#uicontrol invlerp normalized
#uicontrol vec3 colour color(default="{colour}")
void main() {{ emitRGB(colour * normalized()); }}
"""


def viewer_state(images: Mapping[str, ZarrForm], urls: Mapping[str, str], arrangement: str = OVERLAY) -> dict[str, Any]:
    """The state of neuroglancer, in JSON's types: one layer for each image, and which panels show which of them.

    Labels (integers of order 0) are a segmentation, with a colour for each value.

    Raises: OptionError for an arrangement that there is not, or that needs more images.
    """
    if arrangement not in ARRANGEMENTS:
        raise OptionError(f"arrangement={arrangement!r}: use {', '.join(ARRANGEMENTS)}")
    single = [name for name in images if name != BOARD]
    if arrangement == CHECKERBOARD and BOARD not in images:
        raise OptionError("arrangement='checkerboard' needs two images on one grid, served with checkerboard=True")
    coloured = arrangement == OVERLAY and len(single) == 2 and not any(_is_labels(images[name]) for name in single)
    colours = dict(zip(single, _COLOURS, strict=True)) if coloured else {}
    shown = [BOARD] if arrangement == CHECKERBOARD else single
    layers = [_layer(name, images[name], urls[name], colours.get(name, "#ffffff"), name in shown) for name in images]
    grid = next(iter(images.values())).pyramid.grids[0]
    layout: Any = "xy" if grid.ndim == 2 else "4panel"
    if arrangement == SIDE_BY_SIDE:
        views = [{"type": "viewer", "layers": [_title(name)], "layout": "xy"} for name in single]
        layout = {"type": "row", "children": views}
    return {"dimensions": _dimensions(grid), "layers": layers, "layout": layout, "showSlices": False}


def _dimensions(grid: Grid) -> dict[str, list[Any]]:
    """The axes of space, x first: the panel "xy" shows the first two. Each with its step and the unit of that."""
    meters = length_ratio(grid.unit, "meter")
    steps = grid.spacing if meters is None else [s * meters for s in grid.spacing]
    return {
        name: [step, "" if meters is None else "m"] for name, step in reversed([*zip(grid.names, steps, strict=True)])
    }


def _is_labels(image: ZarrForm) -> bool:
    """Whether values are names of segments: integers of which no mean is taken, of a type that neuroglancer has."""
    return image.pyramid.method == "mode" and image.pyramid.layouts[0].dtype.name in _LABEL_TYPES


def _layer(name: str, image: ZarrForm, url: str, colour: str, visible: bool) -> dict[str, Any]:
    if _is_labels(image):  # with no segment selected, all are shown, each in a colour of its own
        return {"type": "segmentation", "source": f"zarr://{url}", "name": _title(name), "visible": visible}
    layer: dict[str, Any] = {
        "type": "image", "source": f"zarr://{url}", "name": _title(name), "visible": visible, "opacity": 1,
        "blend": "additive",
    }  # fmt: skip
    if not image.pyramid.lead:
        layer["shader"] = _SHADER.format(colour=colour)
        layer["shaderControls"] = {"normalized": {"range": list(image.window)}}
    return layer


def _title(name: str) -> str:
    return name.removesuffix(".ome.zarr")


class ViewerPage:
    """A page of neuroglancer on this machine, until this process ends.

    Attributes:
        url: of the page, for a browser.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        try:
            import neuroglancer
        except ImportError:
            raise MissingExtraError("neuroglancer", "viewer") from None
        self._viewer: Any = neuroglancer.Viewer()
        self._viewer.set_state(json.loads(json.dumps(state)))
        self.url = str(self._viewer.get_viewer_url())

    def __repr__(self) -> str:
        return f"ViewerPage: {self.url}"

    def _repr_html_(self) -> str:
        """What a notebook shows: a link to the page."""
        return f'<a href="{self.url}" target="_blank">{self.url}</a>'
