"""Compiled kernels, called as C calls a function, on torch's own threads: nothing of Python is in between."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

__all__ = ["shared"]

ALONE = 1 << 9  # elements below which a second thread costs more than it brings


def shared(kernel: Callable[..., None], call: Any) -> None:
    """``kernel(call)`` on as many threads as torch uses; they take their shares of ``call.total`` elements from
    ``call.next`` on, and move that.

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
