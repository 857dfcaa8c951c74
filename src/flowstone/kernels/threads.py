"""Work shared among torch's own threads."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

import torch

__all__ = ["shared"]

ALONE = 1 << 12  # elements below which a second thread costs more than it brings


def shared(run: Callable[[int, int], None], total: int) -> None:
    """``run(begin, end)`` over all of 0 … ``total``, on as many threads as torch uses; ``run`` lets go of the GIL.

    They are the threads of torch's own OpenMP, which go on turning for milliseconds after each operation: a pool beside
    them would find the cores taken, and be twice as slow. Where there is no GNU OpenMP it is one thread.
    """
    threads = min(torch.get_num_threads(), total // ALONE + 1)
    parallel = _parallel() if threads > 1 else None
    if parallel is None:
        run(0, total)
        return
    parts = [(total * part // threads, total * (part + 1) // threads) for part in range(threads)]
    failures: list[BaseException] = []

    def body(_: object) -> None:
        try:
            run(*parts.pop())
        except BaseException as failure:  # C would lose it
            failures.append(failure)

    parallel(_BODY(body), None, threads, 0)
    if failures:
        raise failures[0]
    while parts:  # there may have been fewer threads than were asked for
        run(*parts.pop())


_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


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
