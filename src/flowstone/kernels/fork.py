"""Forked processes."""

import os
from functools import cache

import torch

__all__ = ["one_thread_after_fork"]


@cache
def one_thread_after_fork() -> None:
    """Let processes that are forked from this one compute on one thread, as torch's DataLoader lets its workers.

    A forked process does not have its parent's threads, and GNU OpenMP, with which torch computes, would wait for them
    forever.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
