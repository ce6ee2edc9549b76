"""How numba compiles functions that only other compiled functions call: without machine code of their own.

By default numba optimises each function, makes machine code of it, and links it into its callers, which are then
optimised as a whole. The machine code is of no use here, and it changes results: where a caller has not inlined a
function, the process that compiles runs the function's own machine code, and one that reads what was
compiled runs the copy in the caller, which LLVM may have rounded differently. Here there is only the copy.

To optimise a function by itself first takes time too, and may do good or harm: linear interpolation of a warp is
slower by a third without it, the sums of the normal equations are faster by a fifth.

Compiler pipelines of one's own are public in numba; the library, the pass and the result of a compilation are not.
Tried with numba 0.61.0 and 0.68.1.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Optimised(JITCodeLibrary):
    """LLVM's code of a function and of those that it calls, to be linked into callers."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Lowered(_Optimised):
    """The same as numba has lowered it."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass


class _LowerForCallers(NativeLowering):
    """`NativeLowering` that ends before it makes machine code."""

    _library: type[JITCodeLibrary]

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.library = self._library(context.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        state.flags.no_compile = True
        try:
            super().run_pass(state)
        finally:
            state.flags.no_compile = False
        state.library._ensure_finalized()
        lowered = state["cr"]
        name = lowered.fndesc.qualname
        # What numba knows the function by; it cannot be called.
        key = _dynfunc.make_function(lowered.fndesc.lookup_module(), name, name, 0, lowered.env, (state.library,))
        context.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerAndOptimise(_LowerForCallers):
    _name = "daskreg_lower_and_optimise"  # type: ignore[assignment]
    _library = _Optimised


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lower(_LowerForCallers):
    _name = "daskreg_lower"  # type: ignore[assignment]
    _library = _Lowered


class Optimised(CompilerBase):
    """numba's pipeline for a function that is optimised by itself, and again in the functions that call it."""

    lower: type[NativeLowering] = _LowerAndOptimise

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "for callers")
        passes.add_pass_after(self.lower, NativeLowering)
        passes.passes = [entry for entry in passes.passes if entry[0] is not NativeLowering]
        passes.finalize()
        return [passes]


class Lowered(Optimised):
    """numba's pipeline for a function that is optimised only in the functions that call it."""

    lower = _Lower
