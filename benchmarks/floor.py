"""How much of a step or a density its matrix products take: they are a lower bound of its time in float32.

    .venv-peers/bin/python benchmarks/floor.py

A section of RESULTS.md: Flowstone and the products of its nets alone, interleaved.
"""

import math
import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.kernels import CHUNK
from libraries import OURS, flowstone, net_sizes
from measure import SPEED, interleaved, machine, ratios, write_section
from peers import ITEMS, Item

RUNS = 60
Product = Callable[[], Tensor]


def products(item: Item) -> Callable[[], None]:
    """The products of every layer's net, forward and, for a step, both of backward: no activations, no optimizer.

    Densities are computed in as many chunks as ``Flow.log_prob`` makes.
    """
    task, chunks = item.task, 1 if item.what == "step" else math.ceil(item.rows / CHUNK)
    calls: list[Product] = []
    for index, sizes in enumerate(net_sizes(task)):
        for depth, (inputs, outputs) in enumerate(pairwise(sizes)):
            forward, by_weight, by_input = _layer(item.rows // chunks, inputs, outputs)
            calls.append(forward)
            if item.what == "step":
                calls += [by_weight] if index == depth == 0 else [by_weight, by_input]  # data need no gradient

    def run() -> None:
        for call in calls * chunks:
            call()

    return run


def _layer(rows: int, inputs: int, outputs: int) -> tuple[Product, Product, Product]:
    """Forward, gradient by weight, gradient by input, each in the fastest of its equivalent forms."""
    x, weight, bias, g = map(torch.randn, ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs)))
    transposed = weight.t().contiguous()
    return (
        _fastest(lambda: F.linear(x, weight, bias), lambda: torch.addmm(bias, x, transposed)),
        _fastest(lambda: torch.mm(g.t(), x), lambda: torch.mm(x.t(), g)),
        _fastest(lambda: torch.mm(g, weight), lambda: F.linear(g, transposed), lambda: torch.mm(weight.t(), g.t())),
    )


def _fastest(*forms: Product) -> Product:
    times = interleaved(5, **{str(index): form for index, form in enumerate(forms)})
    return forms[min(range(len(forms)), key=lambda index: statistics.median(times[str(index)]))]


def line(item: Item) -> str:
    torch.set_num_threads(item.threads)
    x, ours = torch.randn(item.rows, item.task.features), flowstone(item.task)
    function, runs = (ours.step, RUNS) if item.what == "step" else (ours.log_prob, RUNS // 6)
    times = interleaved(runs, ours=lambda: function(x), products=products(item))
    both, least = (statistics.median(spent) for spent in times.values())
    most = ratios(*times.values()).median
    return f"| {item} | {both:.1f} | {least:.1f} | {100 / most:.0f}% | {most:.2f} |"


PAGE = """## Matrix products alone

    .venv-peers/bin/python benchmarks/floor.py

The matrix products of the nets in float32, forward and, for a step, backward. Every library above but FlowJAX computes
them by the same routines (oneMKL through torch). Each product is timed here in the fastest of its equivalent forms,
interleaved with the whole step or log_prob of {name}. Medians in milliseconds. *Part*: the share of the products in the
whole time. *At most*: how many times as fast {name} could be if nothing else took time. Machine: {machine}.

| item | Flowstone, ms | products alone, ms | part | at most |
|---|---|---|---|---|
{lines}

Scoring, and steps with wide nets, are therefore close to the speed of their products. Steps with narrow nets spend the
rest on launching small operations, of which direct gradients need fewer than autograd. With 32 rows, where the products
take hardly any time, FlowJAX, which runs a step as one compiled program, is still faster (*Growth of a training step*).
Nets in bfloat16 shorten the products, wide nets more than narrow ones (column *bf16* above).
"""


def main() -> None:
    torch.manual_seed(0)
    lines = [line(item) for item in ITEMS if item.what != "sample" and item.task.kind != "autoregressive"]
    text = PAGE.format(name=OURS[0], machine=machine(), lines="\n".join(lines))
    write_section("floor", text, SPEED)
    print(text)


if __name__ == "__main__":
    main()
