from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import flowstone
from flowstone.data import TOYS, Rows
from flowstone.errors import CheckpointError, SettingError, UnknownNameError
from flowstone.train.batches import generator, mirrored
from flowstone.train.optimizer import Optimizer
from training import QUICK, same, small, weights


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax"])
def test_optimizers_do_what_torchs_classes_do(name):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(n, generator=generator) for n in (5, 3)]
    theirs = [nn.Parameter(array.clone()) for array in ours]
    decays = [0.1, 0.0]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax}[name]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(theirs, decays, strict=True)]
    reference, optimizer = kind(groups, lr=0.1), Optimizer(name, ours, decays)
    for step in range(20):
        rate = 0.1 / (1 + step)
        for array, parameter in zip(ours, theirs, strict=True):
            array.grad = torch.randn(array.shape, generator=generator)
            parameter.grad = array.grad.clone()
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        optimizer.step(rate)
    for array, parameter in zip(ours, theirs, strict=True):
        torch.testing.assert_close(array, parameter.detach())
    assert optimizer.steps[0] == 20


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_where_infinity_was_found_nothing_changes(name):
    array = torch.ones(3)
    array.grad = torch.full((3,), torch.inf)
    optimizer = Optimizer(name, [array], [0.1])
    optimizer.step(0.1, torch.ones(()))
    assert array.tolist() == [1, 1, 1]
    assert not optimizer.steps[0]
    assert not any(moment.any() for moments in optimizer.moments.values() for moment in moments)
    array.grad = torch.ones(3)
    optimizer.step(0.1, torch.zeros(()))
    assert (array < 1).all()


def test_optimizers_differ():
    x = TOYS["moons"](300, torch.Generator().manual_seed(0))
    runs: tuple[dict[str, Any], ...] = ({}, {"optimizer": "adamw", "weight_decay": 0.5}, {"optimizer": "adamax"})
    ends = []
    for settings in runs:
        flow = small()
        flowstone.fit(flow, x, steps=5, **QUICK, **settings)
        ends.append(torch.cat([p.flatten() for p in flow.parameters()]))
    assert all(not torch.equal(ends[0], other) for other in ends[1:])
    assert ends[1].norm() < ends[0].norm()  # decayed
    with pytest.raises(UnknownNameError, match="did you mean 'adamax'"):
        flowstone.fit(small(), x, steps=1, optimizer="adamx", **QUICK)
    with pytest.raises(SettingError, match=r"weight_decay=0\.1 is for optimizer='adamw', not 'adam'"):
        flowstone.fit(small(), x, steps=1, weight_decay=0.1, **QUICK)
    with pytest.raises(SettingError, match="scale_penalty is a part of the loss"):
        flowstone.fit(small(), x, steps=1, optimizer="adamw", scale_penalty=0.1, **QUICK)


def test_steps_are_counted_in_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = Optimizer("adam", [torch.zeros(2)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.steps[0].dtype == torch.float32  # the kernels of GPUs read it as such


def test_the_penalty_keeps_scales_small_and_nothing_else():
    x = torch.randint(256, (64, 1, 4, 4), dtype=torch.uint8)
    sums: dict[float, list[float]] = {}
    for penalty in (0.0, 100.0):
        torch.manual_seed(0)
        flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1, preset="faithful")
        flowstone.fit(flow, x, validation=x, steps=60, lr=5e-3, ema=0.9, scale_penalty=penalty, progress=False)
        named = [(name, parameter.abs().sum().item()) for name, parameter in flow.named_parameters()]
        scales = sum(size for name, size in named if name.endswith(("factor", "original0")))
        sums[penalty] = [scales, sum(size for name, size in named if name.endswith("original1"))]
    assert sums[100.0][0] < 0.8 * sums[0.0][0]
    assert sums[100.0][1] == pytest.approx(sums[0.0][1], rel=0.2)


def test_dropout_is_for_tiny_sets_and_for_training_alone():
    seen = []

    class Recording(nn.Dropout):
        def forward(self, input):
            seen.append((self.training, self.p))
            return super().forward(input)

    def trained(rows: int, **settings):
        seen.clear()
        torch.manual_seed(1)
        flow = flowstone.spline(3, couplings=1, hidden=(8,))
        layer = next(module for module in flow.modules() if isinstance(module, nn.Dropout))
        layer.__class__ = Recording
        flowstone.fit(flow, torch.randn(rows, 3), steps=5, batch_size=32, progress=False, **settings)
        assert layer.p == 0.0
        return weights(flow), {p for training, p in seen if training}

    once, rates = trained(200)
    twice, _ = trained(200)
    assert rates == {0.2}
    assert all(torch.equal(once[name], twice[name]) for name in once)  # the noise follows from the seed
    assert trained(3000)[1] == {0.0}
    assert trained(200, dropout=0.4)[1] == {0.4}


def test_flips_turn_half_of_the_images_and_repeat(tmp_path):
    x = torch.randint(256, (200, 1, 4, 4), dtype=torch.uint8)
    flipped = mirrored(Rows(x), generator(0, 5)).x
    each = (flipped == x.flip(-1)).flatten(1).all(-1)
    assert 60 < each.sum() < 140
    assert torch.equal(flipped[~each], x[~each])

    def weights(**settings):
        torch.manual_seed(0)
        flow = flowstone.realnvp_image((1, 4, 4), channels=4, blocks=1, couplings=1)
        flowstone.fit(flow, x, steps=6, batch_size=16, progress=False, **settings)
        return flow.state_dict()

    plain, once, twice = weights(), weights(flip=True), weights(flip=True)
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert any(not torch.equal(once[name], plain[name]) for name in once)
    with pytest.raises(SettingError, match="flip=True mirrors images"):
        flowstone.fit(flowstone.nice(2), torch.randn(50, 2), steps=1, flip=True, progress=False)


class Sluggish(torch.optim.Optimizer):
    """Keeps numbers and a double-precision mean beside the parameters, and a number for all of them."""

    def __init__(self, parameters, lr=0.1, betas=(0.9, 0.5)):
        super().__init__(parameters, {"lr": lr, "betas": betas, "norm": 1.0})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            assert isinstance(group["betas"], tuple)
            group["norm"] = 0.5 * group["norm"] + 1e-3
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                mean = state.setdefault("mean", torch.zeros_like(parameter, dtype=torch.float64))
                assert mean.dtype == torch.float64
                mean.lerp_(parameter.grad.double(), group["betas"][1])
                parameter.sub_(group["lr"] * (mean * group["norm"] / state["count"]).float())


class Secretive(torch.optim.SGD):
    def state_dict(self):
        return super().state_dict() | {"secret": object()}


@pytest.mark.parametrize(
    "factory",
    [
        partial(torch.optim.SGD, momentum=0.9),
        torch.optim.SGD,
        torch.optim.NAdam,
        partial(torch.optim.AdamW, weight_decay=0.1, amsgrad=True),
        torch.optim.Adafactor,
        torch.optim.Rprop,
        Sluggish,
    ],
)
def test_a_factory_makes_the_optimizer_and_a_resume_is_exact(tmp_path, factory):
    settings: dict[str, Any] = {**QUICK, "optimizer": factory, "schedule": "constant", "warmup": 0.0, "lr": 1e-3}
    start, uninterrupted, resumed = small(), small(), small()
    flowstone.fit(uninterrupted, TOYS["moons"], steps=40, **settings)
    flowstone.fit(small(), TOYS["moons"], steps=20, resume=tmp_path, **settings)
    flowstone.fit(resumed, TOYS["moons"], steps=40, resume=tmp_path, **settings)
    assert same(weights(uninterrupted), weights(resumed))
    assert not same(dict(start.named_parameters()), dict(uninterrupted.named_parameters()))


def test_a_factory_optimizer_does_what_it_does_in_a_loop_by_hand():
    x = TOYS["moons"](64, torch.Generator().manual_seed(0))
    ours, theirs = small(), small()
    history = flowstone.fit(
        ours, x, validation=x, optimizer=partial(torch.optim.SGD, momentum=0.9), schedule="constant", warmup=0.0,
        lr=0.01, steps=10, ema=0.0, dropout=0.0, clip=1e9, batch_size=64, validate_every=10, progress=False,
    )  # fmt: skip
    assert history.best.step == 10
    theirs.initialize(x)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        (-theirs(x).mean()).backward()
        optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_state_that_cannot_be_written_is_not_resumed(tmp_path):
    flowstone.fit(small(), TOYS["moons"], steps=20, optimizer=Secretive, resume=tmp_path, **QUICK)
    with pytest.raises(CheckpointError, match=r"the state of Secretive could not be written: .*not JSON serializable"):
        flowstone.fit(small(), TOYS["moons"], steps=40, optimizer=Secretive, resume=tmp_path, **QUICK)


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    sgd = torch.optim.SGD
    flowstone.fit(small(), TOYS["moons"], steps=10, optimizer=sgd, resume=tmp_path / "sgd", **QUICK)
    flowstone.fit(small(), TOYS["moons"], steps=10, resume=tmp_path / "adam", **QUICK)
    for folder, optimizer, said in (
        ("sgd", torch.optim.NAdam, "SGD instead of NAdam"),
        ("sgd", "adam", "SGD instead of adam"),
        ("adam", sgd, "adam instead of SGD"),
        ("adam", "adamw", "adam instead of adamw"),
    ):
        with pytest.raises(CheckpointError, match=f"of another optimizer: {said}"):
            flowstone.fit(small(), TOYS["moons"], steps=20, optimizer=optimizer, resume=tmp_path / folder, **QUICK)


def test_what_a_factory_may_not_make_is_refused():
    with pytest.raises(SettingError, match=r"the factory returned a list, not a torch\.optim\.Optimizer"):
        flowstone.fit(small(), TOYS["moons"], steps=5, optimizer=list, **QUICK)
    with pytest.raises(SettingError, match="LBFGS evaluates the loss itself"):
        flowstone.fit(small(), TOYS["moons"], steps=5, optimizer=torch.optim.LBFGS, **QUICK)
    with pytest.raises(SettingError, match=r"weight_decay=0\.1 is for optimizer='adamw', not SGD"):
        flowstone.fit(small(), TOYS["moons"], steps=5, optimizer=torch.optim.SGD, weight_decay=0.1, **QUICK)


def test_the_penalty_works_with_a_factory_too():
    def factors(penalty: float) -> float:
        torch.manual_seed(0)
        flow = flowstone.realnvp(2, couplings=2, hidden=(8,))
        flowstone.fit(flow, TOYS["moons"], optimizer=torch.optim.SGD, scale_penalty=penalty, steps=40, lr=0.01, **QUICK)
        return sum(p.abs().sum().item() for name, p in flow.named_parameters() if name.endswith("factor"))

    assert factors(5.0) < 0.5 * factors(0.0)
