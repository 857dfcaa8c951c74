"""A process that runs cases, one after another, in bounded memory."""

import os
import resource
import shutil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["MEMORY", "work"]

MEMORY = 3 << 30  # bytes that a case may take beside what the libraries take


def work(connection: Connection, seed: int, base: Path, folder: Path, keep: bool) -> None:
    """Run the cases whose numbers come from ``connection``, and send what is found."""
    os.environ.pop("FLOWSTONE_DATA", None)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import matplotlib
    import torch

    from fuzz.cases import draw
    from fuzz.judge import judge

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    _bound_memory()
    while (number := connection.recv()) is not None:
        inside = folder / ("case" if not keep else f"case-{number}") / "files"
        shutil.rmtree(inside.parent, ignore_errors=True)
        inside.mkdir(parents=True)
        torch.manual_seed(0)
        before = _reset_peak()
        case = draw(seed, number, base, inside)
        verdict = judge(case, inside)
        grown = _status("VmHWM") - before
        found: dict[str, Any] = {"number": number, "words": case.words, "status": verdict.status, "said": verdict.said}
        memory = [f"memory: {grown >> 20} MB"] if grown > MEMORY else []
        connection.send({**found, "problems": [*verdict.problems, *memory], "grown": grown})


def _bound_memory() -> None:
    most = _status("VmSize") + MEMORY + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _reset_peak() -> int:
    """Let the peak of memory begin anew, and return the memory in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not allowed everywhere; the peak is then that of all cases so far
        return _status("VmHWM")
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
