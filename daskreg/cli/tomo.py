"""daskreg tomo: projections: align them, find the centre of rotation, reconstruct."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from daskreg.cli.options import (
    NumberOrWord,
    Opening,
    client_options,
    fit_outputs,
    open_options,
    opened_mask,
    save_outputs,
    shown_progress,
    verbosity,
)
from daskreg.cli.warp import store, storing
from daskreg.errors import InputError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_AXIS = click.option(
    "--axis", type=click.Choice(["y", "x"]), default=None,
    help="The axis of rotation: y, down the columns of the detector, or x, along its rows; default y.",
)  # fmt: skip


_CHANNEL_AXIS = click.option("--channel-axis", type=int, help="Position of the channels; default: the first axis.")


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]
    """A number, or the word auto."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if value == "auto" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


def angle_options(command: Any) -> Any:
    """--angles, --unit, --flats, --darks."""
    for option in (
        click.option("--darks", help="Images without beam."),
        click.option("--flats", help="Images without specimen; the negative logarithm is then taken."),
        click.option("--unit-of-angles", "angle_unit", type=click.Choice(["degrees", "radians"]), default="degrees",
                     show_default=True),
        click.option("--angles", type=_FILE, help="A text file with one angle in a line, or a .npy file."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(short_help="Projections: align them, reconstruct.")
def command() -> None:
    """Projections: the pose of each, the axis of rotation, the volume.

    \b
    daskreg tomo align projections.zarr --angles angles.txt -o tilt.json
    daskreg tomo reconstruct projections.zarr volume.ome.zarr --fit tilt.json
    """


@command.command("align")
@click.argument("projections")
@angle_options
@fit_outputs
@_AXIS
@click.option("--centre", type=NumberOrAuto(), default="auto", show_default=True, help="Column of the axis.")
@click.option("--axis-angle", type=NumberOrAuto(), default="auto", show_default=True, help="Of the axis, degrees.")
@click.option(
    "--model",
    type=click.Choice(["translation", "rigid", "similarity"]),
    default="translation",
    show_default=True,
    help="Each projection is shifted; turned; magnified.",
)
@click.option("--level", type=NumberOrWord(), default="auto", show_default=True,
              help="auto, or a number: means of 2**level pixels on a side.")  # fmt: skip
@click.option("--mask", help="Projections, or one image, that are positive where pixels count.")
@click.option("--max-steps", type=click.IntRange(min=1), default=12, show_default=True, help="On each level.")
@click.option("--memory", help="That may be used, such as 4GiB; a level that needs more is refined by blocks of rows.")
@click.option("--checkpoint", type=Path, help="File of finished blocks, from which the same command goes on.")
@_CHANNEL_AXIS
@open_options
@client_options
@verbosity
def align(
    projections: str,
    *,
    angles: Path | None,
    angle_unit: str,
    flats: str | None,
    darks: str | None,
    axis: str | None,
    axis_angle: float | str,
    mask: str | None,
    opening: Opening,
    quiet: bool,
    page: Path | None,
    out: Path,
    plot: Path | None,
    keep_failed: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Estimate the pose of each of the PROJECTIONS, (angles, rows, columns), the axis of rotation and its centre."""
    import daskreg

    with shown_progress("aligning projections", quiet=quiet) as progress:
        fit = daskreg.tomography.align_projections(
            opening.open(projections),
            _angles(angles),
            unit=angle_unit,
            axis=axis or "y",
            axis_angle=axis_angle if isinstance(axis_angle, str) else math.radians(axis_angle),
            mask=opened_mask(mask),
            flats=_image(opening, flats),
            darks=_image(opening, darks),
            progress=progress,
            **options,
        )
    return save_outputs(fit, out=out, plot=plot, page=page, keep_failed=keep_failed, as_json=as_json)


@command.command("centre")
@click.argument("projections")
@angle_options
@open_options
@verbosity
def centre(
    projections: str,
    *,
    angles: Path | None,
    angle_unit: str,
    flats: str | None,
    darks: str | None,
    opening: Opening,
    quiet: bool,
) -> int:
    """Print the column of the axis of rotation of PROJECTIONS that do not move."""
    import daskreg

    found = daskreg.tomography.center_of_rotation(
        opening.open(projections),
        None if angles is None else _angles(angles),
        unit=angle_unit,
        flats=_image(opening, flats),
        darks=_image(opening, darks),
    )
    click.echo(f"{found:.3f}")
    return 0


@command.command("reconstruct")
@click.argument("projections")
@click.argument("out")
@angle_options
@click.option("--fit", "path", type=_FILE, help="What `daskreg tomo align` saved; it has the angles.")
@click.option("--method", type=click.Choice(["fbp", "sirt", "cgls"]), default="fbp", show_default=True)
@click.option("--engine", type=click.Choice(["daskreg", "astra"]), default="daskreg", show_default=True)
@click.option("--window", default="ramp", show_default=True, help="Of fbp: ramp, shepp-logan, cosine, hamming, hann.")
@click.option("--iterations", type=int, help="Of sirt and cgls.")
@click.option("--centre", type=float, help="Column of the axis, where there is no fit.")
@click.option("--minimum", type=float, help="Of sirt: the least value of a voxel, such as 0.")
@click.option("--size", type=int, help="Voxels along a side of a slice.")
@click.option("--rows", type=click.IntRange(min=1), help="Rows of the detector in a block.")
@click.option("--order", type=click.Choice(["1", "3"]), default="3", show_default=True,
              help="Interpolation of the projections: 1 linear, 3 cubic.")  # fmt: skip
@_CHANNEL_AXIS
@_AXIS
@storing
@open_options
@verbosity
@client_options
def reconstruct(
    projections: str,
    out: str,
    *,
    angles: Path | None,
    angle_unit: str,
    flats: str | None,
    darks: str | None,
    path: Path | None,
    method: str,
    engine: str,
    window: str,
    iterations: int | None,
    centre: float | None,
    minimum: float | None,
    size: int | None,
    rows: int | None,
    order: str,
    channel_axis: int | None,
    axis: str | None,
    opening: Opening,
    quiet: bool,
    **storage: Any,
) -> int:
    """Reconstruct the volume of PROJECTIONS into the new OUT, by blocks of rows; the same command again resumes."""
    import daskreg
    from daskreg.tomography.fit import TiltFit

    volume = daskreg.tomography.reconstruct(
        opening.open(projections),
        None if angles is None else _angles(angles),
        unit=angle_unit,
        fit=None if path is None else TiltFit.load(path),
        method=method,
        engine=engine,
        window=window,
        iterations=iterations,
        centre=centre,
        minimum=minimum,
        size=size,
        rows=rows,
        order=int(order),
        channel_axis=channel_axis,
        axis=axis,
        flats=_image(opening, flats),
        darks=_image(opening, darks),
    )
    return store(volume, out, resume=True, quiet=quiet, **storage)


def _angles(path: Path | None) -> Any:
    """The numbers of a file.

    Raises: InputError where there is none, or it has other things.
    """
    import numpy as np

    if path is None:
        raise click.UsageError("--angles FILE is needed: one angle in a line")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=1)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no list of angles: {error}") from error


def _image(opening: Opening, path: str | None) -> Any:
    import numpy as np

    return None if path is None else np.asarray(opening.open(path))
