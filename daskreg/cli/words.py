"""Messages in the words of the command line, and suggestions for what was mistyped."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import click


def check_there(path: str) -> None:
    """Raise UsageError for a path on a disk that is not there, naming what is spelled alike.

    What has a scheme, a part inside a file ("::"), or a pattern is left to those who open it.
    """
    from daskreg.sources.storage.access import is_object_url

    local = path.partition("::")[0]
    if is_object_url(path) or "://" in path or any(sign in local for sign in "*?[") or os.path.lexists(local):
        return
    if any(os.path.isfile(parent) or (parent / "zarr.json").exists() for parent in Path(local).parents):
        return  # inside a container
    raise click.UsageError(f"{path} is not there{meant(suggested_paths(local))}")


def suggested_paths(path: str) -> list[str]:
    """Names in the same folder that are spelled alike."""
    given = Path(path)
    try:
        names = [entry.name for entry in os.scandir(given.parent)]
    except OSError:
        return []
    names = [name for name in names if not name.endswith(".daskreg")]  # records of outputs
    return [str(given.parent / name) if str(given.parent) != "." else name for name in similar(given.name, names)]


def similar(word: str, words: Iterable[str]) -> list[str]:
    """At most three of the words, the most similar one first, whatever their case."""
    by_folded = {w.casefold(): w for w in words}
    return [by_folded[w] for w in difflib.get_close_matches(word.casefold(), by_folded, n=3, cutoff=0.7)]


def meant(words: list[str]) -> str:
    """ "; did you mean a or b?", or nothing."""
    return f"; did you mean {' or '.join(words)}?" if words else ""


def as_options(message: str, command: click.Command | None) -> str:
    """A message of the package with `name=value` as `--name value`, for the options that the command has."""
    flags = {p.opts[-1] for p in (command.params if command else ()) if isinstance(p, click.Option) and p.is_flag}
    options = {p.name: p.opts[-1] for p in (command.params if command else ()) if isinstance(p, click.Option)}
    options |= {o.removeprefix("--").replace("-", "_"): o for o in options.values() if o.startswith("--")}
    if "angle_unit" in options:  # messages about projections name no other unit
        options["unit"] = options["angle_unit"]
    known = "|".join(re.escape(name) for name in options if name)
    if not known:
        return message

    def spelled(found: re.Match[str]) -> str:
        option, value = options[found["name"]], (found["value"] or "").strip("'\"")
        if value.startswith("("):
            value = value[1:-1].replace(" ", "").rstrip(",")
        elif value == "None":
            value = "none"
        if option in flags or not value:
            return option
        return f"{option} {value}" if " " not in value else f"{option} '{value}'"

    message = re.sub(r"daskreg\.open\(\w+, ([^()]*)\)", r"\1", message)
    message = re.sub(r", or choose one with \.isel\([^)]*\)", "", message)
    value = r"'[^']*'|\"[^\"]*\"|\([\w., -]+\)|[\w.-]+"
    return re.sub(rf"(?<![\w.-])(?P<name>{known})=(?P<value>{value})?", spelled, message)
