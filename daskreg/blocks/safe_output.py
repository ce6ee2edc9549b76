"""A path or URL for an output that cannot harm the input."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from daskreg.blocks.record.ledger import Ledger
from daskreg.errors import OptionError, OutputError, UnsafeOutputError
from daskreg.runtime.paths import shown, unusable
from daskreg.sources.file_formats import file_suffix
from daskreg.sources.storage.access import READ_ONLY, is_object_url, split_url


def safe_output(path: str | os.PathLike[str], inputs: Iterable[Path | str], *, file: bool = False) -> str:
    """The output as an absolute path, or a URL, that cannot harm the input.

    Args:
        inputs: what is read, see `input_files.locations`.
        file: whether the output is a single file rather than a folder.

    Raises: UnsafeOutputError where output and input contain one another; OptionError for a URL that is not written, or
    holds credentials; OutputError for a path below a file.
    """
    text = os.fspath(path).removeprefix("file://")
    if "://" in text:
        return _safe_url(text, [item for item in inputs if isinstance(item, str)])
    _check_name(text, file=file)
    output = Path(os.path.realpath(os.path.expanduser(text)))
    if not output.name:
        raise UnsafeOutputError(f"the output {output} cannot be an image: name a new folder")
    below = next((p for p in output.parents if p.exists() and not p.is_dir()), None)
    if below is not None:
        raise OutputError(f"the output {output} cannot be made: {below} is a file, not a folder")
    made = [output, output.with_name(f"{output.name}.partial")] if file else [output, Ledger(output).folder]
    for origin in (item for item in inputs if isinstance(item, Path)):
        if any(path == origin or path in origin.parents or origin in path.parents for path in made):
            raise UnsafeOutputError(f"the output {output} is, contains or lies in the input {origin}: choose another")
    return str(output)


def _safe_url(url: str, inputs: Sequence[str]) -> str:
    scheme = url.split("://", maxsplit=1)[0]
    if not is_object_url(url) or scheme in READ_ONLY:
        raise OptionError(
            f"{scheme}:// outputs are not written: give s3://, gs:// or az://, or a path on a shared disk"
        )
    root, key = split_url(url)
    if "::" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise OptionError(
            f"the output {url} cannot be made: name a new key below the bucket, without '..', '//' or '::'"
        )
    _check_suffix(url)
    output = f"{root}/{key}"
    for origin in inputs:
        for mine in (output, f"{output}.daskreg"):
            if f"{mine}/".startswith(f"{origin}/") or f"{origin}/".startswith(f"{mine}/"):
                raise UnsafeOutputError(f"the output {url} is, contains or lies in the input {origin}: choose another")
    return output


def _check_name(text: str, *, file: bool) -> None:
    """Refuse a name that the output cannot have, with the ledger beside it.

    Raises: OptionError.
    """
    reason = unusable(text, room=len(".partial.slabs" if file else ".daskreg"))
    if reason is None and "::" in text:
        reason = "'::' divides a store from a path inside it"
    if reason is not None:
        raise OptionError(f"the output {shown(text)} cannot be made: {reason}")
    if not file:
        _check_suffix(text)


def _check_suffix(text: str) -> None:
    """Refuse a name that says that a file of another format is wanted.

    Raises: OptionError.
    """
    if suffix := file_suffix(Path(text).suffixes):
        folder = Path(text).name[: -len(suffix)].removesuffix(".zarr").removesuffix(".ome") + ".ome.zarr"
        raise OptionError(
            f"the output {shown(text)} cannot be made: {suffix} is the suffix of a file, and this is for "
            f"OME-Zarr, a folder: name it {folder}"
        )
