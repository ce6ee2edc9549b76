"""`serve`: volumes, warps and plans as OME-Zarr by URL, computed when they are looked at."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from dask.utils import parse_bytes

from daskreg.blocks.levels import Sizes
from daskreg.blocks.plan import Plan
from daskreg.contents import details_of, lead_axes_of, task_of
from daskreg.errors import OptionError, check_flags
from daskreg.formats.ome import VERSIONS
from daskreg.viewing.checkerboard import Checkerboard
from daskreg.viewing.chunk_cache import ChunkCache
from daskreg.viewing.http_server import ImageServer
from daskreg.viewing.neuroglancer import BOARD, ViewerPage, viewer_state
from daskreg.viewing.pyramid import pyramid_of_plan, pyramid_of_task
from daskreg.viewing.zarr_form import ImageWords, ZarrForm
from daskreg.volumes import volume_of

NEUROGLANCER = "https://neuroglancer-demo.appspot.com"
"""The public page of neuroglancer, which may read what is served, as pages of this machine may."""


class Server:
    """Images that are served until `close`, the end of a `with` block, or the end of this process.

    Attributes:
        url: of the first image, for `daskreg.open`, zarr, napari, Fiji or neuroglancer. Whoever knows it can read.
        urls: of all images, by name.
    """

    def __init__(self, images: Mapping[str, ZarrForm], port: int, origins: tuple[str, ...]) -> None:
        try:
            self._http = ImageServer(images, port=port, origins=origins)
        except OSError as error:
            raise OptionError(
                f"port={port} cannot be used ({error.strerror or error}): port=0 takes a free one"
            ) from error
        self.urls = {name: f"{self._http.root}/{name}" for name in images}
        self.url = next(iter(self.urls.values()))
        self.images = dict(images)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="daskreg-serve", daemon=True
        )
        self._thread.start()

    def page(self, arrangement: str = "overlay") -> ViewerPage:
        """A page of the viewer neuroglancer that shows the images; its `url` is for a browser.

        Args:
            arrangement: of two images: "overlay", in two colours, so that what agrees is grey; "checkerboard"; or
                "side-by-side".

        Raises: MissingExtraError without neuroglancer (the extra "viewer"); OptionError.
        """
        return ViewerPage(viewer_state(self.images, self.urls, arrangement))

    @property
    def closed(self) -> bool:
        return self._http.closed

    def close(self) -> None:
        """End it; the URLs then lead nowhere."""
        if not self._http.closed:
            self._http.closed = True
            for cache in {id(image.pyramid.cache): image.pyramid.cache for image in self.images.values()}.values():
                cache.close()
            self._http.shutdown()
            self._http.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lines(self) -> list[tuple[str, str, str]]:
        """For each image its name, its size and its URL."""
        return [(name, _size(image), self.urls[name]) for name, image in self.images.items()]

    def __repr__(self) -> str:
        state = "Server (closed)" if self.closed else "Server: read-only, on this machine, computed when looked at"
        return "\n".join([state, *(f"  {name}: {size}\n    {url}" for name, size, url in self._lines())])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(size)}</td><td><code>{html.escape(url)}</code></td></tr>"
            for name, size, url in self._lines()
        )
        state = "closed" if self.closed else "read-only, on this machine, computed when looked at"
        return f"<table><caption>Server: {state}</caption>{rows}</table>"


def serve(
    volume: Any,
    *,
    port: int = 0,
    chunks: Sizes = "auto",
    levels: int | str = "auto",
    downsample: str = "auto",
    version: str = "0.5",
    cache: str | int = "512 MiB",
    exact: bool = False,
    checkerboard: bool = False,
    origins: str | Sequence[str] = (NEUROGLANCER,),
) -> Server:
    """Serve a volume as a read-only OME-Zarr over HTTP on this machine, whose chunks are computed when asked for.

    A warp is seen in this way before it is written: metadata and chunks are, byte for byte, those that `write` with
    `shards=None` and the same options would store, but of coarse levels of a huge image (see `exact`).

    Args:
        volume: what `open` takes, a lazy volume or warp, a `Plan` (whose chunks and levels are then taken), or a
            mapping of names to several of these.
        port: 0 takes a free one.
        chunks: as in `write`, but "auto" makes small ones, which are computed quickly: 512 x 512 of a slice, or
            64 x 64 x 64 of a volume.
        levels, downsample, version: as in `write`.
        cache: memory for voxels that were computed.
        exact: make every level as `write` does, whatever it takes. By default, levels of which a chunk takes more than
            67 million voxels are sampled from the coarse levels of the source, if it has a pyramid.
        checkerboard: of two images on one grid: serve a third one, of squares of one and the other in turn.
        origins: web pages that may read what is served, besides pages of this machine.

    Returns: a `Server`, which stays until it is closed; use it in a `with` block, or call `close()`.
    Raises: OptionError; ShapeMismatchError for a checkerboard of different grids; what `open` raises.
    """
    if version not in VERSIONS:
        raise OptionError(f"version={version!r}: OME-Zarr {', '.join(VERSIONS)} is served")
    check_flags(exact=exact, checkerboard=checkerboard)
    given = dict(volume) if _is_named(volume) else {_name_of(volume): volume}
    if not given:
        raise OptionError("there is no volume to serve")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise OptionError(f"port={port!r}: give a number up to 65535; 0 takes a free one")
    try:
        size = parse_bytes(cache)
    except (ValueError, TypeError) as error:
        raise OptionError(f"cache={cache!r} is not a number of bytes such as '512 MiB'") from error
    if size < 0:
        raise OptionError(f"cache={cache!r} is less than nothing: 0 holds no chunks")
    held = ChunkCache(size)
    options = {"chunks": chunks, "levels": levels, "downsample": downsample, "exact": exact}
    images: dict[str, ZarrForm] = {}
    for name, one in given.items():
        images[_file_name(str(name), images)] = _form(one, str(name), version, held, options)
    if checkerboard:
        if len(images) != 2:
            raise OptionError(f"checkerboard=True needs two images, not {len(images)}")
        images[BOARD] = ZarrForm(Checkerboard(*images.values()), ImageWords("checkerboard", version=version))
    return Server(images, port, (origins,) if isinstance(origins, str) else tuple(origins))


def _form(one: Any, name: str, version: str, cache: ChunkCache, options: Mapping[str, Any]) -> ZarrForm:
    """An image as the files of an OME-Zarr."""
    if isinstance(one, ZarrForm):
        return one
    if isinstance(one, Plan):
        return ZarrForm(pyramid_of_plan(one, cache, exact=options["exact"]), ImageWords(name, version=version))
    volume = volume_of(one)
    task = task_of(volume)
    pyramid = pyramid_of_task(task, cache=cache, **options)
    return ZarrForm(pyramid, ImageWords(name, lead_axes_of(volume.array, task), details_of(volume.array), version))


def _is_named(volume: Any) -> bool:
    import xarray as xr

    return isinstance(volume, Mapping) and not isinstance(volume, xr.Dataset)


def _name_of(volume: Any) -> str:
    """What to call a volume: its own name, that of its file, or "volume"."""
    path = volume.path if isinstance(volume, Plan) else volume if isinstance(volume, str) else None
    text = path or getattr(volume, "name", None) or "volume"
    return re.split(r"[/\\]", str(text).rstrip("/"))[-1].partition(".")[0] or "volume"


def _file_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that needs no escapes in a URL, and is not taken."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "volume"
    while f"{plain}.ome.zarr" in (*taken, BOARD):
        plain += "-2"
    return f"{plain}.ome.zarr"


def _size(image: ZarrForm) -> str:
    layout = image.pyramid.layouts[0]
    size = " x ".join(f"{d} {n}" for d, n in zip(layout.dims, layout.shape, strict=True))
    sampled = image.pyramid.sampled
    also = f", of which {', '.join(map(str, sampled))} from coarse levels of the source" if sampled else ""
    return f"{size}, {layout.dtype}, {len(image.pyramid.layouts)} levels{also}"
