"""HDF5 and NeXus through h5py: `file.h5::/path/to/dataset`, or the file's default data.

Without a path inside, NeXus' way of naming default data is followed (`default`, `signal`),
and a file with one image holds that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, NotAVolumeError
from daskreg.sources.coordinates import split_dims
from daskreg.sources.description import Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of, index_text
from daskreg.sources.readers import cf
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.hdf5.attributes import attribute, reading_attributes, text_attribute
from daskreg.sources.readers.hdf5.axes import axes_of, signal_of
from daskreg.sources.readers.hdf5.files import open_hdf5
from daskreg.sources.readers.hdf5.links import member, members
from daskreg.sources.readers.hdf5.storage import Storage
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.storage.counters import count_missing

_MOST_LISTED = 12


@dataclass(frozen=True)
class ScaledDataset:
    """A dataset whose stored numbers may be scaled, with some missing, by the CF conventions (as in netCDF).

    Args:
        slope, intercept: value = slope * number + intercept.
        missing: numbers that stand for no value; they are read as NaN.
    """

    dataset: Any
    slope: float = 1.0
    intercept: float = 0.0
    missing: tuple[float, ...] = ()
    storage: Storage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", Storage.of(self.dataset))

    @classmethod
    def of(cls, dataset: Any) -> ScaledDataset:
        scaling = (("scale_factor", 1), ("add_offset", 0))
        slope, intercept = (float(np.ravel(attribute(dataset, n, d))[0]) for n, d in scaling)
        missing = [v for n in ("_FillValue", "missing_value") for v in np.ravel(attribute(dataset, n, ())).tolist()]
        return cls(dataset, slope, intercept, tuple(v for v in missing if v == v))  # noqa: PLR0124 (NaN)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape)

    @property
    def unscaled(self) -> bool:
        return (self.slope, self.intercept, self.missing) == (1.0, 0.0, ())

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values: as stored, or a float type that holds them."""
        stored: np.dtype[Any] = self.dataset.dtype
        if self.unscaled or stored.kind not in "iuf":
            return stored
        return np.dtype(np.float32 if stored.itemsize <= 2 or stored == np.float32 else np.float64)

    def read(self, index: ArrayIndex) -> NDArray[Any]:
        numbers = np.asarray(self.dataset[index])
        if self.unscaled:
            return numbers
        values = (numbers * np.float64(self.slope) + self.intercept).astype(self.dtype)
        return np.where(np.isin(numbers, self.missing), self.dtype.type(np.nan), values)


class Hdf5Reader(Reader):
    """Reads boxes of datasets by h5py, scaled where the dataset says so."""

    def describe(self, location: StoreLocation, options: OpenOptions) -> Description:
        """A dataset of an HDF5 file; links to other files are followed.

        Raises: NotAVolumeError naming the datasets there are where none is named and none is the
            default; MissingExtraError without h5py.
        """
        path = location.root
        with reading_attributes(), open_hdf5(path) as file:
            inner, dataset = _dataset(file, location.inner or _default(file, path), path)
            scaled = ScaledDataset.of(dataset)
            what = f"{path}{INSIDE}{inner}"
            names, coords = axes_of(dataset, file, inner)
            lead, space = split_dims(names)
            shape = dict(zip(names, dataset.shape, strict=True))
            spatial = {d: coords[d] for d in space if d in coords}
            grid = cf.grid(space, [shape[d] for d in space], spatial, {}, options=options, what=what)
            stamp = stamp_of(scaled.storage.files(path))
            array = FileArray("hdf5", what, names, dataset.shape, scaled.dtype, stamp, dataset.chunks or ())
            name = inner.rsplit("/", 1)[-1]
            leading = {d: coords[d] for d in lead if d in coords}
            # The grid has the spacing and unit that were asked for already.
            return array.describe(grid, OpenOptions(level=options.level), name=name, coords=leading)

    def open(self, path: str) -> ScaledDataset:
        """The dataset at a path; it holds its file open."""
        file, _, inner = path.partition(INSIDE)
        dataset = _member_again(open_hdf5(file), inner, file)
        if dataset.chunks:
            check_memory(math.prod(dataset.chunks) * dataset.dtype.itemsize, f"a chunk of {path}")
        return ScaledDataset.of(dataset)

    def files(self, path: str) -> tuple[str, ...]:
        file, _, inner = path.partition(INSIDE)
        with open_hdf5(file) as opened:
            return Storage.of(_member_again(opened, inner, file)).files(file)

    def read(self, handle: ScaledDataset, index: ArrayIndex, source: Source) -> NDArray[Any]:
        try:
            numbers = handle.read(index)
            for name in handle.storage.absent(box_of(index)):
                count_missing(name)
            return numbers
        except MemoryError:
            raise
        except Exception as error:
            unknown = "not registered" in str(error) or "plugin" in str(error)
            advice = "; pip install hdf5plugin, which brings further compressions" if unknown else ""
            message = f"cannot read [{index_text(index)}] of {source.path}: {error}{advice}"
            raise ChunkReadError(message) from error


READER = Hdf5Reader()


def _member_again(file: Any, inner: str, path: str) -> Any:
    """The dataset that was there when the file was described.

    Raises: NotAVolumeError where it is gone.
    """
    dataset = member(file, inner)
    if not hasattr(dataset, "chunks"):
        raise NotAVolumeError(f"{path} holds no dataset at {inner!r} any more")
    return dataset


def _dataset(file: Any, inner: str, root: str) -> tuple[str, Any]:
    """A dataset and its path; of a NeXus group, the group's signal."""
    import h5py

    node = member(file, inner)
    if node is None:
        raise NotAVolumeError(f"{root} holds nothing at {inner!r}; it holds {_listed(file)}")
    if isinstance(node, h5py.Group):
        below = signal_of(node)
        if below is None:
            raise NotAVolumeError(f"{root}{INSIDE}{inner} is a group; it holds {_listed(node, inner)}: name one")
        return f"{inner}/{below}", member(node, below)
    return inner, node


def _default(file: Any, root: str) -> str:
    """The path of NeXus' default data, if it can be opened, or of the only image.

    Raises: NotAVolumeError where there is none, or several.
    """
    import h5py

    node, path = file, ""
    while True:
        signal = signal_of(node)
        if signal is not None and member(node, signal) is not None:
            return f"{path}/{signal}".strip("/")
        entries = [k for k, below in members(node) if text_attribute(below, "NX_class") == "NXentry"]
        step = text_attribute(node, "default") or (entries[0] if len(entries) == 1 else "")
        below = member(node, step) if step else None
        if not isinstance(below, h5py.Group):
            break
        node, path = below, f"{path}/{step}"
    images = list(_images(file))
    if len(images) == 1:
        return images[0]
    example = f"; name one, such as {root}{INSIDE}{images[0]}" if images else ""
    raise NotAVolumeError(f"{root} holds {_listed(file)}{example}")


def _images(group: Any, prefix: str = "", seen: set[Any] | None = None) -> Iterator[str]:
    """Paths of the datasets of two axes and more; of several links to one, the first."""
    import h5py

    seen = set() if seen is None else seen
    for name, node in members(group):
        path = f"{prefix}/{name}".strip("/")
        if (key := (node.file.filename, h5py.h5o.get_info(node.id).addr)) in seen:
            continue
        seen.add(key)
        if isinstance(node, h5py.Group):
            yield from _images(node, path, seen)
        elif isinstance(node, h5py.Dataset) and node.ndim >= 2 and node.dtype.kind in "buif":
            yield path


def _listed(group: Any, prefix: str = "") -> str:
    images = list(_images(group, prefix))
    more = f" and {len(images) - _MOST_LISTED} more" if len(images) > _MOST_LISTED else ""
    return f"the images {', '.join(images[:_MOST_LISTED])}{more}" if images else "no image"
