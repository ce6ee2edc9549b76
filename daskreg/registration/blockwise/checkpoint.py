"""Results of finished blocks in a file, so that an interrupted estimate can be continued.

One line of JSON for each block of a pass, appended when it is done; an incomplete last line is ignored. The first line
identifies the images and the options. A pass is named by what is asked of its blocks, so that a resumed estimate takes
only results of the very same question, and comes to the very same answer.
"""

from __future__ import annotations

import base64
import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskreg.errors import OptionError
from daskreg.runtime.line_file import LineFile
from daskreg.runtime.paths import shown

SCHEMA, VERSION = "daskreg/register", 1

Arrays = Mapping[str, NDArray[Any]]


class Checkpoint:
    """A file of results.

    Args:
        key: of the images and the options.

    Raises: OptionError for a path that is no file; LayoutMismatchError where the file is of other images or other
        options; InputError where it is no checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        self._file = LineFile(
            path,
            schema=SCHEMA,
            version=VERSION,
            key=key,
            foreign="a checkpoint of daskreg's register",
            other="is of other images, or of another estimate of them, or their voxels were written again since",
        )
        if self._file.path.is_dir() or not self._file.path.parent.is_dir():
            raise OptionError(f"checkpoint {shown(path)} has to be a file in a folder that exists")
        self._places = {
            (str(entry.get("pass")), entry["block"]): at
            for at, entry in self._file.entries()
            if isinstance(entry.get("block"), int)
        }

    def load(self, name: str, block: int) -> Arrays | None:
        """The result of a block in the pass of this name; None where there is none that can be read."""
        at = self._places.get((name, block))
        if at is None:
            return None
        try:
            data = base64.b64decode(self._file.entry_at(at)["data"], validate=True)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return dict(arrays)
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None

    def append(self, name: str, block: int, arrays: Arrays) -> None:
        """Add the result of a block. The line is on the disk when this returns."""
        buffer = io.BytesIO()
        named: Any = dict(arrays)
        np.savez(buffer, **named)
        self._file.append({"pass": name, "block": block, "data": base64.b64encode(buffer.getvalue()).decode("ascii")})
