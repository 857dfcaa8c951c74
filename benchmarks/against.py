"""Is a training step or a density of this checkout slower than that of another, older one?

    python benchmarks/against.py TREE [--only WORDS] [--rounds N]

TREE is the folder of the other checkout. Each item is run by two processes with the same Python and the same libraries,
one with the package of this checkout and one with that of TREE; their blocks of calls take turns. The ratio is the time
of TREE divided by ours: above 1 this checkout is faster. With TREE=. the ratios show how much the machine varies.

Both make the same flow and the same training step: backward pass, clipping, Adam and an average of the weights over one
array of all parameters, as ``flowstone.fit`` does.
"""

import argparse
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor, nn

from libraries import Task, flowstone_flow
from measure import Spread, Worker, answer, interleaved_blocks, machine, ratios
from peers import ITEMS, Item, environment, keep_to

HERE = Path(__file__).parents[1]
ROUNDS = 15
RATE, CLIP, AVERAGE = 1e-4, 5.0, 0.01
IMAGE, BATCH = (1, 28, 28), 64


@dataclass(frozen=True)
class Images:
    """A training step of the image recipe's modern preset."""

    what: str = "step"
    threads: int = 2

    def __str__(self) -> str:
        size = "x".join(map(str, IMAGE))
        return f"{self.what}, images, modern, {size}, {BATCH} images, {self.threads} threads"


STEPS = [replace(item, wanted="") for item in ITEMS if item.what == "step"]
STEPS.append(Item("step", Task("affine", 6, 10, 128), 32, 2))
SCORING = [item for item in ITEMS if item.what != "step"]
# What is measured, and the precision of the nets.
RUNS = [
    *((item, "fp32") for item in STEPS),
    *((item, precision) for item in SCORING for precision in ("fp32", "bf16")),
    *((Images(), precision) for precision in ("fp32", "bf16")),
]


# --- in a process of its own ------------------------------------------------------------------------------------------


def work(number: int) -> None:
    """Print where the package was found, then times of calls whenever a number is read."""
    item, precision = RUNS[number]
    keep_to(item.threads)
    torch.set_num_threads(item.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    add_present_names()
    import flowstone
    from flowstone.execution import bf16_conditioners, fast_few_inputs

    if isinstance(item, Images):
        x = torch.randint(256, (BATCH, *IMAGE)).float()
        flow: Any = flowstone.realnvp_image(IMAGE)
        flow.initialize(x)
    else:
        x = torch.randn(item.rows, item.task.features)
        flow = flowstone_flow(item.task)
    contexts = [bf16_conditioners(flow)] if precision == "bf16" else []
    if item.what == "step":
        contexts.append(fast_few_inputs(flow))
    answer(flowstone.__file__, call_of(item.what, flow, x, contexts))


def add_present_names() -> None:
    """Give an older package the present names of what this file and ``libraries.py`` use."""
    from flowstone import bijections

    if importlib.util.find_spec("flowstone.execution") is None:
        execution: Any = importlib.import_module("flowstone.compute")
        execution.fast_few_inputs = nullcontext  # the nets of an older package do that by themselves
        sys.modules["flowstone.execution"] = execution
    affine: Any = bijections.Affine
    if "scale" not in inspect.signature(affine).parameters:
        bijections.Affine = lambda features, scale="tanh": affine(features, bound=scale)  # pyright: ignore


def call_of(what: str, flow: Any, x: Tensor, contexts: Sequence[AbstractContextManager]) -> Callable[[], object]:
    """A training step, or densities or samples, in these contexts."""
    step = Training(flow, x) if what == "step" else None

    def call() -> None:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            if step is not None:
                step()
            elif what == "log_prob":
                flow.log_prob(x)
            else:
                flow.sample(x.shape[0])

    return call if step else torch.inference_mode()(call)


class Training:
    """A training step, with parameters and gradients as parts of two arrays."""

    def __init__(self, flow: nn.Module, x: Tensor) -> None:
        self.flow, self.x = flow, x
        parameters = list(flow.parameters())
        self.array = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
        self.array.grad = self.gradient = torch.zeros_like(self.array)
        sizes = [parameter.numel() for parameter in parameters]
        parts = zip(parameters, self.array.detach().split(sizes), self.gradient.split(sizes), strict=True)
        for parameter, value, gradient in parts:
            parameter.data, parameter.grad = value.view_as(parameter), gradient.view_as(parameter)
        self.adam = torch.optim.Adam([self.array], lr=RATE, fused=True)
        self.averages = self.array.detach().clone()

    def __call__(self) -> None:
        self.gradient.zero_()
        loss = -self.flow.log_prob(self.x).mean()  # pyright: ignore[reportCallIssue]
        loss.backward()
        nn.utils.clip_grad_norm_([self.array], CLIP)
        self.adam.step()
        self.averages.lerp_(self.array.detach(), AVERAGE)
        loss.item()


# --- the comparison ---------------------------------------------------------------------------------------------------


def measure(number: int, tree: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of ``"this"`` checkout and of the ``"other"``, round by round."""
    threads = RUNS[number][0].threads
    workers = {}
    try:
        for name, root in (("this", HERE), ("other", tree)):
            source = root / "src"
            workers[name] = worker = Worker(
                __file__, "work", number, environment=environment(threads) | {"PYTHONPATH": str(source)}
            )
            if worker.greeting is None or not Path(worker.greeting).is_relative_to(source):
                raise SystemExit(f"{source}: no package that runs this item (found: {worker.greeting})")
        return interleaved_blocks(rounds, workers)
    finally:
        for worker in workers.values():
            worker.close()


def summary(title: str, medians: list[float], wanted: float) -> str:
    if not medians:
        return f"{title}: not measured"
    return f"{title}: geometric mean {geometric_mean(medians):.3f}, lowest {min(medians):.3f}, wanted at least {wanted}"


def main() -> None:
    if sys.argv[1:2] == ["work"]:
        work(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tree", type=Path, metavar="TREE", help="the folder of the other checkout")
    parser.add_argument("--only", default="", metavar="WORDS", help="items whose name contains these words")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"blocks of each ({ROUNDS})")
    arguments = parser.parse_args()
    tree = arguments.tree.resolve()
    if not (tree / "src" / "flowstone").is_dir():
        parser.error(f"{tree} has no src/flowstone: not a checkout of Flowstone")
    medians: dict[str, list[float]] = {"step": [], "scoring": []}
    print(f"{machine()}; ratio: the other checkout's time / this one's; above 1 this one is faster\n")
    print("| item | this, ms | other, ms | ratio |\n|---|---|---|---|")
    for number, (item, precision) in enumerate(RUNS):
        name = f"{item}, {precision}"
        if arguments.only not in name:
            continue
        times = measure(number, tree, arguments.rounds)
        ratio = ratios(times["other"], times["this"])
        medians["step" if item.what == "step" else "scoring"].append(ratio.median)
        print(
            f"| {name} | {Spread.of(times['this']):.1f} | {Spread.of(times['other']):.1f} | {ratio:.3f} |", flush=True
        )
    print()
    print(summary("Training steps", medians["step"], 0.94))
    print(summary("Densities and samples", medians["scoring"], 0.97))


if __name__ == "__main__":
    main()
