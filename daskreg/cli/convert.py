"""daskreg convert: any volume that can be opened, as OME-Zarr."""

from __future__ import annotations

from typing import Any

import click

from daskreg.cli.options import Opening, chunk_policy_options, client_options, open_options, verbosity
from daskreg.cli.warp import store, storing


@click.command(short_help="Any volume as OME-Zarr with a pyramid.")
@click.argument("source")
@click.argument("out")
@click.option("--level", type=int, default=0, show_default=True, help="Pyramid level of SOURCE.")
@storing
@open_options
@chunk_policy_options
@verbosity
@client_options
def command(
    source: str,
    out: str,
    *,
    level: int,
    opening: Opening,
    quiet: bool,
    **storage: Any,
) -> int:
    """Copy SOURCE into the new OME-Zarr OUT with a pyramid, block by block.

    \b
    daskreg convert "slices/*.tif" stack.ome.zarr --spacing 50,4,4 --unit nm
    daskreg convert scan.h5::/entry/data volume.ome.zarr --workers 4

    An OUT that is named so is a single file without a pyramid: .tif, .nii, .nrrd, .mha, .mrc or .h5.

    The same command again resumes an interrupted run. The exit code is 3 if chunks of SOURCE were missing or damaged
    and are shown as fill.
    """
    return store(opening.open(source, level=level), out, resume=True, quiet=quiet, **storage)
