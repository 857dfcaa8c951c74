"""Training steps of image flows: time beside masks at full resolution, and memory against depth.

    python benchmarks/image_speed.py

Writes benchmarks/IMAGES.md. Interleaved in one run: read the ratios.
"""

import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import flowstone
from flowstone.execution import bf16_conditioners, checkpointed
from flowstone.kernels import kernels
from plain import PlainImages
from results import machine
from speed import interleaved

BATCH, SHAPES = 64, ((1, 28, 28), (3, 32, 32), (3, 64, 64))  # fit's own batch for images
RUNS = 15
DEPTHS = (8, 16, 32, 64)
PAPER, MASKS = "the paper's: residual nets, masks", "gated nets, masks"
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {  # settings of realnvp_image, how it is run
    PAPER: ({"preset": "faithful", "widening": False}, {}),
    "modern, bf16 nets": ({}, {"bf16": True}),
    "modern": ({}, {}),
    "modern, bf16 nets, plain splines": ({}, {"bf16": True, "fused": False}),
    "modern, bf16 nets, checkpointed": ({}, {"bf16": True, "recompute": True}),
    "modern, bf16 nets, affine": ({"transform": "affine"}, {"bf16": True}),
}


def stepper(flow: torch.nn.Module, x: torch.Tensor, *, bf16: bool = False, fused: bool = True, recompute: bool = False):
    """A function that takes one training step."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with ExitStack() as stack:
            stack.enter_context(kernels(fused))
            if bf16:
                stack.enter_context(bf16_conditioners(flow))
            if recompute:
                stack.enter_context(checkpointed(flow))
            (-flow.log_prob(x).mean()).backward()  # pyright: ignore[reportCallIssue]
        optimizer.step()

    return step


def steps(shape: tuple[int, int, int]) -> list[str]:
    """Milliseconds of a step of each design; medians, and ratios of neighbours to both designs with masks."""
    torch.manual_seed(0)
    x = torch.randint(256, (BATCH, *shape)).float()
    steppers = {MASKS: stepper(PlainImages(shape[0]), x)}
    for name, (settings, how) in VARIANTS.items():
        flow = flowstone.realnvp_image(shape, **settings)
        flow.initialize(x)
        steppers[name] = stepper(flow, x, **how)
    times = interleaved(RUNS, **steppers)
    size = "x".join(map(str, shape))
    lines = []
    for name, spent in times.items():
        median = statistics.median(spent)
        ratios = [statistics.median(a / b for a, b in zip(times[of], spent, strict=True)) for of in (PAPER, MASKS)]
        cells = [size, name, f"{median:.0f} ({min(spent):.0f} – {max(spent):.0f})", f"{1e3 * BATCH / median:.0f}"]
        lines.append("| " + " | ".join([*cells, *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    return lines


MEASURE = """
import sys, torch, flowstone
from contextlib import nullcontext
from pathlib import Path
from flowstone.execution import checkpointed

def megabytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

couplings, memory, shape = int(sys.argv[1]), sys.argv[2], tuple(map(int, sys.argv[3].split("x")))
torch.manual_seed(0)
x = torch.randint(256, (int(sys.argv[4]), *shape), dtype=torch.uint8)
flow = flowstone.realnvp_image(shape, couplings=couplings // 2 - 2, channels=32)
flow.initialize(x[:8])
for parameter in flow.parameters():
    parameter.grad = torch.zeros_like(parameter)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of importing torch
before = megabytes("VmRSS")
with checkpointed(flow) if memory == "recompute" else nullcontext():
    (-flow.log_prob(x).mean()).backward()
print(round(megabytes("VmHWM") - before), sum(p.numel() for p in flow.parameters()))
"""


def peak(couplings: int, memory: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """MiB by which one gradient's peak is above what the process had before; parameters. In a process of its own."""
    batch = BATCH if shape[-1] < 64 else BATCH // 4
    command = [sys.executable, "-c", MEASURE, str(couplings), memory, "x".join(map(str, shape)), str(batch)]
    growth, parameters = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(growth), int(parameters)


def memories() -> list[str]:
    """One line a depth: peak with everything kept, and checkpointed, of each shape."""
    lines = []
    for couplings in DEPTHS:
        cells = [str(couplings)]
        for shape in SHAPES:
            (kept, parameters), (again, _) = (peak(couplings, memory, shape) for memory in ("keep", "recompute"))
            cells += [f"{kept}", f"{again}", f"{parameters * 4 / 2**20:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


PAGE = """# Speed and memory of image flows

    python benchmarks/image_speed.py

One training step (forward, backward, Adam) on a batch of {batch}: 2 scales, 3 + 3 and 4 couplings, 32 channels, 2
blocks. Beside the modern preset of `realnvp_image` stand two designs whose nets see the whole image with half of it
masked, in float32: the faithful preset, which has the paper's residual nets, and the modern preset's own gated nets
(`benchmarks/plain.py`), both with affine couplings. Medians (least – most) of interleaved runs in milliseconds, two
threads; ratios are medians of ratios of neighbours. Machine: {machine}.

| image | design | ms | images/s | times as fast as the paper's | as gated nets with masks |
|---|---|---|---|---|---|
{steps}

## Memory against depth

MiB by which the gradient of one batch of {batch} (of 64x64: a quarter of that) raises the peak of the process above
flow, gradients and batch (Linux): with everything kept, and with `memory="recompute"`; and what the parameters take.

| couplings | {sizes} |
|---|{rule}|
{memories}
"""


def main() -> None:
    """Measure, then write the page; ``--memory`` measures that alone, and prints it."""
    if "--memory" in sys.argv:
        print("\n".join(memories()))
        return
    torch.set_num_threads(2)
    lines = [line for shape in SHAPES for line in steps(shape)]
    sizes = ["x".join(map(str, shape)) + word for shape in SHAPES for word in (" kept", " checkpointed", " parameters")]
    text = PAGE.format(
        batch=BATCH,
        machine=machine(),
        steps="\n".join(lines),
        sizes=" | ".join(sizes),
        rule="|".join("---" for _ in sizes),
        memories="\n".join(memories()),
    )
    (Path(__file__).parent / "IMAGES.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
