import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flowstone
from flowstone.data import TOYS
from flowstone.errors import CheckpointError
from flowstone.recipes import build
from flowstone.train import step as stepping
from flowstone.train.optimizer import Optimizer
from training import QUICK, same, small, weights


class StopError(Exception):
    pass


def normalized() -> flowstone.Flow:
    """A flow with running averages, which are no parameters."""
    torch.manual_seed(1)
    return flowstone.realnvp(2, couplings=2, hidden=(16,), batch_norm=True)


@pytest.mark.parametrize(
    ("fixed", "settings", "made"),
    [
        (False, {}, small),
        (True, {}, small),
        (True, {"optimizer": "adamw", "weight_decay": 0.1}, small),
        (True, {"optimizer": "adamax"}, small),
        (True, {}, normalized),
    ],
)
def test_a_broken_off_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, fixed, settings, made):
    quick = QUICK | settings
    monkeypatch.setattr("flowstone.train.loop.SAVE_EVERY", 0.0)
    data = TOYS["moons"](300, torch.Generator().manual_seed(0)) if fixed else TOYS["moons"]
    validation = TOYS["moons"](200, torch.Generator().manual_seed(1))
    uninterrupted = made()
    history = flowstone.fit(uninterrupted, data, validation=validation, steps=80, **quick)

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
            flowstone.fit(made(), data, validation=validation, steps=80, resume=tmp_path, **quick)
    resumed = made()
    continued = flowstone.fit(resumed, data, validation=validation, steps=80, resume=tmp_path, **quick)
    assert same(weights(uninterrupted), weights(resumed))
    for name in ("step", "train_nll", "val_nll", "learning_rate", "grad_norm"):
        assert continued.column(name) == history.column(name)


def test_the_saved_state_holds_permutations_too(tmp_path):
    x = torch.randn(300, 5)
    flows = []
    for seed, steps in ((0, 30), (1, 30)):
        torch.manual_seed(seed)  # the second flow is built with other permutations and other weights
        flow = flowstone.realnvp(5, couplings=3, hidden=(8,))
        flowstone.fit(flow, x, steps=steps, resume=tmp_path, **QUICK)
        flows.append(flow)
    assert torch.equal(flows[0].log_prob(x), flows[1].log_prob(x))


def interrupting(after: int, by: signal.Signals):
    """Moons, and a signal, such as that of Ctrl-C, at the draw with that number."""
    count = 0

    def draw(n, generator):
        nonlocal count
        count += 1
        if count == after:
            os.kill(os.getpid(), by)
        return TOYS["moons"](n, generator)

    return draw


@pytest.mark.parametrize(("by", "stopped"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_ctrl_c_keeps_the_best_weights_and_the_place(tmp_path, by, stopped):
    flow, uninterrupted, validation = small(), small(), TOYS["moons"](200, torch.Generator().manual_seed(1))
    settings: dict[str, Any] = {"steps": 100, "validation": validation, **QUICK}
    before = signal.getsignal(by)
    history = flowstone.fit(flow, interrupting(46, by), resume=tmp_path, **settings)
    assert history.stopped == stopped
    assert history.records[-1].step == 40
    nll = -flow.log_prob(validation).mean().item()
    assert nll == pytest.approx(history.best.val_nll, abs=1e-5)
    assert signal.getsignal(by) is before
    flowstone.fit(flow, TOYS["moons"], resume=tmp_path, **settings)
    flowstone.fit(uninterrupted, TOYS["moons"], **settings)
    assert same(weights(flow), weights(uninterrupted))


def test_a_state_of_another_flow_is_refused(tmp_path):
    flowstone.fit(small(), TOYS["moons"], steps=10, resume=str(tmp_path), **QUICK)
    with pytest.raises(CheckpointError, match="of another flow"):
        flowstone.fit(flowstone.nice(2), TOYS["moons"], steps=20, resume=tmp_path, **QUICK)


def test_a_state_of_other_shapes_is_refused_though_it_has_as_many_numbers(tmp_path):
    def flow(*hidden):
        made = flowstone.nice(2, couplings=2, hidden=hidden, activation="tanh")
        return flowstone.Flow(made.bijection, made.prior)  # of no recipe, whose arguments would tell

    flowstone.fit(flow(3, 1), TOYS["moons"], steps=10, resume=tmp_path, **QUICK)
    one, other = (sum(p.numel() for p in flow(*hidden).parameters()) for hidden in ((3, 1), (1, 3)))
    assert one == other
    with pytest.raises(CheckpointError, match=r"another flow .* instead of"):
        flowstone.fit(flow(1, 3), TOYS["moons"], steps=20, resume=tmp_path, **QUICK)


@pytest.mark.parametrize(
    ("flow", "rows", "different"),
    [
        (lambda: flowstone.nice(2, hidden=(8,), activation="tanh"), 1.0, "activation"),
        (lambda: flowstone.nice(2, hidden=(8,)), 2.0, "held-out rows"),
    ],
)
def test_a_state_of_another_activation_or_of_other_rows_is_refused(tmp_path, flow, rows, different):
    x = torch.randn(300, 2)
    flowstone.fit(flowstone.nice(2, hidden=(8,)), x, steps=10, resume=tmp_path, **QUICK)
    refused = flow()
    refused.initialize(rows * x)
    before = weights(refused)
    with pytest.raises(CheckpointError, match=f"is of another flow or other rows: {different}"):
        flowstone.fit(refused, rows * x, steps=20, resume=tmp_path, **QUICK)
    assert same(weights(refused), before)


def test_a_resume_keeps_moments_though_some_parameter_never_had_a_gradient(tmp_path):
    def with_a_spare() -> flowstone.Flow:
        flow = small()
        flow.bijection.register_parameter("spare", nn.Parameter(torch.zeros(3)))
        return flow

    settings: dict[str, Any] = {**QUICK, "schedule": "constant", "warmup": 0.0}
    uninterrupted, parts = with_a_spare(), with_a_spare()
    flowstone.fit(uninterrupted, TOYS["moons"], steps=40, **settings)
    flowstone.fit(parts, TOYS["moons"], steps=20, resume=tmp_path, **settings)
    flowstone.fit(parts, TOYS["moons"], steps=40, resume=tmp_path, **settings)
    assert same(weights(uninterrupted), weights(parts))


def test_the_same_training_however_often_it_is_looked_at(monkeypatch, tmp_path):
    outcomes = []
    for read_every in (1, 7):
        monkeypatch.setitem(stepping.READ_EVERY, "cpu", read_every)
        flow = small()
        history = flowstone.fit(flow, TOYS["moons"], steps=25, resume=tmp_path / str(read_every), **QUICK)
        outcomes.append((weights(flow), history.column("train_nll"), history.column("grad_norm")))
    assert same(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]


def test_a_training_state_of_format_1_goes_on(tmp_path):
    """Its buffers are in float32, and it holds a number for the precision of the prior."""
    fixture = Path(__file__).parent / "fixtures" / "format-1"
    record = json.loads((fixture / "table" / "flow.json").read_text())
    expected = json.loads((fixture / "expected.json").read_text())["table"]
    shutil.copytree(fixture / "table" / "resume", tmp_path / "resume")
    flow = build(record["recipe"], record["arguments"])
    x, context = (torch.tensor(expected[name]) for name in ("x", "context"))
    settings: dict[str, Any] = {"steps": 120, "validation": x, "validation_context": context, "progress": False}
    history = flowstone.fit(flow, x, context=context, resume=tmp_path / "resume", **settings)
    assert history.records[-1].step == 120
    assert history.stopped == "finished"
    scores = flow.log_prob(x, context)
    torch.testing.assert_close(scores, torch.tensor(expected["log_prob"]), atol=1e-4, rtol=1e-4)
    settings["steps"] = 130
    flowstone.fit(flow, x, context=context, resume=tmp_path / "resume", **settings)
