"""Where the links of an HDF5 file lead: to other files, which have to lie in its folder.

HDF5 follows external links without a question, to any file that the user can read. They are checked before the
library goes there, and what it found is checked once more, since it searches in several folders.
"""

from __future__ import annotations

import glob
import os
from typing import Any

from daskreg.errors import NotAVolumeError
from daskreg.runtime.regular_files import check_beside
from daskreg.sources.readers.hdf5.attributes import CheckedFiles, reading_attributes

_DEEPEST = 16
_MOST_FOUND = 10_000


def member(group: Any, path: str, depth: int = 0, passed: set[str] | None = None) -> Any:
    """The object at a path below a group; None where nothing is there, or a link leads nowhere.

    Args:
        passed: gets the other files to which links on the way lead, also those that are missing.

    Raises: OutsideError; NotAVolumeError for links that do not end; OSError for a damaged file.
    """
    if depth > _DEEPEST:
        raise NotAVolumeError(f"{group.file.filename}: links lead to links, {depth} times; name the dataset itself")
    with reading_attributes() as checked:
        return _walk(
            group.file if path.startswith("/") else group, path, depth, checked, set() if passed is None else passed
        )


def _walk(node: Any, path: str, depth: int, checked: CheckedFiles, passed: set[str]) -> Any:
    """The object at a path below a node. Names are looked up in a checked file first, since a damaged heap of names
    would hang this one."""
    import h5py

    for name in (part for part in path.split("/") if part not in ("", ".")):
        if not isinstance(node, h5py.Group):
            return None
        link = checked.same(node).get(name, getlink=True)
        owner = node.file.filename
        if isinstance(link, h5py.ExternalLink):
            found = candidates(link.filename, owner)
            for candidate in found:
                check_beside(candidate, owner)
            passed.update(found or [os.path.join(os.path.dirname(owner), os.fsdecode(link.filename))])
            below = node.get(name)
        elif isinstance(link, h5py.SoftLink):
            below = member(node, link.path, depth + 1, passed)
        else:
            below = node.get(name)
        if below is None:
            return None
        if below.file.filename != owner:
            check_beside(below.file.filename, owner)
        node = below
    return node


def members(group: Any) -> list[tuple[str, Any]]:
    """Names and objects of a group, without links that lead nowhere."""
    with reading_attributes() as checked:
        names = list(checked.same(group))  # a link to another file may close this handle
        found = [(name, member(group, name)) for name in names]
    return [(name, node) for name, node in found if node is not None]


def candidates(name: Any, owner: str) -> list[str]:
    """Where HDF5 looks for a file that another one names, where there is one, in this order: in the folder of that
    other, as it is said, by its last part.

    In the names of virtual sources, `%b` stands for a number.
    """
    text = os.fsdecode(name)
    folder = os.path.dirname(os.path.abspath(owner))
    paths = [os.path.join(folder, text), os.path.abspath(text), os.path.join(folder, os.path.basename(text))]
    if "%" in text:
        patterns = dict.fromkeys(glob.escape(p).replace("%b", "*").replace("%%", "%") for p in paths)
        return [match for p in patterns for match in sorted(glob.glob(p))][:_MOST_FOUND]
    return [p for p in dict.fromkeys(paths) if os.path.lexists(p)]
