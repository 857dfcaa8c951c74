"""A flow whose parameters are shared out over processes (FSDP2), for one that does not fit into one device.

    torchrun --nproc-per-node 2 examples/sharded.py --out sharded

Each process holds a part of every parameter, of its gradient and of the optimizer's state. The parameters of a layer
are gathered while it runs. At the end process 0 writes the whole weights, which ``flowstone.load`` reads.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

import flowstone
from flowstone.bijections import Conditioned
from flowstone.data import TOYS

BATCH = 512  # rows of a step, over all processes


def build() -> flowstone.Flow:
    """The flow, the same in every process, with what depends on data set from the same rows."""
    torch.manual_seed(0)
    flow = flowstone.spline(2, couplings=4, hidden=(32, 32))
    flow.initialize(TOYS["moons"](10_000, torch.Generator().manual_seed(0)))
    return flow


def shard(flow: flowstone.Flow) -> None:
    """Share out the parameters: those of each net by themselves, then all others."""
    for layer in [layer for layer in flow.modules() if isinstance(layer, Conditioned)]:
        fully_shard(layer.net)
    fully_shard(flow)


def train(flow: flowstone.Flow, steps: int, rank: int, size: int) -> float:
    """Maximum likelihood on fresh moons, of which each process takes every ``size``-th row; returns the last loss."""
    optimizer, loss = torch.optim.Adam(flow.parameters(), lr=2e-3), torch.zeros(())
    for step in range(steps):
        rows = TOYS["moons"](BATCH, torch.Generator().manual_seed(step + 1))[rank::size]
        loss = -flow(rows.to(flow.device)).mean()  # flow(x), not flow.log_prob(x): calling it gathers the parameters
        optimizer.zero_grad()
        loss.backward()  # the gradient is the mean of those of the processes
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
    return loss.item()


def save(flow: flowstone.Flow, folder: Path) -> None:
    """Gather the weights in the memory of process 0, which writes them."""
    weights = get_model_state_dict(flow, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        assert flow.spec is not None
        whole = flowstone.recipes.build(flow.spec["recipe"], flow.spec["arguments"]).to(flow.dtype)
        whole.load_state_dict(weights)
        flowstone.save(whole, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps (default 300)")
    parser.add_argument("--out", type=Path, default=Path("sharded"), help="folder to write to (default sharded)")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    flow = build()
    shard(flow)
    loss = train(flow, options.steps, dist.get_rank(), dist.get_world_size())
    save(flow, options.out)
    if dist.get_rank() == 0:
        print(f"loss of the last step, of the rows of process 0: {loss:.4f} nats; the weights are in {options.out}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
