"""Training steps of image flows: their time, compared with masks at full resolution, and their memory by depth.

    python benchmarks/image_speed.py

Writes benchmarks/IMAGES.md. Interleaved in one run: read the ratios.
"""

import json
import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

import flowstone
from flowstone.execution import bf16_conditioners, checkpointed
from flowstone.kernels import kernels
from measure import Spread, interleaved, machine, peak_growth, ratios, run_alone
from plain import PlainImages

BATCH, SHAPES = 64, ((1, 28, 28), (3, 32, 32), (3, 64, 64))  # fit's own batch for images
RUNS = 15
DEPTHS = (8, 16, 32, 64)
PAPER, MASKS = "the paper's: residual nets, masks", "gated nets, masks"
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {  # settings of realnvp_image, how it is run
    PAPER: ({"preset": "faithful", "widening": False}, {}),
    "modern, bf16 nets": ({}, {"bf16": True}),
    "modern": ({}, {}),
    "modern, bf16 nets, plain splines": ({}, {"bf16": True, "fused": False}),
    "modern, bf16 nets, recomputed": ({}, {"bf16": True, "checkpoint": True}),
    "modern, bf16 nets, affine": ({"transform": "affine"}, {"bf16": True}),
}


def stepper(
    flow: torch.nn.Module, x: torch.Tensor, *, bf16: bool = False, fused: bool = True, checkpoint: bool = False
):
    """A function that takes one training step."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with ExitStack() as stack:
            stack.enter_context(kernels(fused))
            if bf16:
                stack.enter_context(bf16_conditioners(flow))
            if checkpoint:
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
        spread = Spread.of(spent)
        cells = [size, name, f"{spread:.0f}", f"{1e3 * BATCH / spread.median:.0f}"]
        cells += [f"{ratios(times[design], spent).median:.2f}" for design in (PAPER, MASKS)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def gradient_growth(couplings: int, memory: str, shape: tuple[int, int, int]) -> None:
    """Print by how many MiB one gradient raises the peak of the process, and how many parameters the flow has."""
    torch.manual_seed(0)
    batch = BATCH if shape[-1] < 64 else BATCH // 4
    x = torch.randint(256, (batch, *shape), dtype=torch.uint8)
    flow = flowstone.realnvp_image(shape, couplings=couplings // 2 - 2, channels=32)
    flow.initialize(x[:8])
    for parameter in flow.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def gradient(rows: torch.Tensor) -> None:
        with checkpointed(flow) if memory == "recompute" else nullcontext():
            (-flow.log_prob(rows).mean()).backward()

    gradient(x[:2])  # torch's checkpoint loads more of torch when it is first called
    print(json.dumps([round(peak_growth(lambda: gradient(x))), sum(p.numel() for p in flow.parameters())]))


def peak(couplings: int, memory: str, shape: tuple[int, int, int]) -> tuple[int, int]:
    """What ``gradient_growth`` prints in a process of its own."""
    growth, parameters = run_alone(__file__, "memory", couplings, memory, *shape)
    return growth, parameters


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

The time of one training step (forward, backward, Adam) on a batch of {batch}: 2 scales, with 3 + 3 couplings and with
4, 32 channels, 2 blocks. The modern preset of `realnvp_image` is compared with two designs whose nets see the whole
image with half of it masked, in float32: the faithful preset, which has the residual nets of RealNVP's paper, and the
modern preset's own gated nets (`benchmarks/plain.py`), both with affine couplings. Of the modern preset's variants,
*plain splines* has no fused kernel, *recomputed* has `memory="recompute"`, and *affine* has affine couplings in place
of splines. Medians (least – most) of interleaved runs in milliseconds, two threads. The last two columns say how many
times as fast a design is as each of the two masked ones: the median over neighbouring runs. Machine: {machine}.

| image | design | ms | images/s | times as fast as the paper's | as gated nets with masks |
|---|---|---|---|---|---|
{steps}

## Memory against depth

MiB by which computing the gradient of one batch of {batch} (for 64x64, a quarter of that) raises the peak memory of the
process above that of the flow, its gradients and the batch (Linux). *Kept*: all activations are kept; *recomputed*:
with `memory="recompute"`; *parameters*: the memory of the parameters.

| couplings | {sizes} |
|---|{rule}|
{memories}
"""


def main() -> None:
    """Measure, then write the page; ``--memory`` measures the memory alone, and prints it."""
    if sys.argv[1:2] == ["memory"]:
        couplings, memory, channels, height, width = sys.argv[2:]
        gradient_growth(int(couplings), memory, (int(channels), int(height), int(width)))
        return
    if "--memory" in sys.argv:
        print("\n".join(memories()))
        return
    torch.set_num_threads(2)
    lines = [line for shape in SHAPES for line in steps(shape)]
    sizes = ["x".join(map(str, shape)) + word for shape in SHAPES for word in (" kept", " recomputed", " parameters")]
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
