"""How numba compiles functions here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from daskreg.runtime.callees import Lowered, Optimised
from daskreg.runtime.compile_once import share_compilation


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit` without the GIL, with compiled code cached on disk where a folder can be written."""
    if function is None:
        return lambda f: jit(f, **options)
    options = {"nogil": True, "no_cfunc_wrapper": True, **options}  # nothing calls kernels from C
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # a read-only installation and no home directory
        kernel = numba.njit(**options)(function)
    return share_compilation(kernel)


def inner(function: Callable[..., Any] | None = None, *, allocates: bool = False, **options: Any) -> Any:
    """`numba.njit` of a function that only compiled functions call: it has no machine code of its own.

    It is stored on disk as a part of the functions that call it.

    Args:
        allocates: the function, or one that it calls, makes arrays. Others count no references to the arrays that they
            are given, which their callers hold: that is less to compile.
    """
    return _inner(function, {"pipeline_class": Optimised, "_nrt": allocates, **options})


def fragment(function: Callable[..., Any] | None = None, *, allocates: bool = False, **options: Any) -> Any:
    """`inner` of a function that is not optimised by itself, but only within its callers: faster to compile.

    For the rest, see `runtime.callees`; whether the callers become faster or slower has to be measured.
    """
    return _inner(function, {"pipeline_class": Lowered, "_nrt": allocates, **options})


def _inner(function: Callable[..., Any] | None, options: dict[str, Any]) -> Any:
    if function is None:
        return lambda f: _inner(f, options)
    only: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(nogil=True, **only, **options)(function)
