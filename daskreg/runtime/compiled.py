"""How numba compiles functions here, and a prefetch instruction, which numba lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from daskreg.runtime.callees import Lowered, Optimised
from daskreg.runtime.compile_once import share_compilation


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit` without the GIL, with compiled code cached on disk where a folder can be written."""
    if function is None:
        return lambda f: jit(f, **options)
    try:
        kernel = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # a read-only installation and no home directory
        kernel = numba.njit(nogil=True, **options)(function)
    return share_compilation(kernel)


def inner(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`numba.njit` of a function that only compiled functions call: it has no machine code of its own.

    It is stored on disk as a part of the functions that call it.
    """
    return _inner(function, {"pipeline_class": Optimised, **options})


def fragment(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`inner` of a function that is not optimised by itself, but only within its callers: faster to compile.

    For the rest, see `runtime.callees`; whether the callers become faster or slower has to be measured.
    """
    return _inner(function, {"pipeline_class": Lowered, **options})


def _inner(function: Callable[..., Any] | None, options: dict[str, Any]) -> Any:
    if function is None:
        return lambda f: _inner(f, options)
    only: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(nogil=True, **only, **options)(function)


@fragment
def floats(rows: Any, columns: Any) -> Any:
    """(rows, columns) float32, not set. It is compiled once if no number is a literal; so is not `np.empty`."""
    return np.empty((rows, columns), np.float32)


@intrinsic
def prefetch(typing_context: Any, block: Any, index: Any) -> Any:
    """Fetch the cache line around `block[index]` from memory; an index outside of the block does no harm."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [address, flag(0), flag(3), flag(1)])  # for reading; into all caches; data, not code
        return context.get_dummy_value()

    return numba.types.none(block, index), generate
