"""Flowstone beside its peers: training steps, densities and samples of the same flows; writes benchmarks/PEERS.md.

    .venv-peers/bin/python benchmarks/peers.py

Interleaved in one run, each number of threads in a process of its own: read the ratios.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from libraries import LIBRARIES, Contender, Task


@dataclass(frozen=True)
class Item:
    """What is timed: ``step``, ``log_prob`` or ``sample`` of a task, on so many rows."""

    what: str
    task: Task
    rows: int
    threads: int
    runs: int

    def __str__(self) -> str:
        task = self.task
        flow = f"{task.kind}, D={task.features}, {task.layers} layers, width {task.width}"
        return f"{self.what}, {flow}, {self.rows:,} rows, {self.threads} thread" + "s" * (self.threads > 1)


ROWS = 100_000
ITEMS = (
    Item("step", Task("affine", 2, 6, 128), 512, 1, 60),
    Item("step", Task("affine", 6, 10, 128), 1000, 2, 30),
    Item("step", Task("affine", 43, 10, 128), 1000, 2, 30),
    Item("step", Task("affine", 43, 10, 512), 1000, 2, 9),
    Item("step", Task("spline", 6, 10, 128), 512, 2, 20),
    Item("step", Task("spline", 43, 10, 128), 512, 2, 15),
    Item("step", Task("autoregressive", 6, 5, 128), 512, 2, 30),
    Item("step", Task("autoregressive", 43, 5, 128), 512, 2, 30),
    Item("log_prob", Task("affine", 6, 10, 128), ROWS, 2, 5),
    Item("sample", Task("affine", 6, 10, 128), ROWS, 2, 5),
    Item("log_prob", Task("spline", 6, 10, 128), ROWS, 2, 3),
    Item("sample", Task("spline", 6, 10, 128), ROWS, 2, 3),
)


def measure(item: Item) -> dict[str, dict[str, float]]:
    """Median, least and most milliseconds of each library, and its parameters; in this process."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(item.threads)
    torch.manual_seed(0)
    x = torch.randn(item.rows, item.task.features)
    made = {name: make(item.task) for name, make in LIBRARIES.items()}
    contenders = {name: contender for name, contender in made.items() if contender is not None}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    warm = max(2, item.runs // 10)
    for run in range(item.runs + warm):
        for name, contender in contenders.items():
            call = _call(item, contender, x)
            started = time.perf_counter()
            call()
            if run >= warm:
                times[name].append(1e3 * (time.perf_counter() - started))
    ours = times["Flowstone"]
    return {
        name: {
            "median": statistics.median(spent),
            "least": min(spent),
            "most": max(spent),
            "ratio": statistics.median(a / b for a, b in zip(spent, ours, strict=True)),
            "parameters": contenders[name].parameters,
        }
        for name, spent in times.items()
    }


def _call(item: Item, contender: Contender, x) -> Callable[[], object]:
    if item.what == "sample":
        return lambda: contender.sample(item.rows)
    function = contender.step if item.what == "step" else contender.log_prob
    return lambda: function(x)


def peaks(threads: int) -> dict[str, float]:
    """What this machine can do: fp32 GFLOP/s of a large matrix product, GB/s of a copy (read and written)."""
    import torch

    torch.set_num_threads(threads)
    a, big = torch.randn(2048, 2048), torch.randn(1 << 26)
    other = torch.empty_like(big)

    def best(function: Callable[[], object]) -> float:
        spent = []
        for _ in range(6):
            started = time.perf_counter()
            function()
            spent.append(time.perf_counter() - started)
        return min(spent)

    return {
        "gemm": 2 * 2048**3 / best(lambda: a @ a) / 1e9,
        "copy": 2 * 4 * big.numel() / best(lambda: other.copy_(big)) / 1e9,
    }


def alone(words: list[str], threads: int) -> dict:
    """What this script prints, in a process with that many threads."""
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, *words]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def line(item: Item, found: dict[str, dict[str, float]], peak: dict[str, float]) -> str:
    ours = found["Flowstone"]
    cells = [str(item), f"{ours['parameters']:,}", f"{ours['median']:.1f} ({ours['least']:.1f} – {ours['most']:.1f})"]
    cells += [f"{found[name]['ratio']:.2f}" if name in found else "" for name in LIBRARIES if name != "Flowstone"]
    fastest = min((each["ratio"], name) for name, each in found.items() if name != "Flowstone")
    passes = 3 if item.what == "step" else 1  # backward: by what goes in, and by the weights
    rate = passes * 2 * ours["parameters"] * item.rows / ours["median"] / 1e6
    return "| " + " | ".join([*cells, f"**{fastest[0]:.2f}**", f"{rate:.0f} ({100 * rate / peak['gemm']:.0f}%)"]) + " |"


PAGE = """# Flowstone beside its peers

    .venv-peers/bin/python benchmarks/peers.py

The same flow in each library (`benchmarks/libraries.py`): the same couplings, widths, bins, batch and optimizer, in
float32; medians (least – most) of interleaved runs in milliseconds. For each peer: how many times as long it takes,
the median of ratios of neighbouring runs; above 1 Flowstone is faster. The last columns: the fastest peer's ratio,
which is what counts, and GFLOP/s of the nets' matrix products (3 x 2 x parameters x rows a training step), as a part
of what this machine does in a large product on as many threads ({gemm}; copying memory: {copy}).
Machine: {machine}; {versions}.

| item | parameters | Flowstone, ms | {peers} | fastest peer | GFLOP/s (of peak) |
|{rule}|
{lines}
"""


def main() -> None:
    """Measure every item in a process of its own, then write the page; with an item's number: that one, as JSON."""
    if len(sys.argv) > 1:
        found = peaks(int(sys.argv[2])) if sys.argv[1] == "peaks" else measure(ITEMS[int(sys.argv[1])])
        print(json.dumps(found))
        return
    from results import machine

    peak = {threads: alone(["peaks", str(threads)], threads) for threads in (1, 2)}
    lines = []
    for index, item in enumerate(ITEMS):
        lines.append(line(item, alone([str(index)], item.threads), peak[item.threads]))
        print(lines[-1], flush=True)
    names = [name for name in LIBRARIES if name != "Flowstone"]
    page = PAGE.format(
        machine=machine(),
        versions=", ".join(f"{name} {version(name)}" for name in (*names, "jax")),
        gemm=", ".join(f"{peak[t]['gemm']:.0f} on {t}" for t in peak),
        copy=", ".join(f"{peak[t]['copy']:.1f} GB/s on {t}" for t in peak),
        peers=" | ".join(names),
        rule="|".join("---" for _ in range(len(names) + 5)),
        lines="\n".join(lines),
    )
    (Path(__file__).parent / "PEERS.md").write_text(page)


if __name__ == "__main__":
    main()
