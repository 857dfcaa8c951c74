import copy
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch import nn

import flowstone
from flowstone.bijections import Affine, Chain, Coupling
from flowstone.data import TOYS, Rows
from flowstone.errors import CheckpointError, DataError, NonFiniteError, SettingError, ShapeError, UnknownNameError
from flowstone.execution import bf16_conditioners
from flowstone.nets import MLP
from flowstone.priors import StandardNormal
from flowstone.train import step as stepping
from flowstone.train.batches import generator, mirrored
from flowstone.train.history import History
from flowstone.train.optimizer import Optimizer
from flowstone.train.settings import Settings

QUICK: dict[str, Any] = {"progress": False, "batch_size": 64, "validate_every": 10}


def small(**kwargs) -> flowstone.Flow:
    torch.manual_seed(1)
    return flowstone.spline(2, couplings=2, hidden=(16,), **kwargs)


def weights(flow: flowstone.Flow) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in flow.state_dict().items()}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_learns():
    flow = flowstone.spline(2, couplings=2, hidden=(32,))
    history = flowstone.fit(flow, TOYS["moons"], steps=300, batch_size=256, progress=False)
    nll = flowstone.evaluate(flow, TOYS["moons"](4000, torch.Generator().manual_seed(9)))["nll_nats"]
    assert nll < 1.6  # a normal has 2.83, the entropy is 1.13
    assert history.best.val_nll == pytest.approx(nll, abs=0.1)
    assert history.column("step") == [0, 100, 200, 300]
    assert history.column("val_nll")[-1] < history.column("val_nll")[0]


def test_a_conditional_flow_uses_its_context():
    torch.manual_seed(0)
    context = torch.randn(2000, 1)
    x = 5 * context + 100 + 0.1 * torch.randn(2000, 1)
    flow = flowstone.realnvp(1, context_features=1, couplings=2, hidden=(16,))
    flowstone.fit(flow, x, context=context, steps=300, progress=False)
    assert flowstone.evaluate(flow, x, context)["nll_nats"] < 0  # without the context: above 3
    samples = flow.sample(500, torch.tensor([[0.0], [1.0]]), seed=0)
    assert samples.mean(0).flatten().tolist() == pytest.approx([100, 105], abs=0.5)


@pytest.mark.parametrize("data", [TOYS["moons"], torch.randn(500, 2, generator=torch.Generator().manual_seed(0))])
def test_the_same_seed_repeats_bit_for_bit(data):
    flows = []
    for _ in range(2):
        flow = small()
        torch.manual_seed(torch.seed())  # the global state does not matter once the flow is built
        flowstone.fit(flow, data, steps=40, seed=3, **QUICK)
        flows.append(weights(flow))
    assert same(*flows)
    other = small()
    flowstone.fit(other, data, steps=40, seed=4, **QUICK)
    assert not same(flows[0], weights(other))


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    ("fixed", "settings"),
    [
        (False, {}),
        (True, {}),
        (True, {"optimizer": "adamw", "weight_decay": 0.1}),
        (True, {"optimizer": "adamax"}),
    ],
)
def test_a_broken_off_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, fixed, settings):
    quick = QUICK | settings
    monkeypatch.setattr("flowstone.train.loop.SAVE_EVERY", 0.0)
    data = TOYS["moons"](300, torch.Generator().manual_seed(0)) if fixed else TOYS["moons"]
    validation = TOYS["moons"](200, torch.Generator().manual_seed(1))
    whole = small()
    history = flowstone.fit(whole, data, validation=validation, steps=80, **quick)

    steps_taken = 0
    with monkeypatch.context() as patch:
        original = Optimizer.step

        def step(self, *args, **kwargs):
            nonlocal steps_taken
            steps_taken += 1
            if steps_taken > 43:
                raise StopError
            return original(self, *args, **kwargs)

        patch.setattr(Optimizer, "step", step)
        with pytest.raises(StopError):
            flowstone.fit(small(), data, validation=validation, steps=80, resume=tmp_path, **quick)
    resumed = small()
    continued = flowstone.fit(resumed, data, validation=validation, steps=80, resume=tmp_path, **quick)
    assert same(weights(whole), weights(resumed))
    for name in ("step", "train_nll", "val_nll", "learning_rate", "grad_norm"):
        assert continued.column(name) == history.column(name)


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


def test_training_does_not_load_torchs_compiler():
    """It takes a second, as long as torch itself."""
    code = """
import sys, torch, flowstone
flowstone.fit(flowstone.nice(2, couplings=2, hidden=(8,)), torch.randn(100, 2), steps=3, progress=False)
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


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


def test_the_saved_state_holds_permutations_too(tmp_path):
    x = torch.randn(300, 5)
    flows = []
    for seed, steps in ((0, 30), (1, 30)):
        torch.manual_seed(seed)  # the second flow is built with other permutations and other weights
        flow = flowstone.realnvp(5, couplings=3, hidden=(8,))
        flowstone.fit(flow, x, steps=steps, resume=tmp_path, **QUICK)
        flows.append(flow)
    assert torch.equal(flows[0].log_prob(x), flows[1].log_prob(x))


def interrupting(after: int):
    """Moons, and Ctrl-C at the draw with that number."""
    count = 0

    def draw(n, generator):
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGINT)
        return TOYS["moons"](n, generator)

    return draw


def test_ctrl_c_keeps_the_best_weights_and_the_place(tmp_path):
    flow, whole, validation = small(), small(), TOYS["moons"](200, torch.Generator().manual_seed(1))
    settings: dict[str, Any] = {"steps": 100, "validation": validation, **QUICK}
    history = flowstone.fit(flow, interrupting(46), resume=tmp_path, **settings)
    assert history.stopped == "interrupted"
    assert history.records[-1].step == 40
    nll = -flow.log_prob(validation).mean().item()
    assert nll == pytest.approx(history.best.val_nll, abs=1e-5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    flowstone.fit(flow, TOYS["moons"], resume=tmp_path, **settings)
    flowstone.fit(whole, TOYS["moons"], **settings)
    assert same(weights(flow), weights(whole))


def test_a_state_of_another_flow_is_refused(tmp_path):
    flowstone.fit(small(), TOYS["moons"], steps=10, resume=str(tmp_path), **QUICK)
    with pytest.raises(CheckpointError, match="of another flow"):
        flowstone.fit(flowstone.nice(2), TOYS["moons"], steps=20, resume=tmp_path, **QUICK)


def test_patience_stops_and_the_best_weights_come_back():
    torch.manual_seed(0)
    x, validation = torch.randn(60, 2), torch.randn(500, 2)
    flow = flowstone.spline(2, hidden=(64, 64))
    history = flowstone.fit(
        flow, x, validation=validation, steps=3000, patience=5, validate_every=20, progress=False
    )  # fmt: skip
    assert history.stopped == "patience"
    assert history.records[-1].step == history.best.step + 100
    assert history.records[-1].val_nll > history.best.val_nll
    assert -flow.log_prob(validation).mean().item() == pytest.approx(history.best.val_nll, abs=1e-5)


class Poison(nn.Module):
    """A net that goes bad at its 25th step, or at every validation."""

    def __init__(self, net, *, when_training: bool = True):
        super().__init__()
        self.net, self.calls, self.when_training = net, 0, when_training

    def forward(self, x, context=None):
        self.calls += self.training
        bad = self.calls >= 25 if self.when_training else not self.training
        return self.net(x, context) * (float("nan") if bad else 1.0)


@pytest.mark.parametrize("look_every", [1, 7])  # as on an accelerator
def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(look_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", look_every)
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net)  # pyright: ignore
    with pytest.raises(NonFiniteError) as caught:
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    message = str(caught.value)
    assert "step 24: the loss is nan" in message
    assert "first bad output: bijection.links.2.net, Poison" in message
    assert "of step 20" in message
    assert all(p.isfinite().all() for p in flow.parameters())
    assert caught.value.history.best.step == 20


def test_a_bad_step_that_is_seen_later_and_does_not_come_again(monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", 7)
    flow = small()
    before = flow.bijection.links[2].net  # pyright: ignore

    class Once(nn.Module):
        calls = 0

        def forward(self, x, context=None):
            Once.calls += self.training
            return before(x, context) * (math.nan if Once.calls == 3 and self.training else 1.0)

    flow.bijection.links[2].net = Once()  # pyright: ignore
    with pytest.raises(
        NonFiniteError, match=r"step 2: the loss is nan \(seen 4 steps later, when it did not come again"
    ):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    assert all(p.isfinite().all() for p in flow.parameters())


def test_bf16_within_bf16_and_copies_made_there():
    flow, x = flowstone.realnvp(4, hidden=(64,)), torch.randn(50, 4)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact, nets = flow.log_prob(x), bf16_conditioners(flow)
    with nets:
        low = flow.log_prob(x)
        with nets:
            assert torch.equal(flow.log_prob(x), low)
        assert torch.equal(flow.log_prob(x), low)
        copied = copy.deepcopy(flow)
    assert torch.equal(flow.log_prob(x), exact)
    for parameter in flow.parameters():
        parameter.data.zero_()
    assert torch.equal(copied.log_prob(x), low)  # its own nets


@pytest.mark.parametrize("look_every", [1, 7])
def test_a_gradient_that_is_not_finite_is_found_before_it_spoils_the_weights(look_every, monkeypatch):
    monkeypatch.setitem(stepping.READ_EVERY, "cpu", look_every)
    flow = small()
    bad = flow.bijection.links[2].net.output.bias  # pyright: ignore
    bad.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(flow)
    with pytest.raises(NonFiniteError, match=r"step 0: the gradient is not finite .*bijection.links.2.net.output.bias"):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)
    after = weights(flow)
    assert all(torch.equal(before[name], after[name]) for name, _ in flow.named_parameters())


def test_the_same_training_however_often_it_is_looked_at(monkeypatch, tmp_path):
    outcomes = []
    for look_every in (1, 7):
        monkeypatch.setitem(stepping.READ_EVERY, "cpu", look_every)
        flow = small()
        history = flowstone.fit(flow, TOYS["moons"], steps=25, resume=tmp_path / str(look_every), **QUICK)
        outcomes.append((weights(flow), history.column("train_nll"), history.column("grad_norm")))
    assert same(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]


def test_a_resume_keeps_moments_though_some_parameter_never_had_a_gradient(tmp_path):
    def with_a_spare() -> flowstone.Flow:
        flow = small()
        flow.bijection.register_parameter("spare", nn.Parameter(torch.zeros(3)))
        return flow

    settings: dict[str, Any] = {**QUICK, "schedule": "constant", "warmup": 0.0}
    whole, parts = with_a_spare(), with_a_spare()
    flowstone.fit(whole, TOYS["moons"], steps=40, **settings)
    flowstone.fit(parts, TOYS["moons"], steps=20, resume=tmp_path, **settings)
    flowstone.fit(parts, TOYS["moons"], steps=40, resume=tmp_path, **settings)
    assert same(weights(whole), weights(parts))


def test_an_average_of_nothing_is_the_weights_themselves(monkeypatch):
    raw = {}
    original = Optimizer.step

    def step(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raw["last"] = torch.cat([array.detach() for array in self.arrays])

    monkeypatch.setattr(Optimizer, "step", step)
    for decay, same_as_raw in ((0.0, True), (0.9, False)):
        flow = small()
        flowstone.fit(flow, TOYS["moons"], steps=30, ema=decay, batch_size=64, validate_every=30, progress=False)
        numbers = torch.cat([p.detach().flatten() for p in flow.parameters()])  # in another order
        assert torch.equal(numbers.sort()[0], raw["last"].sort()[0]) == same_as_raw


def test_a_validation_that_is_not_finite_stops_the_training():
    flow = small()
    flow.bijection.links[2].net = Poison(flow.bijection.links[2].net, when_training=False)  # pyright: ignore
    with pytest.raises(NonFiniteError, match=r"step 0: the validation loss is nan .*Poison"):
        flowstone.fit(flow, TOYS["moons"], steps=100, **QUICK)


def test_even_a_training_of_no_time_is_validated():
    history = flowstone.fit(small(), TOYS["moons"], minutes=1e-9, **QUICK)
    assert history.column("step") == [0]


def test_a_small_set_is_validated_more_often():
    settings: dict[str, Any] = {"steps": 100, "batch_size": 32, "progress": False}
    assert flowstone.fit(small(), torch.randn(200, 2), **settings).column("step") == [0, 20, 40, 60, 80, 100]
    assert flowstone.fit(small(), torch.randn(12_000, 2), **settings).column("step") == [0, 100]
    assert flowstone.fit(small(), TOYS["moons"], **settings).column("step") == [0, 100]


def test_where_training_only_harms_the_start_is_the_best():
    flow = small()
    history = flowstone.fit(flow, torch.randn(500, 2), validation=torch.randn(500, 2), steps=60, lr=1.0, **QUICK)
    assert history.best.step == 0
    assert history.records[0].train_nll == pytest.approx(history.records[0].val_nll, abs=0.3)
    assert -flow.log_prob(torch.zeros(1, 2)).item() == pytest.approx(math.log(2 * math.pi), abs=0.3)  # the identity


def test_validation_leaves_the_sampler_s_randomness_alone():
    drawn = []

    def draw(n, generator):
        drawn.append(torch.randn(n, 2))  # from the global state, as users do
        return drawn[-1]

    flowstone.fit(small(), draw, steps=40, validate_every=10, batch_size=16, progress=False)
    assert len({rows[0, 0].item() for rows in drawn}) == len(drawn)


def test_dropout_is_for_tiny_sets_and_for_training_alone():
    seen = []

    class Watched(nn.Dropout):
        def forward(self, input):
            seen.append((self.training, self.p))
            return super().forward(input)

    def trained(rows: int, **settings):
        seen.clear()
        torch.manual_seed(1)
        flow = flowstone.spline(3, couplings=1, hidden=(8,))
        layer = next(module for module in flow.modules() if isinstance(module, nn.Dropout))
        layer.__class__ = Watched
        flowstone.fit(flow, torch.randn(rows, 3), steps=5, batch_size=32, progress=False, **settings)
        assert layer.p == 0.0
        return weights(flow), {p for training, p in seen if training}

    once, rates = trained(200)
    twice, _ = trained(200)
    assert rates == {0.2}
    assert all(torch.equal(once[name], twice[name]) for name in once)  # the noise follows from the seed
    assert trained(3000)[1] == {0.0}
    assert trained(200, dropout=0.4)[1] == {0.4}


def test_the_last_steps_are_validated_and_the_flow_is_left_ready_to_use():
    flow = small()
    history = flowstone.fit(flow, TOYS["moons"], steps=25, **QUICK)
    assert history.column("step") == [0, 10, 20, 25]
    assert not flow.training


def test_a_net_that_two_couplings_share_leaves_bf16_behind():
    net = MLP(2, 4, hidden=(8,))
    links = [Coupling(4, Affine(2, scale="soft"), net, swap=swap) for swap in (False, True)]
    flow = flowstone.Flow(Chain(*links), StandardNormal(4))
    x = torch.randn(5, 4)
    with bf16_conditioners(flow):
        inside = flow.log_prob(x)
    assert not torch.is_autocast_enabled("cpu")
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, flow.log_prob(x), atol=0.05, rtol=0.05)


def test_a_flow_with_nothing_to_train_is_refused():
    flow = small().requires_grad_(False)
    with pytest.raises(SettingError, match="no parameters to train"):
        flowstone.fit(flow, torch.randn(50, 2), steps=1, progress=False)


def test_bf16_conditioners_learn_and_leave_no_trace():
    flow = small()
    flowstone.fit(flow, TOYS["moons"], steps=30, precision="bf16", **QUICK)
    x = torch.randn(10, 2)
    assert flow.log_prob(x).dtype == torch.float32
    torch.testing.assert_close(flow.from_latent(flow.to_latent(x)[0])[0], x, atol=1e-4, rtol=0)
    net = flow.bijection.links[2].net  # pyright: ignore
    assert "forward" not in vars(net)


def test_bf16_changes_the_nets_alone():

    flow = flowstone.realnvp(4, hidden=(64,))
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(200, 4)
    exact = flow.log_prob(x)
    with bf16_conditioners(flow):
        low = flow.log_prob(x)
        z, log_det = flow.to_latent(x)
    assert low.dtype == z.dtype == log_det.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, atol=0.2, rtol=0.05)
    with bf16_conditioners(flow):  # the same low-precision nets both ways: the round trip is still that of float32
        torch.testing.assert_close(flow.from_latent(z)[0], x, atol=1e-3, rtol=1e-3)


def test_minutes_end_a_training():
    started = time.monotonic()
    history = flowstone.fit(small(), TOYS["moons"], steps=None, minutes=0.03, patience=None, **QUICK)
    assert history.stopped == "finished"
    assert time.monotonic() - started < 20
    assert history.column("learning_rate")[-1] < 1e-3  # near the end of the cosine, by the clock


def test_learning_rate_warms_up_and_falls_to_zero():
    settings = Settings(lr=1.0, warmup=0.1).for_data((2,), math.inf)
    rates = [settings.learning_rate(i / 100) for i in range(101)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_threads_are_given_back():
    torch.set_num_threads(2)
    try:
        flowstone.fit(small(), TOYS["moons"], steps=5, **QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_bad_arguments_are_named():
    x = torch.randn(50, 2)
    with pytest.raises(SettingError, match="steps=0 must be a whole number, at least 1"):
        flowstone.fit(small(), x, steps=0)
    with pytest.raises(SettingError, match=r"ema=1.0"):
        flowstone.fit(small(), x, ema=1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        flowstone.fit(small(), x, precision="fb16")
    with pytest.raises(ShapeError, match=r"expected a context of shape \(50, 1\), got \(3, 1\)"):
        flowstone.fit(small(context_features=1), x, context=torch.zeros(3, 1))
    with pytest.raises(ShapeError, match=r"expected shape \(batch, 2\)"):
        flowstone.fit(small(), torch.randn(50, 3), progress=False)
    with pytest.raises(SettingError, match=r"data is a ndarray: give a torch\.Tensor"):
        flowstone.fit(small(), x.numpy())  # pyright: ignore
    with pytest.raises(SettingError, match="fresh data has no context"):
        flowstone.fit(small(), TOYS["moons"], context=torch.zeros(3, 1))
    with pytest.raises(SettingError, match="seed=-1"):
        flowstone.fit(small(), x, seed=-1)
    with pytest.raises(SettingError, match="steps=None needs minutes"):
        flowstone.fit(small(), x, steps=None)
    with pytest.raises(DataError, match="validation: row 0, feature 0 is inf"):
        flowstone.fit(small(), x, validation=torch.full((3, 2), math.inf))
    with pytest.raises(DataError, match="at least 2 are needed"):
        flowstone.fit(small(), x[:1])
    x[7, 1] = float("nan")
    with pytest.raises(DataError, match="row 7, feature 1 is nan"):
        flowstone.fit(small(), x)


def test_history_goes_to_csv_and_back(tmp_path):
    history = flowstone.fit(small(), TOYS["moons"], steps=30, **QUICK)
    history.save(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().splitlines()[
        0
    ] == "step,seconds,train_nll,val_nll,learning_rate,grad_norm"
    assert list(History.load(tmp_path / "history.csv")) == list(history)


def test_flips_turn_half_of_the_images_and_repeat(tmp_path):
    x = torch.randint(256, (200, 1, 4, 4), dtype=torch.uint8)
    turned = mirrored(Rows(x), generator(0, 5)).x
    each = (turned == x.flip(-1)).flatten(1).all(-1)
    assert 60 < each.sum() < 140
    assert torch.equal(turned[~each], x[~each])

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


def test_bf16_images_are_handed_to_nets_with_the_channels_of_a_pixel_side_by_side():
    flow = flowstone.realnvp_image((1, 8, 8), couplings=1, channels=8, blocks=1)
    x = torch.randint(256, (3, 1, 8, 8))
    flow.initialize(x)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    net = next(module.net for module in flow.modules() if isinstance(module, Coupling))
    seen = []
    net.get_submodule("input").register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    exact = _with_noise(flow, x)
    with bf16_conditioners(flow):
        low = _with_noise(flow, x)
    assert [v.is_contiguous(memory_format=torch.channels_last) for v in seen] == [False, True]
    torch.testing.assert_close(low, exact, rtol=0.02, atol=0.5)


def _with_noise(flow, x):
    torch.manual_seed(0)
    return flow.log_prob(x)


def test_gradients_stay_where_they_are_in_memory():
    """Made anew in every step between larger arrays they would break it up, which then grows with a flow's depth."""
    places = []

    def watch(flow, history):
        places.append([p.grad.data_ptr() for p in flow.parameters()])

    flowstone.fit(small(), TOYS["moons"], steps=5, batch_size=64, validate_every=1, watch=watch, progress=False)
    assert len(places) == 6
    assert all(place == places[0] for place in places)


def test_after_training_each_parameter_has_memory_of_its_own():
    flow = small()
    flowstone.fit(flow, TOYS["moons"], steps=5, **QUICK)
    for parameter in flow.parameters():
        assert parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.nbytes


@torch.enable_grad()
def gradients_of_its_own(flow, history):
    flow.zero_grad(set_to_none=True)
    flow.log_prob(torch.zeros(1, 2)).sum().backward()


def moved_and_brought_back(flow, history):
    flow.double()
    assert flow.log_prob(torch.zeros(1, 2, dtype=torch.float64)).isfinite()
    flow.float()


@pytest.mark.parametrize("watch", [gradients_of_its_own, moved_and_brought_back])
def test_what_a_watch_does_to_the_flow_is_of_no_effect(watch):
    ends = []
    for watched in (None, watch):
        flow = small()
        flowstone.fit(flow, TOYS["moons"], steps=30, watch=watched, **QUICK)
        ends.append(weights(flow))
    assert same(*ends)


def test_a_net_may_put_its_own_values_elsewhere():
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1, 2))

        def forward(self, x, context=None):
            self.by.data = self.by.data.clamp(-0.02, 0.01)
            return self.by.expand(len(x), 2)

    net = Bounded()
    flow = flowstone.Flow(Chain(Coupling(2, Affine(1), net)), StandardNormal(2))
    far = torch.randn(500, 2) + torch.tensor([0.0, 3.0])  # to be drawn in and shifted down, further than is allowed
    flowstone.fit(flow, far, steps=60, lr=1e-3, ema=0.0, schedule="constant", patience=None, **QUICK)
    assert net.by.flatten().tolist() == pytest.approx([-0.02, -0.02], abs=0.002)  # and no more than the last step's


def test_steps_are_counted_in_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = Optimizer("adam", [torch.zeros(2)])
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.steps[0].dtype == torch.float32  # the kernels of GPUs read it as such


def test_parameters_of_two_precisions_are_trained():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

        def forward(self, x, context=None):
            return self.by.float().expand(len(x), 2)

    wide, usual = Shift(), MLP(1, 2)
    flow = flowstone.Flow(Chain(Coupling(2, Affine(1), wide), Coupling(2, Affine(1), usual)), StandardNormal(2))
    flowstone.fit(flow, TOYS["moons"], steps=20, **QUICK)
    assert wide.by.dtype == torch.float64
    assert wide.by.any()
    assert usual.output.bias.any()


def test_a_state_of_other_shapes_is_refused_though_it_has_as_many_numbers(tmp_path):
    def flow(*hidden):
        return flowstone.nice(2, couplings=2, hidden=hidden, activation="tanh")

    flowstone.fit(flow(3, 1), TOYS["moons"], steps=10, resume=tmp_path, **QUICK)
    one, other = (sum(p.numel() for p in flow(*hidden).parameters()) for hidden in ((3, 1), (1, 3)))
    assert one == other
    with pytest.raises(CheckpointError, match=r"another flow .* instead of"):
        flowstone.fit(flow(1, 3), TOYS["moons"], steps=20, resume=tmp_path, **QUICK)
