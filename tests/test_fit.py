import math
import subprocess
import sys
import time
from typing import Any

import pytest
import rich.progress
import torch
from torch import nn

import flowstone
from flowstone.data import TOYS
from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.execution import thread_count
from flowstone.train.history import History
from flowstone.train.optimizer import Optimizer
from flowstone.train.settings import Settings
from training import QUICK, same, small, weights


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


def test_training_does_not_load_torchs_compiler():
    """It takes a second, as long as torch itself."""
    code = """
import sys, torch, flowstone
flowstone.fit(flowstone.nice(2, couplings=2, hidden=(8,)), torch.randn(100, 2), steps=3, progress=False)
print("torch._dynamo" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.filterwarnings("ignore:validation has not moved")
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


def test_weights_with_running_statistics_are_not_averaged():
    for flow in (
        flowstone.realnvp(2, couplings=2, hidden=(8,), batch_norm=True),
        flowstone.realnvp_image((1, 4, 4), preset="faithful", channels=4, blocks=1, couplings=1, scales=1),
    ):
        assert Settings().for_data(flow.event_shape, math.inf, flow.training_settings(math.inf)).ema == 0
        assert Settings(ema=0.9).for_data(flow.event_shape, 500, flow.training_settings(500)).ema == 0.9
    assert not small().training_settings(math.inf)


def test_a_flow_with_running_statistics_is_as_good_on_validation_as_in_training():
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, couplings=4, hidden=(32,), batch_norm=True)
    history = flowstone.fit(flow, TOYS["moons"], steps=300, validate_every=300, progress=False)
    assert history.column("val_nll")[-1] < history.column("train_nll")[-1] + 0.15


def test_even_a_training_of_no_time_is_validated():
    history = flowstone.fit(small(), TOYS["moons"], minutes=1e-9, **QUICK)
    assert history.column("step") == [0]


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_a_small_set_is_validated_more_often():
    settings: dict[str, Any] = {"steps": 100, "batch_size": 32, "progress": False}
    assert flowstone.fit(small(), torch.randn(200, 2), **settings).column("step") == [0, 20, 40, 60, 80, 100]
    assert flowstone.fit(small(), torch.randn(12_000, 2), **settings).column("step") == [0, 100]
    assert flowstone.fit(small(), TOYS["moons"], **settings).column("step") == [0, 100]


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_where_training_only_harms_the_start_is_the_best():
    flow = small()
    history = flowstone.fit(
        flow, torch.randn(500, 2), validation=torch.randn(500, 2), steps=60, lr=1.0, recoveries=0, **QUICK
    )
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


def test_the_last_steps_are_validated_and_the_flow_is_left_ready_to_use():
    flow = small()
    history = flowstone.fit(flow, TOYS["moons"], steps=25, **QUICK)
    assert history.column("step") == [0, 10, 20, 25]
    assert not flow.training


def test_minutes_end_a_training():
    started = time.monotonic()
    history = flowstone.fit(small(), TOYS["moons"], steps=None, minutes=0.03, patience=None, **QUICK)
    assert history.stopped == "finished"
    assert time.monotonic() - started < 20
    assert history.column("learning_rate")[-1] < 1e-3  # near the end of the cosine, by the clock


def test_threads_are_given_back():
    torch.set_num_threads(2)
    try:
        flowstone.fit(small(), TOYS["moons"], steps=5, **QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_threads_grow_with_the_work():
    torch.set_num_threads(3)
    try:
        counts = [thread_count(nn.Linear(1000, 1000), batch) for batch in (1, 4, 8, 1000)]
        assert counts == [1, 1, 2, 3]
    finally:
        torch.set_num_threads(1)


def test_history_goes_to_csv_and_back(tmp_path):
    history = flowstone.fit(small(), TOYS["moons"], steps=30, **QUICK)
    history.save(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().splitlines()[
        0
    ] == "step,seconds,train_nll,val_nll,learning_rate,grad_norm,recoveries"
    assert list(History.load(tmp_path / "history.csv")) == list(history)


def test_a_flow_with_nothing_to_train_is_refused():
    flow = small().requires_grad_(False)
    with pytest.raises(SettingError, match="no parameters to train"):
        flowstone.fit(flow, torch.randn(50, 2), steps=1, progress=False)


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
    for chosen in (None, watch):
        flow = small()
        flowstone.fit(flow, TOYS["moons"], steps=30, watch=chosen, **QUICK)
        ends.append(weights(flow))
    assert same(*ends)


def test_the_progress_bar_ends_with_the_last_validation(monkeypatch):
    shown = []
    original = rich.progress.Progress.update

    def update(self, task, **fields):
        shown.append((fields["step"], fields["losses"]))
        original(self, task, **fields)

    monkeypatch.setattr(rich.progress.Progress, "update", update)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    history = flowstone.fit(small(), TOYS["moons"], steps=25, batch_size=64, validate_every=10)
    step, losses = shown[-1]
    assert step == 25
    assert f"val {history.records[-1].val_nll:.4f} nats" in losses


def test_any_density_is_trained():
    """One that is no flow, and has no more than the contract."""

    class Normal(Density):
        def __init__(self):
            super().__init__(torch.Size([2]))
            self.mean, self.log_std = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

        device, dtype = torch.device("cpu"), torch.float32  # pyright: ignore

        def initialize(self, x, context=None):
            pass

        def _normal(self):
            return torch.distributions.Independent(torch.distributions.Normal(self.mean, self.log_std.exp()), 1)

        def _log_prob(self, x, context):
            return self._normal().log_prob(x)

        def _sample(self, n, context, generator, temperature):
            return self.mean + temperature * self.log_std.exp() * torch.randn(n, 2, generator=generator)

        def _sample_and_log_prob(self, n, context, generator):
            x = self._sample(n, context, generator, 1.0)
            return x, self._log_prob(x, context)

        @property
        def reparameterized(self):
            return True

    x = torch.tensor([1.0, -2.0]) + torch.tensor([0.5, 3.0]) * torch.randn(2000, 2)
    density = Normal()
    flowstone.fit(density, x, steps=600, lr=0.1, progress=False)
    torch.testing.assert_close(density.mean.detach(), torch.tensor([1.0, -2.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(density.log_std.detach().exp(), torch.tensor([0.5, 3.0]), atol=0.2, rtol=0)
    target = torch.distributions.Normal(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0]))
    fitted = flowstone.fit_to_density(
        density, lambda x: target.log_prob(x).sum(-1), steps=400, lr=0.05, progress=False
    )  # fmt: skip
    assert fitted.effective_sample_size > 0.95
    torch.testing.assert_close(density.mean.detach(), target.mean, atol=0.1, rtol=0)


def test_the_loss_is_computed_by_calling_the_density():
    calls = []
    flow = small()
    flow.register_forward_pre_hook(lambda module, inputs: calls.append(module.training))
    flowstone.fit(flow, TOYS["moons"], steps=5, **QUICK)
    assert calls.count(True) == 5
