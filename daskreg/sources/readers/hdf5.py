"""HDF5 and NeXus through h5py: `file.h5::/path/to/dataset`, or the file's default data.

Without a path inside, NeXus' way of naming default data is followed (`default`, `signal`),
and a file with one image holds that. Axes have their names and positions from dimension
scales (netCDF), from NeXus `axes`, or from the attribute `element_size_um`; only positions
that are lengths are used, so that projections over angles are slices.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import ChunkReadError, GridError, MissingExtraError, NotAVolumeError, UnitError
from daskreg.geometry import canonical_unit
from daskreg.sources.coordinates import LEAD, SPACE, default_dims, grid_from, split_dims
from daskreg.sources.description import Coord, Description, OpenOptions
from daskreg.sources.locate import INSIDE, StoreLocation
from daskreg.sources.reader import Reader, box_of, index_text
from daskreg.sources.readers import cf
from daskreg.sources.readers.file_array import FileArray
from daskreg.sources.readers.hdf5_links import member, members
from daskreg.sources.readers.hdf5_storage import Storage
from daskreg.sources.readers.mapped import check_memory
from daskreg.sources.source import ArrayIndex, Source
from daskreg.sources.stamps import stamp_of
from daskreg.sources.storage.counters import count_missing

_MOST_LISTED = 12
_LENGTHS = ("meter", "angstrom", "inch", "pixel")


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
        attrs = dataset.attrs
        slope, intercept = (float(np.ravel(attrs.get(n, d))[0]) for n, d in (("scale_factor", 1), ("add_offset", 0)))
        missing = [v for n in ("_FillValue", "missing_value") if n in attrs for v in np.ravel(attrs[n]).tolist()]
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
        with _open(path) as file:
            inner, dataset = _dataset(file, location.inner or _default(file, path), path)
            scaled = ScaledDataset.of(dataset)
            what = f"{path}{INSIDE}{inner}"
            names, coords = _axes(dataset, file, inner)
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

    def open_handle(self, path: str) -> ScaledDataset:
        """The dataset at a path; it holds its file open."""
        file, _, inner = path.partition(INSIDE)
        dataset = _member_again(_open(file), inner, file)
        if dataset.chunks:
            check_memory(math.prod(dataset.chunks) * dataset.dtype.itemsize, f"a chunk of {path}")
        return ScaledDataset.of(dataset)

    def files(self, path: str) -> tuple[str, ...]:
        file, _, inner = path.partition(INSIDE)
        with _open(file) as opened:
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


def _open(path: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "formats") from error
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")  # has further compressions
    cause: Exception | None = None
    # Reading must work while a detector holds a lock, and where this process has the file open with other flags.
    for locking in (None, False, True, "best-effort"):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            cause = cause or error
            if "lock" not in str(error):
                break
    raise NotAVolumeError(f"{path} cannot be read as HDF5: {cause}") from cause


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
        below = _signal(node)
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
        signal = _signal(node)
        if signal is not None and member(node, signal) is not None:
            return f"{path}/{signal}".strip("/")
        entries = [k for k, below in members(node) if _text(below.attrs.get("NX_class")) == "NXentry"]
        step = _text(node.attrs.get("default")) or (entries[0] if len(entries) == 1 else "")
        below = member(node, step) if step else None
        if not isinstance(below, h5py.Group):
            break
        node, path = below, f"{path}/{step}"
    images = list(_images(file))
    if len(images) == 1:
        return images[0]
    example = f"; name one, such as {root}{INSIDE}{images[0]}" if images else ""
    raise NotAVolumeError(f"{root} holds {_listed(file)}{example}")


def _signal(group: Any) -> str | None:
    name = _text(group.attrs.get("signal"))
    if name and name in group:
        return name
    marked = [k for k, below in members(group) if _text(below.attrs.get("signal")) == "1"]
    return marked[0] if len(marked) == 1 else None


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


def _axes(dataset: Any, file: Any, inner: str) -> tuple[list[str], dict[str, Coord]]:
    """Names of the stored axes, and the positions along some of them."""
    group = member(file, inner.rpartition("/")[0])
    stated: list[str] = []
    scales: list[Any] = [None] * dataset.ndim
    labels = [
        _text(v) for v in np.ravel(dataset.attrs.get("DIMENSION_LABELS", ()))
    ]  # H5DSget_label trusts their number
    labels = labels if len(labels) == dataset.ndim else [""] * dataset.ndim
    for k, dim in enumerate(dataset.dims):
        scales[k] = dim[0] if len(dim) else None
        stated.append(labels[k] or (scales[k].name.rsplit("/", 1)[-1] if scales[k] is not None else ""))
    nexus = _names(dataset.attrs.get("axes")) or (
        _names(group.attrs.get("axes")) if _signal(group) == inner.rsplit("/", 1)[-1] else []
    )
    if not any(stated) and len(nexus) == dataset.ndim:
        stated = nexus
        scales = [member(group, n) if n != "." else None for n in nexus]
    names = _known(stated, dataset.ndim)
    coords: dict[str, Coord] = {}
    for k, name in enumerate(names):
        coord = _positions(scales[k], dataset.shape[k], space=name in SPACE)
        if coord is not None:
            coords[name] = coord
    sizes = np.ravel(dataset.attrs.get("element_size_um", ()))
    space = [n for n in names if n in SPACE]
    if len(sizes) == len(space) and not coords:
        at = {n: dataset.shape[names.index(n)] for n in space}
        coords = {n: (float(s) * np.arange(at[n]), {"units": "micrometer"}) for n, s in zip(space, sizes, strict=True)}
    return names, coords


def _known(stated: list[str], ndim: int) -> list[str]:
    """The names of axes that are known here; the other axes are named z, y, x from the last one."""
    names = [n.lower() if n.lower() in (*SPACE, *LEAD) else "" for n in stated]
    if not any(names) or len({n for n in names if n}) < sum(map(bool, names)):
        return list(default_dims(ndim))
    free = [n for n in ("x", "y", "z", "t", "c") if n not in names]
    for k in reversed(range(ndim)):
        names[k] = names[k] or free.pop(0)
    return names


def _positions(scale: Any, count: int, *, space: bool) -> Coord | None:
    """Positions along an axis; None where they are no numbers, or in space irregular or no lengths."""
    if scale is None or getattr(scale, "shape", None) != (count,) or scale.dtype.kind not in "iuf" or count < 2:
        return None
    Storage.of(scale)  # checks the files that it is in
    attrs: Mapping[str, Any] = scale.attrs
    unit = _text(attrs.get("units")) or None
    try:
        canonical = canonical_unit(unit)
    except UnitError:
        canonical = ""
    if space and not canonical.endswith(_LENGTHS):
        return None
    coord = np.asarray(scale[()]), {} if unit is None else {"units": canonical or unit}
    if space:
        try:
            grid_from(["x"], [count], {"x": coord})
        except GridError:
            return None
    return coord


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bytes | str):
        return [n.strip() for n in _text(value).replace(",", ":").split(":")]
    return [_text(v) for v in np.ravel(value)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
