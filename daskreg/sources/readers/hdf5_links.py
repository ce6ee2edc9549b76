"""Where an HDF5 file leads to: links and voxels in other files, which have to lie in its folder.

HDF5 follows external links, raw external storage and the sources of virtual datasets without a question, to any file
that the user can read. They are checked before the library goes there, and what it found is checked once more, since
it searches in several folders.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Any

from daskreg.errors import NotAVolumeError
from daskreg.runtime.regular_files import check_beside, outside_allowed

_DEEPEST = 16
_MOST_SOURCES = 10_000


def member(group: Any, path: str, depth: int = 0) -> Any:
    """The object at a path below a group; None where nothing is there, or a link leads nowhere.

    Raises: OutsideError; NotAVolumeError for links that do not end.
    """
    import h5py

    if depth > _DEEPEST:
        raise NotAVolumeError(f"{group.file.filename}: links lead to links, {depth} times; name the dataset itself")
    node = group.file if path.startswith("/") else group
    for name in (part for part in path.split("/") if part not in ("", ".")):
        if not isinstance(node, h5py.Group):
            return None
        link = node.get(name, getlink=True)
        owner = node.file.filename
        if isinstance(link, h5py.ExternalLink):
            for candidate in _candidates(link.filename, owner):
                check_beside(candidate, owner)
            below = node.get(name)
        elif isinstance(link, h5py.SoftLink):
            below = member(node, link.path, depth + 1)
        else:
            below = node.get(name)
        if below is None:
            return None
        if below.file.filename != owner:
            check_beside(below.file.filename, owner)
        node = below
    return node


def members(group: Any) -> Iterator[tuple[str, Any]]:
    """Names and objects of a group, without links that lead nowhere."""
    for name in group:
        node = member(group, name)
        if node is not None:
            yield name, node


def check_storage(dataset: Any, depth: int = 0) -> None:
    """Refuse a dataset whose voxels lie in files outside the folder of its own, directly or through others.

    Raises: OutsideError; InputError for a FIFO or a device; NotAVolumeError for sources that do not end.
    """
    import h5py

    owner = dataset.file.filename
    names = [name for name, _, _ in dataset.external or ()]
    sources = [(s.file_name, s.dset_name) for s in dataset.virtual_sources()] if dataset.is_virtual else []
    if len(sources) > _MOST_SOURCES or depth > _DEEPEST:
        raise NotAVolumeError(f"{owner}: {dataset.name} is spread over {len(sources)} sources, {depth} levels deep")
    for name in (*names, *(name for name, _ in sources if name != ".")):
        for candidate in _candidates(name, owner):
            check_beside(candidate, owner)
    if outside_allowed():
        return
    for name, inner in sorted(set(sources)):
        for candidate in [owner] if name == "." else _candidates(name, owner):
            if not os.path.isfile(candidate) or (os.path.samefile(candidate, owner) and inner == dataset.name):
                continue
            with h5py.File(candidate, "r") as file:
                below = member(file, inner)
                if isinstance(below, h5py.Dataset):
                    check_storage(below, depth + 1)


def _candidates(name: Any, owner: str) -> list[str]:
    """Where HDF5 looks for a file that another one names: as it is said, in the folder of that other, by its last part.

    In the names of virtual sources, `%b` stands for a number.
    """
    text = os.fsdecode(name)
    folder = os.path.dirname(os.path.abspath(owner))
    paths = {os.path.abspath(text), os.path.join(folder, text), os.path.join(folder, os.path.basename(text))}
    if "%" in text:
        pattern = {glob.escape(p).replace("%b", "*").replace("%%", "%") for p in paths}
        found = {match for p in pattern for match in glob.glob(p)}
        return sorted(found)[:_MOST_SOURCES]
    return sorted(p for p in paths if os.path.lexists(p))
