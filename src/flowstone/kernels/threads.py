"""Runs a compiled kernel on torch's own threads, called as C calls a function, without Python in between."""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

__all__ = ["run_on_threads"]

SMALLEST_SHARE = 1 << 9  # elements below which a second thread costs more time than it saves


def run_on_threads(kernel: Callable[..., None], call: Any) -> None:
    """Run ``kernel(call)`` on as many threads as torch uses. Each thread takes block after block of the ``call.total``
    elements and advances ``call.next``, which all of them share.

    They are the threads of torch's own OpenMP. Those stay active for milliseconds after each operation, so that a
    second pool of threads would find the cores busy and be twice as slow. Without GNU OpenMP there is one thread.
    """
    threads = min(torch.get_num_threads(), call.total // SMALLEST_SHARE + 1)
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        kernel(ctypes.byref(call))
    else:
        parallel(kernel, ctypes.byref(call), threads, 0)
    if call.next < call.total:  # compiled code cannot raise: it stops if there is no memory
        raise MemoryError(f"no memory for a kernel's {threads} threads")


@cache
def _parallel() -> Callable | None:
    """The function that compilers call for ``#pragma omp parallel``; None where there is none, and in a forked process,
    which does not have its parent's threads.
    """
    if os.getpid() != _PROCESS:
        return None
    try:
        return ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another OpenMP; Windows
        return None


_PROCESS = os.getpid()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_parallel.cache_clear)
