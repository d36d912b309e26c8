"""A hint to the processor from Numba code: the cache lines of a row that will soon be read."""

from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_LINE = 64  # bytes of a cache line on x86-64 and most of ARM; a wrong guess costs only time


if numba.config.DISABLE_JIT:

    def _fetch(array: Any, offset: Any) -> None:
        """Nothing: plain Python knows no caches."""

else:

    @intrinsic
    def _fetch(context: Any, array: Any, offset: Any) -> Any:  # pragma: no cover (runs while Numba compiles)
        """Ask for the cache line at a byte offset of an array's data. It may lie past the end: a hint never fails."""
        del context

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # llvm.prefetch(address, 0 = to read, 3 = keep in all caches, 1 = data): LLVM Language Reference Manual.
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            byte, number = cgutils.voidptr_t, cgutils.int32_t
            address = builder.gep(builder.bitcast(data, byte), [arguments[1]])
            kind = cgutils.ir.FunctionType(cgutils.ir.VoidType(), [byte, number, number, number])
            prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(prefetch, [address, number(0), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), code


@numba.njit(nogil=True, cache=True)
def prefetch_row(values: Any, row: Any, size: Any) -> None:
    """Ask for the first `size` bytes of a row of a C-ordered array (n, d)."""
    first = row * values.strides[0]
    for at in range(0, size, _LINE):
        _fetch(values, first + at)
