"""Instructions that kernels are given beside numba's: LLVM's own, written by a function in Python.

numba has no vectors, and types what it has at length; what is written here it neither types nor lowers.
"""

# mypy: disallow-untyped-calls=False

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from llvmlite.ir import Value
from numba import types
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

Written = Callable[..., Any]
"""A function for kernels alone."""


def instruction(write: Callable[..., None]) -> Written:
    """An intrinsic for kernels: `write(builder, ...)` gets words, and addresses for arrays, contiguous
    ones."""

    def typed(typing: object, *kinds: types.Type) -> tuple[Signature, Callable[..., Value]]:
        given = tuple(types.int64 if isinstance(kind, types.Integer) else kind for kind in kinds)

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[Value]
        ) -> Value:
            write(
                builder,
                *(
                    context.make_array(kind)(context, builder, value).data
                    if isinstance(kind, types.Array)
                    else value
                    for kind, value in zip(given, values, strict=True)
                ),
            )
            return context.get_dummy_value()

        return types.void(*given), generate

    # numba asks it how many arguments there are.
    typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
    return cast(Written, intrinsic(typed))
