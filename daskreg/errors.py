"""Every exception and warning that daskreg raises, in one tree.

    DaskregError
    ├── InputError (ValueError)            the input cannot be used
    │   ├── NotAVolumeError                a path that holds no readable array
    │   ├── OutsideError                   a file that refers to one outside its folder
    │   ├── UnsupportedDTypeError          complex, object, string
    │   ├── EmptyArrayError                an axis of length zero
    │   ├── ShapeMismatchError             numbers of dimensions or slices differ
    │   ├── GridError                      irregular, oblique or unusable coordinates
    │   │   ├── InvalidSpacingError        zero, negative or NaN
    │   │   └── UnitError                  mixed or unknown units
    │   ├── ChannelError                   a channel or time must be named
    │   ├── InvalidTransformError          singular, NaN or wrong-shaped matrix
    │   ├── DegenerateImageError           a constant image, a cloud without extent
    │   ├── EmptyMaskError                 a mask that leaves no voxel
    │   ├── NoOverlapError                 two volumes that do not overlap in the world
    │   ├── EmptyOutputError               an output with nothing but fill
    │   └── OptionError                    the value of a keyword is not a known one
    ├── OutputError                        the output cannot be written
    │   ├── OutputExistsError              the output exists already
    │   ├── OutputBusyError                another run is writing to it
    │   ├── UnsafeOutputError              it is, contains, or lies in the input
    │   └── LayoutMismatchError            an unfinished output of another layout
    ├── RunError                           while blocks run
    │   ├── MemoryBudgetError              the work does not fit; nothing was run
    │   ├── ChunkReadError                 a chunk that cannot be read or decoded
    │   ├── SourceLostError                the source is not there any more
    │   ├── SourceChangedError             the source was changed while it was read
    │   ├── StorageFullError               no space left
    │   ├── StoreError                     an object store refuses, or does not answer
    │   │   ├── StoreForbiddenError        no credentials, or they do not allow it
    │   │   └── NoBucketError              the bucket, or container, does not exist
    │   ├── NoWorkersError                 no worker can run the work
    │   ├── UnfitWorkerError               a worker lacks the package, or does not see the files
    │   ├── SchedulerLostError             the scheduler does not answer
    │   ├── RunCancelledError              somebody cancelled the run; finished blocks are kept
    │   ├── RunInterruptedError            the process that ran it ended before it was done
    │   └── BlocksFailedError              some blocks failed; the finished ones are kept
    ├── FitFailedError                     fit.raise_if_failed()
    └── MissingExtraError (ImportError)    an optional library is not installed

A message names the array, the axis or the value, and says what to do.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

MOST = 1000
"""Characters of a message; the middle of a longer one is left out."""

# Each level halves the images; a Gaussian of so many voxels leaves nothing of an image.
_MOST_LEVELS, _MOST_SMOOTHING = 32, 1000


def one_line(text: object, most: int = MOST) -> str:
    """A text as one line of printable characters, of at most `most`; of an error, its type where it says nothing."""
    line = " ".join(str(text).split()) or type(text).__name__
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= most else f"{line[: most // 2 - 3]} ... {line[3 - most // 2 :]}"


class DaskregError(Exception):
    """Base class of all errors that daskreg raises intentionally."""

    def __str__(self) -> str:
        """One line of printable characters, whatever a file put into it."""
        return one_line(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by calling the class, so that an error of a worker reaches the client with its type and message."""
        return type(self), self.args


class InputError(DaskregError, ValueError):
    """The input cannot be used."""


class NotAVolumeError(InputError):
    """A path that holds no array that can be opened."""


class OutsideError(InputError):
    """A file refers to one outside its folder, which is read only with `allow_outside=True`."""


class UnsupportedDTypeError(InputError):
    """Complex, object and string arrays are not images."""


class EmptyArrayError(InputError):
    """An axis has length zero."""


class ShapeMismatchError(InputError):
    """Numbers of dimensions, or of slices, do not agree."""


class GridError(InputError):
    """Coordinates that do not form a regular grid, or a grid that does not allow the operation."""


class InvalidSpacingError(GridError):
    """A spacing of zero, below zero, or not finite."""


class UnitError(GridError):
    """Units are mixed or unknown."""


class ChannelError(InputError):
    """There are several channels or times and none was named."""


class InvalidTransformError(InputError):
    """A matrix is singular, not finite, or of the wrong shape."""


class DegenerateImageError(InputError):
    """An image or cloud without the structure that an estimate needs."""


class EmptyMaskError(InputError):
    """A mask that leaves no voxel."""


class NoOverlapError(InputError):
    """Two volumes do not overlap in the world."""


class EmptyOutputError(InputError):
    """The output would hold the fill value only."""


class OptionError(InputError):
    """The value of an option is not a known one."""


class OutputError(DaskregError):
    """The output cannot be written."""


class OutputExistsError(OutputError, FileExistsError):
    """The output exists already."""


class OutputBusyError(OutputError):
    """Another run is writing there, or has replaced this run."""


class UnsafeOutputError(OutputError):
    """Writing there could destroy the input."""


class LayoutMismatchError(OutputError):
    """An unfinished output has another shape, type, chunking or codec."""


class RunError(DaskregError):
    """An error while blocks ran."""


class MemoryBudgetError(RunError, MemoryError):
    """The work does not fit the memory limit; nothing was run."""


class ChunkReadError(RunError, OSError):
    """A chunk could not be read or decoded."""


class SourceLostError(RunError, OSError):
    """The source is not there any more: its disk was unmounted, or it was renamed or removed."""


class SourceChangedError(RunError, OSError):
    """The source was changed while it was read: its metadata, or the files that hold its voxels."""


class StorageFullError(RunError, OSError):
    """No space is left; finished blocks are kept."""


class StoreError(RunError, OSError):
    """An object store refuses a request, or does not answer after several tries; finished blocks are kept."""


class StoreForbiddenError(StoreError):
    """An object store was asked without credentials, or they do not allow the request."""


class NoBucketError(StoreError):
    """The bucket (or container) of a URL does not exist."""


class NoWorkersError(RunError):
    """No worker can ever run the work."""


class UnfitWorkerError(RunError):
    """A worker lacks the package, has another version, or does not see the files."""


class SchedulerLostError(RunError):
    """The scheduler ended or does not answer; finished blocks are kept and the same command resumes."""


class RunCancelledError(RunError):
    """The run was cancelled; finished blocks are kept and the same command resumes."""


class RunInterruptedError(RunError):
    """The process that ran it ended before it was done; finished blocks are kept and the same command resumes."""


class BlocksFailedError(RunError):
    """Some blocks failed; the finished ones are kept and the same command resumes."""

    def __str__(self) -> str:
        """A line for each block."""
        return "\n".join(map(one_line, str(self.args[0]).splitlines()))


class FitFailedError(DaskregError):
    """An estimate failed, and the caller asked for an error (`fit.raise_if_failed()`)."""


class MissingExtraError(DaskregError, ImportError):
    """An optional library is not installed; the message says which extra installs it."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'daskreg[{extra}]'")
        self.library, self.extra = library, extra

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.library, self.extra)


def is_flag(value: object) -> bool:
    """Whether a value is true or false, of Python or of NumPy."""
    return isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}


def check_flags(**flags: object) -> None:
    """Raise OptionError for an option that is neither True nor False: the text "no" would be taken for true."""
    for name, value in flags.items():
        if not is_flag(value):
            raise OptionError(f"{name}={value!r}: use True or False")


def check_whole(name: str, value: object, least: int = 0, most: float = math.inf, *, instead: str = "") -> None:
    """Raise OptionError for an option that is no whole number between two.

    Args:
        instead: what else may be passed, as it is typed; it is not checked.
    """
    if not isinstance(value, Integral) or is_flag(value) or not least <= int(value) <= most:
        raise OptionError(f"{name}={value!r}: use {instead and instead + ' or '}a whole number {_between(least, most)}")


def check_number(name: str, value: object, least: float = 0, most: float = math.inf, *, of: str = "") -> None:
    """Raise OptionError for an option that is no finite number between two.

    Args:
        of: its unit, in words.
    """
    known = isinstance(value, Real) and not is_flag(value) and math.isfinite(float(value))
    if not known or not least <= float(value) <= most:  # type: ignore[arg-type]
        raise OptionError(f"{name}={value!r}: use a number {of and f'of {of} '}{_between(least, most)}")


def _between(least: float, most: float) -> str:
    return f"from {least} to {most}" if math.isfinite(most) else f"that is {least} or more"


def check_solver(
    *, max_iterations: object, tolerance: object = 0, levels: object = "auto", smoothing: object = 0
) -> None:
    """Raise OptionError for what no estimate takes: the options that say how a pair is solved, of whatever function."""
    check_whole("max_iterations", max_iterations)
    check_number("tolerance", tolerance, of="voxels")
    if not (isinstance(levels, str) and levels == "auto"):
        check_whole("levels", levels, 1, _MOST_LEVELS, instead='"auto"')
    check_number("smoothing", smoothing, most=_MOST_SMOOTHING, of="voxels")


class DaskregWarning(UserWarning):
    """Base class of the warnings that daskreg gives."""


class PixelUnitWarning(DaskregWarning):
    """An unknown unit was treated as pixels, or pixels were combined with a physical unit."""


class MetadataWarning(DaskregWarning):
    """Metadata is incomplete and was used as it is."""


class RepeatedReadWarning(DaskregWarning):
    """The way in which the input is stored makes the work read it several times."""


class FoldWarning(DaskregWarning):
    """The inverse of a displacement field is used where the field folds, and so has none."""
