"""daskreg view: volumes in a browser, before they are written."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import TRANSFORM, Numbers, Opening, chunk_policy_options, device, open_options, verbosity


@click.command(short_help="Look at volumes and warps in a browser.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@click.option("--pull", type=TRANSFORM, multiple=True, help="Show B (without B: A) warped by this fit or transform.")
@click.option("--push", type=TRANSFORM, multiple=True, help="Show B (without B: A) with its content moved by this.")
@click.option("--arrangement", type=click.Choice(["overlay", "checkerboard", "side-by-side"]), default="overlay",
              show_default=True, help="How the page shows two volumes.")  # fmt: skip
@click.option("--order", type=click.Choice(["0", "1", "3"]), default="1", show_default=True, help="As of `warp`.")
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level of the volumes.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: any that is free.")
@click.option("--chunks", type=Numbers(int, ("auto",)), default="auto", help="Voxels that are computed at once.")
@click.option("--cache", default="512 MiB", show_default=True, help="Memory for voxels that were computed.")
@open_options
@chunk_policy_options
@device
@verbosity
def command(
    first: str,
    second: str | None,
    *,
    pull: tuple[Path, ...],
    push: tuple[Path, ...],
    arrangement: str,
    order: str,
    level: int,
    opening: Opening,
    device: str,
    quiet: bool,
    **served: Any,
) -> None:
    """Serve volumes on this machine as OME-Zarr whose chunks are computed when they are looked at, until Ctrl-C.

    \b
    daskreg view stack.ome.zarr --pull drift.json
    daskreg view fixed.tif moving.tif --pull fit.json --arrangement checkerboard

    Nothing is written. The URLs can be opened by napari, Fiji, neuroglancer and `daskreg.open`; with the extra
    "viewer", an address for the browser is printed as well. B is shown on the grid of A. On another machine than yours,
    forward the port: ssh -L PORT:127.0.0.1:PORT HOST, with --port PORT.
    """
    import daskreg
    from daskreg.errors import MissingExtraError

    if pull and push:
        raise click.UsageError("give --pull or --push, not both")
    transforms: Any = [daskreg.load(path) for path in pull or push]
    how: dict[str, Any] = {"push" if push else "pull": transforms[0] if len(transforms) == 1 else transforms}
    one = opening.open(first, level=level)
    name = _stem(first)
    images = {name: one}
    if second is not None:
        other = opening.open(second, level=level)
        how = how if transforms else {"pull": daskreg.Affine.identity(daskreg.grid(other).ndim)}
        images[_stem(second) if _stem(second) != name else f"{name} B"] = daskreg.warp(
            other, **how, like=one, order=int(order), device=device
        )
    elif transforms:
        images[f"{name} warped"] = daskreg.warp(one, **how, order=int(order), device=device)
    last = next(reversed(images.values()))
    board = arrangement == "checkerboard" or (second is not None and (one.dims, one.shape) == (last.dims, last.shape))
    with daskreg.serve(images, checkerboard=board, **served) as server:
        for name, url in server.urls.items():
            click.echo(f"{name:30} {url}")
        try:
            click.echo(f"{'in a browser':30} {server.page(arrangement).url}")
        except MissingExtraError as error:
            click.echo(f"{error}; the URLs above can be opened by napari, Fiji or neuroglancer", err=True)
        click.echo("Ctrl-C ends it", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("ended", err=True)


def _stem(path: str) -> str:
    return Path(path.rstrip("/")).name.partition(".")[0]
