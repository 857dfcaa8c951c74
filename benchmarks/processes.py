"""Steps of ``fit`` in one and in two processes, and by DistributedDataParallel, into docs/many-processes.md (minutes).

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/processes.py

Blocks of steps take turns within the same two processes; while one process steps alone, the other one waits. All ways
take the same steps with the same global batch, forward to averaged weights.
"""

import os
import statistics
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import flowstone
from flowstone.data import Rows
from flowstone.execution.flat import FlatParameters, trainable_parameters
from flowstone.train import Settings
from flowstone.train.batches import FixedBatches
from flowstone.train.optimizer import make_optimizer
from flowstone.train.processes import Processes
from flowstone.train.step import Stepper
from flowstone.train.weights import Weights
from measure import RESULTS, Spread, machine, ratios, timed, write_section

ROUNDS, STEPS = 9, 12
COMMAND = "OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/processes.py"
WAYS = ("one process", "two processes", "two, by DDP")


class LossAlone(Processes):
    """Processes whose gradients something else has averaged: only the loss is added."""

    def add(self, tensors: Iterable[Tensor]) -> None:
        super().add([next(iter(tensors))])


def cases() -> dict[str, tuple[flowstone.Density, Tensor, int]]:
    """A density, rows, and the number of rows of a step."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (256, 3, 16, 16), dtype=torch.uint8)
    return {
        "table, 6 columns, 256 rows a step": (flowstone.spline(6), torch.randn(4096, 6), 256),
        "table, 6 columns, 2048 rows a step": (flowstone.spline(6), torch.randn(8192, 6), 2048),
        "images 3x16x16, 32 a step": (flowstone.realnvp_image((3, 16, 16), channels=32, blocks=1), pixels, 32),
    }


def milliseconds(way: str, density: flowstone.Density, x: Tensor, batch: int) -> tuple[float, float]:
    """Of the steps of a block the median time, and the mean time of the processor in this process; 0 where it waits."""
    processes = LossAlone() if way == WAYS[2] else Processes()
    if way == WAYS[0]:
        if processes.rank:
            return 0.0, 0.0
        processes.size = 1
    settings = Settings(batch_size=batch).for_data(density.event_shape, len(x), {})
    with ExitStack() as stack:
        flat = stack.enter_context(FlatParameters(trainable_parameters(density)))
        weights = Weights(density, [flat])
        optimizer = make_optimizer("adam", weights, [0.0])
        stepper = Stepper(density, settings, weights, optimizer, FixedBatches(Rows(x), batch, 0), processes)
        if way == WAYS[2]:
            stepper.density = DistributedDataParallel(density, find_unused_parameters=True)  # pyright: ignore
        steps = iter(range(10**9))
        timed(lambda: stepper.take(next(steps), 1e-5), 3)
        began = time.process_time()
        wall = statistics.median(timed(lambda: stepper.take(next(steps), 1e-5), STEPS))
        return wall, 1e3 * (time.process_time() - began) / STEPS


def reduction(size: int) -> float:
    """The median milliseconds in which the gradient is added over the processes."""
    gradient = torch.zeros(size)
    return statistics.median(timed(lambda: dist.all_reduce(gradient), 30))


def by_kind(blocks: dict[str, list[tuple[float, float]]]) -> list[list[list[float]]]:
    """Times on the clock of each way, and then those of the processor."""
    return [[[block[kind] for block in blocks[way]] for way in WAYS] for kind in (0, 1)]


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    lines = [
        f"Measured with `{COMMAND}`.",
        "Milliseconds of a step with the same global batch: wall-clock time (*clock*), and processor time in process 0",
        f"(*processor*); medians (least – most) of {ROUNDS} blocks of {STEPS} steps, which take turns; seed 0. The",
        "last two columns are ratios of times, the median over neighbouring blocks: where *one / two* is above 1 two",
        "processes are faster, where *DDP / two* is above 1 one `all_reduce` is faster than DistributedDataParallel.",
        f"The first column has the time in which the gradient is summed over both processes. Machine: {machine()};",
        f"one thread a process; gloo; load of the machine before the measurement: {os.getloadavg()[0]:.1f}.",
        "",
        "| | | " + " | ".join(WAYS) + " | one / two | DDP / two |",
        "|---|---|" + "---|" * 5,
    ]
    for name, (density, x, batch) in cases().items():
        density.initialize(x)
        density.train()
        size = sum(parameter.numel() for parameter in density.parameters())
        blocks: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, found in blocks.items():
                dist.barrier()
                found.append(milliseconds(way, density, x, batch))
        added = reduction(size)
        if dist.get_rank() == 0:
            flow = f"{name}; {size:,} parameters, whose gradient is summed in {added:.2f} ms"
            for kind, (one, two, ddp) in zip(("clock", "processor"), by_kind(blocks), strict=True):
                shown = " | ".join(f"{Spread.of(found):.1f}" for found in (one, two, ddp))
                lines.append(f"| {flow} | {kind} | {shown} | {ratios(one, two):.2f} | {ratios(ddp, two):.2f} |")
                flow = ""
    if dist.get_rank() == 0:
        write_section("throughput", "\n".join(lines), RESULTS.with_name("many-processes.md"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
