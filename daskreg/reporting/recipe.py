"""The Python that makes a result again: which call, of which inputs, with which options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from daskreg.sources.registry import recall
from daskreg.sources.source import Source
from daskreg.sources.storage.redact import redact

P = ParamSpec("P")
T = TypeVar("T")

_LEFT_OUT = ("progress", "client", "checkpoint", "wait", "save", "device")
"""Options that do not change the result."""


def remembers(*inputs: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator: the fit that the function returns has a `recipe`. inputs: names of the arguments that are data."""

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @wraps(function)
        def with_recipe(*args: P.args, **options: P.kwargs) -> T:
            result: Any = function(*args, **options)
            if not hasattr(result, "recipe"):  # a run that has not ended
                return cast(T, result)
            given = signature.bind(*args, **options).arguments
            text = recipe(function, given, {name: given[name] for name in inputs})
            return cast(T, replace(result, recipe=text))

        return with_recipe

    return decorated


def recipe(
    function: Callable[..., Any], given: Mapping[str, Any], inputs: Mapping[str, Any], result: str = "fit"
) -> str:
    """The lines of a script.

    Args:
        function: of `daskreg`.
        given: its arguments by name; those that are the default are left out.
        inputs: the first arguments, by name. What `daskreg.open` made is opened again; for arrays in memory there is
            a comment.
        result: name of the result.
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
    lines.append(f"{result} = dr.{name}({', '.join([*inputs, *options])})")
    return "\n".join(lines)


def _opened(variable: str, value: Any) -> str:
    path = source_path(value)
    shape = tuple(getattr(value, "shape", ()) or ())
    if path:
        return f"{variable} = dr.open({path!r})"
    size = f" of shape {shape}" if shape else ""
    return f"{variable} = ...  # an array in memory{size}"


def source_path(value: Any) -> str:
    """The file that a lazy volume reads; empty where it does not read one as a whole."""
    if isinstance(value, str | Path):
        return redact(str(value))
    source = recall(str(getattr(getattr(value, "data", value), "name", "")))
    return redact(source.path) if isinstance(source, Source) and not source.carries_data else ""


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    return isinstance(value, str | int | float | tuple) and type(value) is type(default) and bool(value == default)


def _written(value: Any) -> str:
    """A value as Python; what cannot be written in a line is left to the reader."""
    if isinstance(value, str | int | float | bool | tuple | list | type(None)):
        text = repr(value)
        return text if len(text) < 120 else "..."
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k!r}: ..." for k in list(value)[:6]) + "}"
    return "..."
