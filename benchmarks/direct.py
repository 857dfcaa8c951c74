"""Direct gradients beside those of autograd, interleaved in one process; a section of RESULTS.md.

    python benchmarks/direct.py [--only WORDS] [--rounds N] [--print]

A step is that of ``fit`` without its data: gradient, norm and clipping, Adam, average of the weights. With ``--only``
or ``--print`` the page is left as it is.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from flowstone.execution import DirectGradient, fast_few_inputs, thread_count
from libraries import AsInFit, Task, flowstone_flow
from measure import SPEED, Spread, interleaved_blocks, machine, peak_growth, ratios, run_alone, timed, write_section
from peers import Item

ROUNDS = 15
CLIP, AVERAGE = 5.0, 0.01
SMALL = Task("affine", 6, 10, 128)
TABLE = (
    Item("step", Task("affine", 2, 6, 128), 512, 1),
    *(Item("step", Task("affine", features, 10, 128), 1000, 2) for features in (6, 43)),
    Item("step", SMALL, 32, 1),
    *(Item("step", Task("affine", features, 10, 512), 1000, 2) for features in (6, 43)),
    *(Item("step", Task("spline", features, 10, 128), 512, 2) for features in (2, 6, 43)),
)
GROWTH = (
    *(Item("step", replace(SMALL, features=features), 1000, 1) for features in (2, 16, 128)),
    *(Item("step", replace(SMALL, layers=layers), 1000, 1) for layers in (6, 24, 96)),
    *(Item("step", SMALL, rows, 1) for rows in (32, 128, 512, 2048, 8192, 65_536)),
)
BATCHES = (32, 128, 512, 1024, 2048, 8192, 65_536)
WAYS = ("direct", "autograd")


def steps(item: Item) -> dict[str, Callable[[], object]]:
    """A training step of the item's flow by each way."""
    torch.manual_seed(0)
    flow, x = flowstone_flow(item.task), torch.randn(item.rows, item.task.features)
    adam = AsInFit(flow, item.task.rate)
    array, few = adam.flat.array, fast_few_inputs(flow)
    averages, direct = array.detach().clone(), DirectGradient(flow)

    def by_autograd() -> Tensor:
        with few:
            loss = -flow.log_prob(x).mean()
            loss.backward()
        return loss

    def directly() -> Tensor:
        assert direct.applies()
        return direct(x)

    def step_by(gradient: Callable[[], Tensor]) -> Callable[[], object]:
        def step() -> None:
            adam.zero_grad()
            loss = gradient()
            nn.utils.clip_grad_norm_([array], CLIP)
            adam.step()
            averages.lerp_(array.detach(), AVERAGE)
            loss.item()

        return step

    return {"direct": step_by(directly), "autograd": step_by(by_autograd)}


def compared(items: Sequence[Item], rounds: int) -> str:
    """A line for each item: milliseconds of both ways, and how many times as long autograd takes."""
    lines = []
    for item in items:
        torch.set_num_threads(item.threads)
        timers = {name: lambda calls, step=step: timed(step, calls) for name, step in steps(item).items()}
        times = interleaved_blocks(rounds, timers)
        both = " | ".join(f"{Spread.of(times[way]):.2f}" for way in WAYS)
        lines.append(f"| {item} | {both} | **{ratios(times['autograd'], times['direct']):.2f}** |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def on_threads(rounds: int) -> str:
    """A line for each batch: milliseconds of a direct step on one thread and on all, and what ``fit`` takes."""
    most = max(2, torch.get_num_threads())
    lines = []
    for rows in BATCHES:
        flow = flowstone_flow(SMALL)
        torch.set_num_threads(most)
        chosen = thread_count(flow, rows)
        times: dict[int, list[float]] = {1: [], most: []}
        step = steps(Item("step", SMALL, rows, 1))["direct"]
        for _ in range(rounds):
            for threads, spent in times.items():
                torch.set_num_threads(threads)
                step()
                spent.append(statistics.median(timed(step, max(3, 20_000 // rows))))
        one, all_ = (Spread.of(spent) for spent in times.values())
        lines.append(f"| {rows:,} | {one:.2f} | {all_:.2f} | {chosen} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def growth_of_memory(number: int, way: str) -> None:
    """Print by how many MiB a step raises the peak of the process above flow, gradients and moments."""
    torch.set_num_threads(1)
    step = steps(TABLE[number])[way]
    before = steps(replace(TABLE[number], rows=2))[way]
    before()  # what is loaded or compiled by the first call is no memory of a step
    print(json.dumps(peak_growth(step)))


def memories() -> str:
    lines = []
    for number, item in enumerate(TABLE):
        growth = [run_alone(__file__, "memory", number, way) for way in WAYS]
        lines.append(f"| {item} | {growth[0]:.0f} | {growth[1]:.0f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


PAGE = """## Direct gradients

    python benchmarks/direct.py

A training step of `fit` whose gradient is computed by the layers' own formulas (`execution/direct.py`) is compared with
the same step by autograd (`direct=False`), interleaved in one process, {rounds} rounds. Milliseconds: median (least –
most). *Ratio*: autograd's time divided by the direct one's, the median over neighbouring blocks; above 1 the direct
step is faster. Machine: {machine}.

| item | direct, ms | autograd, ms | ratio |
|---|---|---|---|
{table}

The same with more features, more layers and larger batches:

| item | direct, ms | autograd, ms | ratio |
|---|---|---|---|
{growth}

A direct step on one thread and on all threads (affine, D=6, 10 layers, width 128), and the number of threads that `fit`
takes:

| rows | one thread, ms | all, ms | `fit` |
|---|---|---|---|
{threads}

MiB by which a step raises the peak memory of the process (Linux), measured on one thread:

| item | direct | autograd |
|---|---|---|
{memory}

The same layers without a gradient (`DirectGradient.log_prob`, by which `fit` validates; D=6, 10 layers, width 128,
100,000 rows) score 1.48 (affine) and 1.39 (spline) times as fast as `log_prob` on one thread, and 1.02 and 0.80 times
as fast on two, where larger chunks suit the plain layers. `log_prob` and `sample` are therefore computed by the plain
layers.
"""


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        growth_of_memory(int(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="WORDS", help="only the items whose name contains these words")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"blocks of each ({ROUNDS})")
    parser.add_argument("--print", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    if options.only:
        compared([item for item in (*TABLE, *GROWTH) if options.only in str(item)], options.rounds)
        return
    text = PAGE.format(
        rounds=options.rounds,
        machine=machine(),
        table=compared(TABLE, options.rounds),
        growth=compared(GROWTH, options.rounds),
        threads=on_threads(options.rounds),
        memory=memories(),
    )
    if not options.print:
        write_section("direct", text, SPEED)


if __name__ == "__main__":
    main()
