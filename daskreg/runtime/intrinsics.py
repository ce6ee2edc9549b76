"""Instructions for compiled code: those that numba lacks, and those whose functions numba compiles each by itself.

Each `min`, `max` and `np.empty` is to numba a function of its own for every combination of types, which is typed,
optimised and made into machine code, in 0.03 to 0.2 s; these are written where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as of_numba
from numba.np.arrayobj import _empty_nd_impl


def intrinsic(function: Callable[..., Any]) -> Any:
    """What compiled code calls without the typing context, which numba adds."""
    return of_numba(function)


@intrinsic
def least(typing_context: Any, a: Any, b: Any) -> Any:
    """`min(a, b)`: the first, unless the second is less."""
    return _chosen(typing_context, a, b, "<")


@intrinsic
def greatest(typing_context: Any, a: Any, b: Any) -> Any:
    """`max(a, b)`: the first, unless the second is greater."""
    return _chosen(typing_context, a, b, ">")


def _chosen(typing_context: Any, a: Any, b: Any, sign: str) -> tuple[Any, Callable[..., Any]]:
    kind = typing_context.unify_types(a, b)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = (
            context.cast(builder, value, given, kind)
            for value, given in zip(arguments, signature.args, strict=True)
        )  # fmt: skip
        if isinstance(kind, types.Float):
            better = builder.fcmp_ordered(sign, second, first)
        else:
            compare = builder.icmp_signed if kind.signed else builder.icmp_unsigned
            better = compare(sign, second, first)
        return builder.select(better, second, first)

    return kind(a, b), generate


@intrinsic
def empty(typing_context: Any, shape: Any, dtype: Any) -> Any:
    """`np.empty` of an integer or a tuple of integers, and of a type that is named, such as np.float32."""
    return _array(shape, dtype, filled=False)


@intrinsic
def zeros(typing_context: Any, shape: Any, dtype: Any) -> Any:
    """`np.zeros`, likewise."""
    return _array(shape, dtype, filled=True)


def _array(shape: Any, dtype: Any, *, filled: bool) -> tuple[Any, Callable[..., Any]]:
    ndim = len(shape) if isinstance(shape, types.BaseTuple) else 1
    kind = types.Array(dtype.dtype, ndim, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = signature.args[0]
        single = not isinstance(given, types.BaseTuple)
        values: Any = arguments[:1] if single else cgutils.unpack_tuple(builder, arguments[0])
        kinds: Any = (given,) if single else given
        sizes = [context.cast(builder, value, of, types.intp) for value, of in zip(values, kinds, strict=True)]
        array = _empty_nd_impl(context, builder, kind, sizes)
        if filled:
            cgutils.memset(builder, array.data, builder.mul(array.itemsize, array.nitems), 0)
        return array._getvalue()

    return kind(shape, dtype), generate


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

    return types.none(block, index), generate
