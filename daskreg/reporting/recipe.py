"""The Python that makes a result again: which call, of which inputs, with which options."""

from __future__ import annotations

import inspect
import keyword
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from daskreg.geometry import Affine, Transform
from daskreg.reporting.plain import plain
from daskreg.runtime.messages import redact_word
from daskreg.sources.coordinates import coordinates
from daskreg.sources.registry import Opening, recall, recall_opening
from daskreg.sources.source import Source

P = ParamSpec("P")
T = TypeVar("T")

_LEFT_OUT = ("progress", "client", "checkpoint", "wait", "save", "device")
"""Options that do not change the result."""
_MOST_CHARACTERS = 400
"""Of an option; a longer one is left to the reader."""


def remembers(*inputs: str, within: str = "dr") -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the fit that the function returns has a `recipe`.

    Args:
        inputs: names of the arguments that are data.
        within: where the function is found, of a script that imports daskreg as dr.
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @wraps(function)
        def with_recipe(*args: P.args, **options: P.kwargs) -> T:
            result: Any = function(*args, **options)
            if not hasattr(result, "recipe"):  # a run that has not ended
                return cast(T, result)
            given = signature.bind(*args, **options).arguments
            text = recipe(function, given, {name: given[name] for name in inputs}, within=within)
            return cast(T, replace(result, recipe=text))

        return with_recipe

    return decorated


def recipe(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    result: str = "fit",
    within: str = "dr",
) -> str:
    """The lines of a script.

    Args:
        function: of `daskreg`.
        given: its arguments by name; those that are the default are left out.
        inputs: the first arguments, by name. What `daskreg.open` made is opened again; for arrays in memory there is
            a comment.
        result: name of the result.
        within: where the function is found.
    """
    name = function.__name__
    lines = ["import daskreg as dr", ""]
    lines += [_opened(variable, value) for variable, value in inputs.items()]
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    options = [
        f"{key}={_written(value)}"
        for key, value in given.items()
        if key not in inputs and key not in _LEFT_OUT and not _same(value, defaults.get(key))
    ]
    lines.append(f"{result} = {within}.{name}({', '.join([*inputs, *options])})")
    return "\n".join(lines)


def _opened(variable: str, value: Any) -> str:
    """The line that opens a volume as it was opened; a comment where that is not known or not possible."""
    call, comment = _call_of(value)
    return f"{variable} = {call or '...'}" + (f"  # {comment}" if comment else "")


def _call_of(value: Any) -> tuple[str, str]:
    """The call that opens a volume as it was opened, empty where it is not known; and what is known to differ."""
    if isinstance(value, str | os.PathLike):
        return f"dr.open({_path(value)})", ""
    data = getattr(value, "data", value)
    source = recall(str(getattr(data, "name", "")))
    if isinstance(source, Source) and not source.carries_data:
        call, differs = _open_call(source, recall_opening(data.name))
        if data is value:
            call += ".data"
        elif not _lies_as_stored(value, source):
            differs = "and then given other coordinates or names of axes"
        return call, differs
    shape = tuple(getattr(value, "shape", ()) or ())
    return "", f"an array in memory{f' of shape {shape}' if shape else ''}"


def _open_call(source: Source, opening: Opening | None) -> tuple[str, str]:
    """`open` with the options that were passed; and what is known to differ."""
    if opening is None:
        return f"dr.open({redact_word(source.path)!r})", "perhaps opened with other options"
    options = [_path(opening.path), *(f"{key}={_option(value)}" for key, value in opening.options.items())]
    return f"dr.open({', '.join(options)})", ""


def _path(path: Any) -> str:
    """A path, or a list of them, as Python, absolute where it is on a disk."""
    if not isinstance(path, str | os.PathLike):
        return f"[{', '.join(_path(one) for one in path)}]"
    text = os.fspath(path)
    if "://" not in text:
        with suppress(OSError):  # the folder was removed since
            text = os.path.abspath(text)
    return repr(redact_word(text))


def _option(value: Any) -> str:
    """An option of `open` as Python."""
    if value is ...:
        return "..."
    if isinstance(value, np.dtype | type):
        return repr(np.dtype(value).str)
    return repr(plain(value))


def _lies_as_stored(array: Any, source: Source) -> bool:
    """Whether a DataArray still has the axes and coordinates with which it was opened."""
    expected = coordinates(source.grid)
    coords = getattr(array, "coords", {})
    return tuple(array.dims) == source.dims and all(
        dim in coords
        and np.array_equal(coords[dim].values, values)
        and {key: coords[dim].attrs.get(key) for key in attrs} == attrs
        for dim, (values, attrs) in expected.items()
    )


def _same(value: Any, default: Any) -> bool:
    """Whether an option says what is done without it."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is default or (default is None and isinstance(value, Mapping) and not value):
        return True
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, default))
    same_kind = numbers or (isinstance(value, str | bool | tuple) and type(value) is type(default))
    return same_kind and bool(value == default)


def _written(value: Any) -> str:
    """An option as Python; one that is no expression, or too long for a line, is left to the reader as a whole."""
    text = _expression(value)
    return text if text is not None and len(text) <= _MOST_CHARACTERS else "..."


def _expression(value: Any) -> str | None:
    """The Python of a value for a script that has imported daskreg as dr and nothing else; None where there is none."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Affine):
        unit = "" if value.unit is None else f", unit={value.unit!r}"
        return f"dr.Affine({value.matrix.tolist()}{unit})"
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, Enum | np.generic | Transform):  # an enum may be a text, and a long double stays one
        return None
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, str):
        return repr(redact_word(value))
    if isinstance(value, tuple | list):
        parts = [_expression(one) for one in value]
        if None in parts:
            return None
        inside = ", ".join(map(str, parts))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(parts) == 1 else ''})"
    if isinstance(value, Mapping):
        entries = [(_expression(key), _expression(one)) for key, one in value.items()]
        if any(None in entry for entry in entries):
            return None
        return "{" + ", ".join(f"{key}: {one}" for key, one in entries) + "}"
    if hasattr(value, "shape"):
        call, differs = _call_of(value)
        return call if call and not differs else None
    name = getattr(value, "__name__", "")  # of a function, such as a metric, which the script has to define
    return name if name.isidentifier() and not keyword.iskeyword(name) else None
