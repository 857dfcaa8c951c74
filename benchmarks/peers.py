"""Flowstone beside its peers, interleaved in one run; a section of RESULTS.md.

    .venv-peers/bin/python benchmarks/peers.py [--only WORDS]

Every library runs in a process of its own, so that it has its own caches and threads. Read the ratios.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NoReturn

from libraries import CHECKPOINTED, LIBRARIES, OURS, Contender, Task, net_sizes
from measure import (
    SPEED,
    Spread,
    Worker,
    answer,
    interleaved_blocks,
    machine,
    peak_growth,
    ratios,
    run_alone,
    timed,
    write_section,
)

BLOCK = 0.3  # seconds of a block of calls, if one call is not longer
ROUNDS = 7


@dataclass(frozen=True)
class Item:
    """What is timed: ``what`` is ``"step"``, ``"log_prob"`` or ``"sample"``, of a task's flow on so many rows."""

    what: str
    task: Task
    rows: int
    threads: int
    wanted: str = ""  # the ratio to the fastest peer that this project aims at

    def __str__(self) -> str:
        task = self.task
        flow = f"{task.kind}, D={task.features}, {task.layers} layers, width {task.width}"
        return f"{self.what}, {flow}, {self.rows:,} rows, {self.threads} thread" + "s" * (self.threads > 1)


ROWS = 100_000
ITEMS = (
    Item("step", Task("affine", 2, 6, 128), 512, 1, "1.25"),
    Item("step", Task("affine", 6, 10, 128), 1000, 2, "1.2"),
    Item("step", Task("affine", 43, 10, 128), 1000, 2, "1.35"),
    Item("step", Task("affine", 6, 10, 512), 1000, 2, "1.1"),
    Item("step", Task("affine", 43, 10, 512), 1000, 2, "1.1"),
    Item("step", Task("spline", 6, 10, 128), 512, 2, "2.3"),
    Item("step", Task("spline", 43, 10, 128), 512, 2, "3.0"),
    Item("step", Task("autoregressive", 6, 5, 128), 512, 2),
    Item("step", Task("autoregressive", 43, 5, 128), 512, 2),
    Item("log_prob", Task("affine", 6, 10, 128), ROWS, 2, "1.05"),
    Item("sample", Task("affine", 6, 10, 128), ROWS, 2, "1.1"),
    Item("log_prob", Task("spline", 6, 10, 128), ROWS, 2, "2.0"),
    Item("sample", Task("spline", 6, 10, 128), ROWS, 2, "2.0"),
)
GROWTH = (  # with D, with depth, with the batch
    *(Item("step", Task("affine", features, 10, 128), 1000, 2) for features in (2, 16, 128)),
    *(Item("step", Task("affine", 6, layers, 128), 1000, 2) for layers in (6, 24, 96)),
    *(Item("step", Task("affine", 6, 10, 128), rows, 2) for rows in (32, 512, 8192)),
)
DEPTHS = tuple(Item("step", Task("affine", 43, layers, 128), 1000, 2) for layers in (6, 24, 96))
PEERS = [name for name in LIBRARIES if name not in (*OURS, CHECKPOINTED)]


# --- in a process of its own ------------------------------------------------------------------------------------------


def work(item: Item, name: str) -> None:
    """Make the library's flow; print how many parameters it has, then times of calls whenever a number is read."""
    keep_to(item.threads)
    contender, x = _made(item, name)
    if contender is None:
        answer(None, None)
    else:
        answer(contender.parameters, _call(item, contender, x))


def keep_to(threads: int) -> None:
    """For one thread, keep the process on one processor: flags alone do not hold JAX to that."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})


def _made(item: Item, name: str) -> tuple[Contender | None, Any]:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(item.threads)
    torch.manual_seed(0)
    return LIBRARIES[name](item.task), torch.randn(item.rows, item.task.features)


def _call(item: Item, contender: Contender, x: Any) -> Callable[[], object]:
    if item.what == "sample":
        return lambda: contender.sample(item.rows)
    function = contender.step if item.what == "step" else contender.log_prob
    return lambda: function(x)


def grow(depth: int, name: str) -> None:
    """Print by how many MiB a step raises the peak of the process, and how many MiB the parameters take."""
    contender, x = _made(DEPTHS[depth], name)
    if contender is None or name == "FlowJAX":  # it compiles, which takes far more memory than the step
        print(json.dumps(None))
        return
    contender.step(x[:2])  # makes gradients and moments
    print(json.dumps([peak_growth(lambda: contender.step(x)), contender.parameters * 4 / 2**20]))


def learn_by_fit(moons: Any, held_out: Any, chance: float, began: float) -> NoReturn:
    """Train the default recipe with the default settings of ``fit``, and print what ``learn`` prints."""
    import flowstone

    def watch(_: object, history: Any) -> None:
        if (best := history.best.val_nll - chance) <= 1.16:
            print(json.dumps([time.time() - began, best]), flush=True)
            os._exit(0)

    flow = flowstone.recipes.build(flowstone.recipes.DEFAULT, {"features": 2})
    history = flowstone.fit(flow, moons, validation=held_out, validate_every=20, progress=False, watch=watch)
    print(json.dumps([None, history.best.val_nll - chance]), flush=True)
    os._exit(0)


def learn(name: str, rate: float, began: float) -> None:
    """Print the seconds from the start of the process until the NLL of held-out moons is 1.16 nats, and the best NLL.

    By how much the true density misses its entropy on the held-out points is subtracted.
    """
    import numpy as np
    import torch

    from flowstone.data import TOYS

    warnings.simplefilter("ignore")
    keep_to(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    moons = TOYS["moons"]
    held_out = moons(20_000, torch.Generator().manual_seed(1))
    started = time.time()
    chance = -moons.log_prob(held_out).mean().item() - moons.entropy
    began += time.time() - started  # only the measurement needs the true density
    if name == OURS[0]:
        learn_by_fit(moons, held_out, chance, began)
    contender = LIBRARIES[name](Task("spline", 2, 6, 64, rate=rate))
    if contender is None:
        return  # this library has no such flow
    generator, best = torch.Generator().manual_seed(2), math.inf
    while best > 1.16 and time.time() - began < 100:
        for _ in range(20):
            contender.step(moons(512, generator))
        best = min(best, -float(np.asarray(contender.log_prob(held_out)).mean()) - chance)
    print(json.dumps([time.time() - began if best <= 1.16 else None, best]))


# --- the run ----------------------------------------------------------------------------------------------------------


def environment(threads: int) -> dict[str, str]:
    flags = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    return os.environ | {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def measure(items: str, number: int, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Milliseconds of each library, ratio to the first of them, parameters."""
    item = TABLES[items][number]
    made = {
        name: Worker(__file__, "work", items, number, name, environment=environment(item.threads)) for name in names
    }
    workers = {name: worker for name, worker in made.items() if worker.greeting is not None and worker(1)}
    times = interleaved_blocks(ROUNDS, workers, seconds=BLOCK)
    for worker in made.values():
        worker.close()
    return {
        name: {
            "spread": Spread.of(spent),
            "ratio": ratios(spent, times[names[0]]).median,
            "parameters": workers[name].greeting,
        }
        for name, spent in times.items()
    }


def alone(*words: object, threads: int = 2, kernels: str | None = None) -> Any:
    """What this script prints, in a process with that many threads; None where it fails.

    ``kernels`` is the folder of the kernels that numba has compiled; None: nothing is compiled beforehand.
    """
    with tempfile.TemporaryDirectory() as empty:
        cold = environment(threads) | {"NUMBA_CACHE_DIR": kernels or empty}
        return run_alone(__file__, *words, environment=cold, check=False)


def peaks(threads: int) -> None:
    """Print the speed of this machine: fp32 GFLOP/s of a large matrix product, GB/s of a copy (read and written)."""
    import torch

    torch.set_num_threads(threads)
    a, big = torch.randn(2048, 2048), torch.randn(1 << 26)
    other = torch.empty_like(big)

    def best(function: Callable[[], object]) -> float:
        return min(timed(function, 6)) / 1e3

    copy = 2 * 4 * big.numel() / best(lambda: other.copy_(big)) / 1e9
    print(json.dumps({"gemm": 2 * 2048**3 / best(lambda: a @ a) / 1e9, "copy": copy}))


def cells(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Our milliseconds, how many times as fast our variants are, how many times as long each peer takes."""
    row = [f"{measured[OURS[0]]['spread']:.1f}"]
    row += [f"{1 / measured[name]['ratio']:.2f}" if name in measured else "" for name in OURS[1:]]
    return row + [f"{measured[name]['ratio']:.2f}" if name in measured else "" for name in PEERS]


def speed_line(item: Item, measured: dict[str, dict[str, Any]], peak: dict[int, dict[str, float]]) -> str:
    fastest = min(measured[name]["ratio"] for name in PEERS if name in measured)
    counts = "/".join(f"{measured[name]['parameters'] / 1e3:.0f}" for name in (OURS[0], *PEERS) if name in measured)
    used = rates(item, measured[OURS[0]]["parameters"], measured[OURS[0]]["spread"].median, peak[item.threads])
    return f"| {item} | {' | '.join(cells(measured))} | **{fastest:.2f}** | {item.wanted} | {used} | {counts} |"


def rates(item: Item, parameters: float, milliseconds: float, peak: dict[str, float]) -> str:
    """GFLOP/s and GB/s of the nets' matrix products, each with its part of what the machine can do."""
    passes = 3 if item.what == "step" else 1  # backward: by what goes in, and by the weights
    arithmetic = passes * 2 * parameters * item.rows / milliseconds / 1e6
    pairs = [pair for sizes in net_sizes(item.task) for pair in pairwise(sizes)]
    numbers = sum(item.rows * (inputs + outputs) + inputs * outputs for inputs, outputs in pairs)
    memory = passes * 4 * numbers / milliseconds / 1e6
    of = (arithmetic / peak["gemm"], memory / peak["copy"])
    return f"{arithmetic:.0f} ({100 * of[0]:.0f}%) | {memory:.1f} ({100 * of[1]:.0f}%)"


TABLES = {"items": ITEMS, "growth": GROWTH, "depths": DEPTHS}
PAGE = """## Beside the peers

    make bench

Each library has the same flow (`benchmarks/libraries.py`): the same couplings, widths, bins, batch and optimizer, in
float32. Each runs in a process of its own, in blocks of {block} s that take turns, {rounds} rounds. Milliseconds:
median (least – most) of the blocks' medians. A step of Flowstone is that of `fit`, on as many of the threads as `fit`
takes. *compiled* and *bf16*: how many times as fast Flowstone is with `compile=True`, and with its nets in bfloat16.
Columns of the peers: how many times as long as Flowstone each takes, the median over rounds; above 1 Flowstone is
faster. *Fastest*: the ratio for the fastest peer; *aim*: the ratio that was aimed at. *GFLOP/s*: the rate of the nets'
matrix products (2 x parameters x rows, three times that for a training step), and in parentheses its share of the rate
of a large product on as many threads ({gemm}). *GB/s*: the rate at which these products read and write if each array is
read or written once, and its share of the rate of copying memory ({copy}). Parameters are in thousands: those of
Flowstone, then those of the peers. Machine: {machine}; {versions}.

| item | Flowstone, ms | {names} | fastest | aim | GFLOP/s (of peak) | GB/s (of peak) | parameters |
|{rule}|
{items}

### Growth of a training step

The time of a step with more features, more layers and larger batches; affine couplings, width 128, columns as above.

| item | Flowstone, ms | {growth_names} |
|{growth_rule}|
{growth}

### Memory against depth

MiB by which one training step (affine, D=43, width 128, 1000 rows) raises the peak memory of the process above that of
the flow, its gradients and the optimizer's moments (Linux). *Checkpointed*: with `memory="recompute"`; *its time*: how
many times as long such a step takes. FlowJAX is left out: compiling takes more memory than the step.

| couplings | parameters, MiB | Flowstone | checkpointed | its time | {peers} |
|---|---|---|---|---|{peer_rule}|
{memory}

### Seconds to learn two moons

From the start of the process until the NLL of 20,000 held-out points is 1.16 nats: imports (of torch for all, because
it draws the points), compilation and a validation every 20 steps are included. The entropy is 1.1312; the difference
between the true density's NLL on the held-out points and the entropy is subtracted. One thread, 512 fresh points a
step. Flowstone: the default recipe in `fit`; the first time numba compiles its kernels, and keeps them. That takes 4 s,
two in LLVM and two in numba's typing of some thirty small functions. Meanwhile no steps are taken without the kernels:
their results differ in the last bits, so such a run would not repeat bit for bit. The two kernels share most functions:
compiled at once in two processes they would take 3.4 s, in a row 4.0. The peers: the same spline couplings (6, width
64, 8 bins) with Adam, the better of the rates 1e-3 and 5e-3; at most 100 seconds.

| library | seconds | NLL reached |
|---|---|---|
{moons}
"""


def speeds(only: str, peak: dict[int, dict[str, float]]) -> str:
    lines = []
    for number, item in enumerate(ITEMS):
        if only in str(item):
            ours = OURS if item.what == "step" else [name for name in OURS if name != "compiled"]
            lines.append(speed_line(item, measure("items", number, [*ours, *PEERS]), peak))
            print(lines[-1], flush=True)
    return "\n".join(lines)


def growths() -> str:
    lines = []
    for number, item in enumerate(GROWTH):
        measured = measure("growth", number, [OURS[0], *PEERS])
        row = cells(measured)
        lines.append(f"| {item} | {' | '.join([row[0], *row[len(OURS) :]])} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def memories() -> str:
    lines = []
    for depth, item in enumerate(DEPTHS):
        measured = {name: alone("grow", depth, name) for name in (OURS[0], CHECKPOINTED, *PEERS)}
        row = [f"{each[0]:.0f}" if each else "" for each in measured.values()]
        row.insert(2, f"{measure('depths', depth, (OURS[0], CHECKPOINTED))[CHECKPOINTED]['ratio']:.2f}")
        lines.append(f"| {item.task.layers} | {measured[OURS[0]][1]:.1f} | {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def moons() -> str:
    lines = []

    def show(title: str, name: str, rates: Sequence[float], kernels: str | None = None) -> None:
        tries = [alone("learn", name, rate, time.time(), threads=1, kernels=kernels) for rate in rates]
        if not any(tries):
            return
        seconds, best = min(filter(None, tries), key=lambda one: (one[0] or math.inf, one[1]))
        lines.append(f"| {title} | {'–' if seconds is None else f'{seconds:.1f}'} | {best:.3f} |")
        print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory() as kernels:
        for when in ("the first time", "from then on"):
            show(f"{OURS[0]}, {when}", OURS[0], (0.0,), kernels)  # ``fit`` has its own rate
    for name in PEERS:
        show(name, name, (1e-3, 5e-3))
    return "\n".join(lines)


def main() -> None:
    """Measure everything, then write the section; ``--only`` prints the lines of the items that contain the words."""
    if sys.argv[1:2] == ["work"]:
        work(TABLES[sys.argv[2]][int(sys.argv[3])], sys.argv[4])
    elif sys.argv[1:2] == ["grow"]:
        grow(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["learn"]:
        learn(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    elif sys.argv[1:2] == ["peaks"]:
        peaks(int(sys.argv[2]))
    else:
        run()


def run() -> None:
    parser = argparse.ArgumentParser(description="Flowstone beside its peers")
    parser.add_argument("--only", default="", metavar="WORDS")
    only = parser.parse_args().only
    peak = {threads: alone("peaks", threads, threads=threads) for threads in (1, 2)}
    items = speeds(only, peak)
    if only:
        return
    names = [*OURS[1:], *PEERS]
    text = PAGE.format(
        block=BLOCK,
        rounds=ROUNDS,
        machine=machine(),
        versions=", ".join(f"{name} {version(name)}" for name in (*PEERS, "jax")),
        gemm=", ".join(f"{peak[t]['gemm']:.0f} on {t}" for t in peak),
        copy=", ".join(f"{peak[t]['copy']:.1f} GB/s on {t}" for t in peak),
        names=" | ".join(names),
        rule="|".join("---" for _ in range(len(names) + 7)),
        items=items,
        growth_names=" | ".join(PEERS),
        growth_rule="|".join("---" for _ in range(len(PEERS) + 2)),
        growth=growths(),
        peers=" | ".join(PEERS),
        peer_rule="|".join("---" for _ in PEERS),
        memory=memories(),
        moons=moons(),
    )
    write_section("peers", text, SPEED)


if __name__ == "__main__":
    main()
