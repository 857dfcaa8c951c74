"""Training in several processes: each test starts two that are joined by gloo."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowstone
from flowstone.bijections.noise import uniform_like
from flowstone.data import Rows
from flowstone.errors import SettingError
from flowstone.train.held_out import HeldOut
from flowstone.train.processes import Processes
from flowstone.train.step import Stepper
from together import curves, images, resumed, run_two

SETTINGS = {"steps": 40, "batch_size": 64, "validate_every": 10, "progress": False}


def assert_identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What three trainings leave in each of two processes, which are started once; and their folder."""
    folder = tmp_path_factory.mktemp("two")
    resumed(40, folder / "of one")
    first, second = run_two(
        folder,
        """
        results = {}

        watched = []
        flowstone.fit(flowstone.nice(2), x, steps=1, progress=False, watch=lambda *_: watched.append(1))
        assert len(watched) == (2 if rank == 0 else 0)
        torch.manual_seed(rank)  # each process builds a flow with other weights, and all train that of the first
        flow = flowstone.spline(2, couplings=2, hidden=(8,))
        flowstone.fit(flow, x, steps=2, progress=False)
        other_start = {f"other start/{name}": value for name, value in flow.state_dict().items()}
        results["curves"] = together.curves() | other_start

        images = torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
        history = flowstone.fit(flow, images, steps=6, batch_size=10, flip=True, validate_every=3, progress=False)
        results["noise"] = flow.state_dict()
        table = flowstone.maf(2, layers=2, hidden=(8,), batch_norm=True)
        flowstone.fit(table, x, minutes=0.02, dropout=0.2, resume=f"{folder}/resume", steps=80, progress=False)
        results["noise"] |= {f"table.{name}": tensor for name, tensor in table.state_dict().items()}

        together.resumed(40, f"{folder}/of two")
        two = together.resumed(80, f"{folder}/of two, continued")
        half = together.resumed(40, f"{folder}/of two, continued again")
        results["resumed"] = {
            f"{name}.{i}": tensor
            for i, state in enumerate((
                two, together.resumed(80, f"{folder}/of two, continued again"), together.resumed(80, f"{folder}/of one")
            ))
            for name, tensor in state.items()
        }
        result = {f"{of}: {name}": tensor for of, each in results.items() for name, tensor in each.items()}
        """,
    )

    def part(of: str) -> list[dict[str, torch.Tensor]]:
        begin = f"{of}: "
        return [
            {name.removeprefix(begin): tensor for name, tensor in each.items() if name.startswith(begin)}
            for each in (first, second)
        ]

    return part, folder


def test_two_processes_have_the_loss_curves_of_one(of_two):
    first, second = of_two[0]("curves")
    assert_identical(first, second)
    one = curves()
    assert one.keys() == {name for name in first if not name.startswith("other start/")}
    for name, values in one.items():
        exact = 1e-5 if name.startswith("float32") else 1e-10
        if name.endswith(("/train", "/val")):
            assert len(values) == 4
            torch.testing.assert_close(first[name], values, rtol=exact, atol=0, msg=lambda text, n=name: f"{n}: {text}")
        else:
            torch.testing.assert_close(first[name], values, rtol=1e-6, atol=1e-5 if exact > 1e-9 else 1e-9)


def test_noise_and_running_statistics_leave_the_processes_equal(of_two):
    first, second = of_two[0]("noise")
    assert first
    assert_identical(first, second)


def test_a_state_is_continued_by_another_number_of_processes(of_two, tmp_path):
    part, folder = of_two
    first, second = part("resumed")
    assert_identical(first, second)
    whole = resumed(80, tmp_path / "whole")
    continued = resumed(80, folder / "of two")
    for name, tensor in whole.items():
        assert torch.equal(first[f"{name}.0"], first[f"{name}.1"])
        for other in (first[f"{name}.0"], first[f"{name}.2"], continued[name]):
            torch.testing.assert_close(other, tensor, rtol=1e-9, atol=1e-10)


def test_what_is_wrong_in_one_process_ends_the_others(tmp_path):
    run_two(
        tmp_path,
        """
        import time
        from pathlib import Path

        import pytest

        from flowstone.bijections import Bijection, Chain
        from flowstone.errors import DataError, FlowstoneError, NonFiniteError, ProcessLostError, SettingError
        from flowstone.files import read_tensors

        nice, processes = flowstone.nice(2), Processes()
        with pytest.raises(SettingError, match=r"their rows and settings differ: \\[\\(450, 50"):
            flowstone.fit(nice, x[: 500 + rank], steps=5, progress=False)
        with pytest.raises(SettingError, match="their rows and settings differ"):
            flowstone.fit(nice, x + rank, steps=5, progress=False)
        with pytest.raises(SettingError, match="a batch of 1 row.s. cannot be shared by 2 processes"):
            flowstone.fit(nice, x, batch_size=1, steps=5, progress=False)
        with pytest.raises(SettingError, match="fit_to_density works in one process, and here are 2"):
            flowstone.fit_to_density(nice, lambda x: -x.square().sum(-1))

        def fail_in(number, error):
            if rank == number:
                raise error
            return rank

        with pytest.raises(DataError if rank else FlowstoneError, match="^no file" if rank else "^process 1: no file"):
            processes.together(lambda: fail_in(1, DataError("no file")))
        with pytest.raises(FlowstoneError if rank else KeyError, match="'a'"):
            processes.from_first(lambda: fail_in(0, KeyError("a")))
        assert processes.together(lambda: rank) == rank
        assert processes.from_first(lambda: f"of {rank}") == "of 0"

        class Root(Bijection):
            # It has no number for a row of the part that process 1 takes of a batch.

            def __init__(self):
                super().__init__(2)
                self.shift = torch.nn.Parameter(torch.zeros(2))

            def forward(self, x, context=None):
                z = torch.where((x[:, :1] > 50) & self.training, (-x).sqrt(), x)
                return z + self.shift, x.new_zeros(len(x))

            def inverse(self, z, context=None):
                return z - self.shift, z.new_zeros(len(z))

        rows = x[:64].clone()
        rows[40] = 99.0
        flow = flowstone.Flow(Chain(Root()), flowstone.priors.StandardNormal(2))
        with pytest.raises(NonFiniteError, match=r"first bad output: bijection.links.0, Root; rows 41\\)"):
            flowstone.fit(
                flow, rows, validation=x[64:], batch_size=64, steps=5, recoveries=0, progress=False,
                resume=f"{folder}/kept",
            )
        if rank == 0:
            (kept,) = Path(folder, "kept", "not-finite").iterdir()
            assert torch.equal(read_tensors(kept)[0]["x"], rows)

        dist.destroy_process_group()  # and one that does not answer is not waited for without end
        address, limit = f"file://{folder}/again", timedelta(seconds=1)
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=limit)
        processes.together(lambda: None)
        if rank == 0:
            with pytest.raises(ProcessLostError, match="process 0 of 2: another process has ended, or does not answer"):
                processes.add([torch.ones(3)])
        else:
            time.sleep(1.5)
        result = {}
        """,
    )


@pytest.mark.parametrize("train", [flowstone.fit, flowstone.fit_to_density])
def test_processes_that_are_not_joined_are_refused(monkeypatch, train):
    flow = flowstone.nice(2)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match=r"one of 2 processes .* not joined: each would train a flow of its own"):
        train(flow, lambda n, g=None: torch.ones(n, 2), steps=1)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.parametrize(("n", "size"), [(10, 3), (4, 4), (64, 2), (7, 1)])
def test_the_parts_of_a_batch_are_all_of_it(n, size):
    rows = []
    for rank in range(size):
        processes = Processes()
        processes.rank, processes.size = rank, size
        part = list(range(n))[processes.part(n)]
        assert part
        rows += part
    assert rows == list(range(n))


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_process_draws_by_itself_is_apart_from_the_noise_of_the_whole_batch(rank):
    processes = Processes()
    processes.rank, processes.size = rank, 2
    stepper: Any = SimpleNamespace(
        stochastic=True, settings=SimpleNamespace(seed=0), device=torch.device("cpu"), processes=processes
    )
    with torch.random.fork_rng([]):
        Stepper._seed_noise(stepper, 3)
        own = torch.rand(2, 5)
    with Stepper._noise_of_joint_batch(stepper, 3, total=4):
        assert not torch.equal(uniform_like(own), own)


def of_rank(rank: int, size: int) -> Any:
    """The processes as one of them sees them; what it adds it adds to nothing."""
    return SimpleNamespace(rank=rank, size=size, add=lambda tensors: None)


def validated(density: Any, rows: Rows, size: int) -> list[torch.Tensor]:
    found = []
    for rank in range(size):
        held_out = HeldOut(density, rows, 0, of_rank(rank, size))
        held_out.nll()
        found.append(held_out.latest)
    return found


@given(n=st.integers(1, 40_000), size=st.integers(1, 5))
def test_each_row_is_validated_once_and_bit_for_bit_as_by_one_process(n, size):
    flow = flowstone.nice(2, couplings=1, hidden=(4,)).eval()
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(n))
    parts = validated(flow, Rows(x), size)
    with torch.no_grad():
        alone = flow.log_prob(x).double()
    assert torch.equal(torch.stack([part != 0 for part in parts]).sum(0), torch.ones(n))
    assert torch.equal(torch.stack(parts).sum(0), alone)


@pytest.mark.parametrize("size", [2, 3])
def test_noise_of_validation_does_not_depend_on_the_number_of_processes(size):
    x = images(20_000)
    flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
    flow.initialize(x[:100])
    flow.eval()
    assert flow.rows_at_once * 2 < len(x)
    (alone,) = validated(flow, Rows(x), 1)
    assert torch.equal(torch.stack(validated(flow, Rows(x), size)).sum(0), alone)
    assert len(alone.unique()) > math.sqrt(len(x))
