"""Compiled kernels, called as C calls a function, on torch's own threads: nothing of Python is in between."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core.cgutils import voidptr_t
from numba.extending import intrinsic as _intrinsic

__all__ = ["claim", "pointer", "shared"]

intrinsic: Callable[..., Any] = _intrinsic  # called otherwise than it is written
ALONE = 1 << 9  # elements below which a second thread costs more than it brings


def shared(kernel: Callable[..., None], call: Any) -> None:
    """``kernel(call)`` on as many threads as torch uses; they ``claim`` their shares of ``call.total`` elements from
    ``call.next``, the structure's first number.

    They are the threads of torch's own OpenMP, which go on turning for milliseconds after each operation: a pool beside
    them would find the cores taken, and be twice as slow. Where there is no GNU OpenMP it is one thread.
    """
    threads = min(torch.get_num_threads(), call.total // ALONE + 1)
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        kernel(ctypes.byref(call))
    else:
        parallel(kernel, ctypes.byref(call), threads, 0)
    if call.next < call.total:  # compiled code cannot raise: it stops where no memory is left
        raise MemoryError(f"no memory for a kernel's {threads} threads")


@intrinsic
def pointer(_context, address):
    """A number as the place in memory that it is the address of."""

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], voidptr_t)

    return types.voidptr(address), generate


@intrinsic
def claim(_context, _counter, _step):
    """Of a counter, the uint64 in that place: where it was, and it moves on by a step. No two threads get the same."""

    def generate(_context, builder, _signature, arguments):
        place = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.uint64(types.voidptr, types.uint64), generate


@cache
def _parallel() -> Callable | None:
    """What compilers call for ``#pragma omp parallel``; None where there is none, and in a fork: it has no threads."""
    if os.getpid() != _PROCESS:
        return None
    try:
        return ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another OpenMP; Windows
        return None


_PROCESS = os.getpid()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parallel.cache_clear)
