"""DistributedDataParallel and FSDP2 around a flow: two processes with half of the rows each train as one with all."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import sharded  # pyright: ignore[reportMissingImports]  # examples/sharded.py
import torch
from torch import nn

import flowstone
from flowstone.bijections import Interval, LogisticMixtureCDF, Positive, Rescale, Standardize, Whiten
from flowstone.mixed import MixedDensity

Module = TypeVar("Module", bound=nn.Module)

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

STEPS = 20
RECIPES = ("nice", "realnvp", "spline", "maf")


def a_flow(name: str) -> flowstone.Flow:
    torch.manual_seed(0)
    settings = {"layers": 2, "batch_norm": True} if name == "maf" else {"couplings": 2}
    flow = flowstone.recipes.build(name, {"features": 3, "context_features": 2, "hidden": (8,), **settings})
    x, context = rows()
    flow.initialize(x, context)
    return flow.double()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 5 * torch.randn(24, 3, generator=generator, dtype=torch.float64) + 1.7e9
    return x, torch.randn(24, 2, generator=generator, dtype=torch.float64) + 3


def steps(density: nn.Module, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Gradients of the first of three steps, which move the parameters."""
    optimizer = torch.optim.SGD(density.parameters(), lr=0.01)
    first = torch.empty(0)
    for step in range(3):
        optimizer.zero_grad()
        density(x, context).mean().neg().backward()
        if step == 0:
            first = torch.cat([full(p.grad).flatten() for p in density.parameters() if p.grad is not None])
        optimizer.step()
    return first


def full(value: torch.Tensor | None) -> torch.Tensor:
    """All of a tensor of which each process may hold a part."""
    assert value is not None
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # pyright: ignore[reportAttributeAccessIssue]


def process(rank: int, world: int, port: int, out: str) -> None:
    """What each of the processes runs."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    x, context = (part.chunk(world)[rank] for part in rows())
    results = {}
    for name in RECIPES:
        # Running averages are each process's own unless buffers are sent on: evaluation mode leaves them as they are.
        flow = a_flow(name).train(name != "maf")
        results[f"ddp {name}"] = steps(DistributedDataParallel(flow), x, context), flow.state_dict()
        flow = a_flow(name).train(name != "maf")
        fully_shard(flow)
        gradients = steps(flow, x, context)
        results[f"fsdp {name}"] = gradients, {key: full(value) for key, value in flow.state_dict().items()}
    flow = a_flow("maf").train()
    steps(DistributedDataParallel(flow), x, context)
    results["ddp running"] = torch.empty(0), flow.state_dict()
    results |= sharded_example(rank, world, Path(out) / "sharded")
    torch.distributed.barrier()
    torch.save(results, Path(out) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def sharded_example(rank: int, world: int, folder: Path) -> dict:
    """Train, refuse and save as ``examples/sharded.py`` and other uses of sharded flows do."""
    flow = sharded.build().double()
    sharded.shard(flow)
    loss = sharded.train(flow, STEPS, rank, world)
    said = []
    for refused in (lambda: flowstone.fit(flow, rows()[0][:, :2], steps=1), lambda: flowstone.save(flow, folder)):
        try:
            refused()
        except flowstone.errors.SettingError as error:
            said.append(str(error))
    assert len(said) == 2
    assert all("is sharded (a DTensor)" in words for words in said)
    assert not folder.exists()
    sharded.save(flow, folder)
    return {"sharded": loss}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    """The results of both processes."""
    out = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys, test_distributed_wrappers as t; t.process(int(sys.argv[1]), 2, int(sys.argv[2]), sys.argv[3])"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(port), str(out)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for running in processes:
        _, errors = running.communicate(timeout=300)
        assert running.returncode == 0, errors
    return [torch.load(out / f"{rank}.pt") | {"folder": out / "sharded"} for rank in range(2)]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_train_as_one(results, engine, name):
    flow = a_flow(name).train(name != "maf")
    gradients = steps(flow, *rows())
    for of_process in results:
        theirs, state = of_process[f"{engine} {name}"]
        torch.testing.assert_close(theirs, gradients, atol=1e-6, rtol=1e-6)
        for key, value in flow.state_dict().items():
            torch.testing.assert_close(state[key], value, atol=1e-6, rtol=1e-6)


def test_a_sharded_flow_trains_and_is_saved_as_a_whole_one(results):
    flow = sharded.build().double()
    sharded.train(flow, STEPS, 0, 1)
    loaded = flowstone.load(results[0]["folder"])
    for name, value in flow.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-9, atol=1e-9)


def test_running_averages_stay_finite_and_parameters_the_same(results):
    """DistributedDataParallel sends the buffers of the first process to the others before each forward pass."""
    (_, one), (_, other) = (of_process["ddp running"] for of_process in results)
    assert all(value.isfinite().all() for value in (*one.values(), *other.values()))
    before = a_flow("maf")
    assert all(torch.equal(one[name], other[name]) for name, _ in before.named_parameters())
    before = before.state_dict()
    moved = [key for key in one if key.endswith("variance") and not torch.equal(one[key], before[key])]
    assert moved


@pytest.mark.parametrize("make", [Standardize, Whiten])
def test_layers_built_without_memory_get_their_numbers_later(make):
    """On the meta device, then ``to_empty``, then a state: statistics stay in float64."""
    layer = make(3)
    layer.initialize(torch.randn(50, 3, dtype=torch.float64) + 1.7e9)
    with torch.device("meta"):
        empty = make(3)
    empty.to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    x = torch.randn(4, 3, dtype=torch.float64) + 1.7e9
    for one, other in zip(empty(x), layer(x), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(empty.inverse(torch.ones(2, 3))[0], layer.inverse(torch.ones(2, 3))[0])


@pytest.mark.parametrize(
    "make", [lambda: Interval(-1.0, 1.7e9), lambda: Rescale(-1.0, 1.7e9), lambda: Positive(low=1.7e9)]
)
def test_layers_with_borders_are_built_without_memory(make):
    with torch.device("meta"):
        empty = make()
    empty.to_empty(device="cpu")
    empty.load_state_dict(make().state_dict())
    assert empty.data_dtype == make().data_dtype


@pytest.mark.parametrize("name", ["spline", "maf"])
def test_a_flow_built_without_memory_gets_its_numbers_later(name):
    flow = a_flow(name).float()
    spec = flow.spec
    assert spec is not None
    empty = without_memory(lambda: flowstone.recipes.build(spec["recipe"], spec["arguments"]), flow)
    x, context = rows()
    assert torch.equal(empty.eval()(x, context), flow.eval()(x, context))


@pytest.mark.parametrize("order", ["any", "given"])
def test_a_mixed_density_built_without_memory_gets_its_numbers_later(order):
    columns = [{"name": "number", "rest": "real", "gaps": True}, {"name": "level", "atoms": [0, 1], "rest": None}]

    def make() -> MixedDensity:
        return flowstone.recipes.mixed(2, columns=columns, order=order, width=8, blocks=1, bins=4)

    x = torch.stack((torch.randn(50), torch.randint(2, (50,))), 1).double()
    density = make()
    density.initialize(x)
    empty = without_memory(make, density)
    assert torch.equal(empty.eval()(x), density.eval()(x))
    assert empty.with_gaps.tolist() == [True, False]


def test_gains_of_a_mixture_built_without_memory_are_set_later():
    transform = LogisticMixtureCDF(components=3)
    assert torch.equal(without_memory(lambda: LogisticMixtureCDF(components=3), transform).gains, transform.gains)


def without_memory(make: Callable[[], Module], original: Module) -> Module:
    """A module that is built on the device ``meta``, and then gets memory full of NaN or True, and a state."""
    with torch.device("meta"):
        module = make()

    def memory(value: torch.Tensor) -> torch.Tensor:
        return torch.full_like(value, torch.nan if value.is_floating_point() else 1, device="cpu")

    module._apply(memory)
    module.load_state_dict(original.state_dict())
    return module
