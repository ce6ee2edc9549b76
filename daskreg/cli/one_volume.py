"""An argument that names one volume: a path, or the files of a sequence as the shell lists them for a pattern."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import click

from daskreg.cli.words import check_there

Path = str | list[str]


def volume_argument(name: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """A decorator: the command is passed a path, or a list of files in natural order."""
    return click.argument(name, nargs=-1, required=True, callback=_one_volume)


def _one_volume(context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]) -> Path:
    from daskreg.sources.sequences import natural_key

    if len(paths) == 1:
        return paths[0]
    for path in paths:
        check_there(path)
        if not os.path.isfile(path):
            raise click.UsageError(f"{path} is no file: several paths are taken as the images of one sequence", context)
    return sorted(paths, key=natural_key)


def named(path: Path) -> str:
    """What to call a volume in a line."""
    return path if isinstance(path, str) else f"{path[0]} to {path[-1]} ({len(path)} files)"


def hint_for(message: str, words: Sequence[str]) -> str:
    """What to do where a command was passed more files than it takes, as by a pattern that the shell has expanded."""
    beside = [word for word in words if os.path.isfile(word)]
    suffixes = [os.path.splitext(word)[1] for word in beside]
    common = [s for s in set(suffixes) if s and suffixes.count(s) > 1]
    if not message.startswith("Got unexpected extra argument") or not common:
        return ""
    folder = os.path.dirname(beside[suffixes.index(common[0])])
    return f": put the pattern in quotes, '{os.path.join(folder, '*' + common[0])}', for the images of one sequence"
