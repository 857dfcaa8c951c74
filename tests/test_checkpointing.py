"""Activation checkpointing: gradients to the last bit those of a flow that keeps everything, in little memory."""

import copy
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

import flowstone
from cases import disturb
from flowstone.bijections import Affine, BatchNorm, Chain, Coupling, Dequantize, Partial, noise_from
from flowstone.errors import UnknownNameError
from flowstone.execution import checkpointed
from flowstone.nets import MLP
from flowstone.priors import StandardNormal

IMAGES: dict[str, Any] = {"channels": 4, "blocks": 1, "couplings": 6}
FLOWS = {
    "spline": lambda: flowstone.spline(3, couplings=96, hidden=(16, 16)),
    "realnvp": lambda: flowstone.realnvp(5, couplings=96, hidden=(16,)),
    "glow": lambda: flowstone.glow(4, couplings=12, hidden=(16,)),
    "given a context": lambda: flowstone.spline(2, couplings=12, hidden=(16,), context_features=2),
    "modern images": lambda: flowstone.realnvp_image((1, 8, 8), **IMAGES),
    "learned noise": lambda: flowstone.realnvp_image((1, 8, 8), noise="variational", **IMAGES),
    "batch norm of nets": lambda: flowstone.realnvp_image((1, 8, 8), preset="faithful", flow_norm="none", **IMAGES),
    "batch norm of the flow": lambda: flowstone.realnvp_image((1, 8, 8), preset="faithful", **IMAGES),
    "mixture": lambda: flowstone.realnvp_image((1, 8, 8), transform="mixture", **IMAGES),
    "autoregressive": lambda: flowstone.maf(3, layers=3, hidden=(16,)),
    "no chain": lambda: flowstone.Flow(coupling(), StandardNormal(2)),
}


def coupling():
    return next(module for module in flowstone.spline(2).modules() if isinstance(module, Coupling))


def made(name, dtype, strength=0.05):
    """A flow away from its start, rows and context; the same numbers in every precision."""
    torch.manual_seed(0)
    flow = FLOWS[name]()
    event = flow.event_shape
    x = torch.randint(256, (16, *event), dtype=torch.uint8) if len(event) > 1 else torch.randn(16, *event)
    context = torch.randn(16, flow.context_features) if flow.context_features else None
    disturb(flow, strength)
    flow = flow.to(dtype)
    x = x if x.dtype == torch.uint8 else x.to(dtype)
    context = None if context is None else context.to(dtype)
    flow.initialize(x, context)
    return flow, x, None if context is None else context.requires_grad_()


def gradient(flow, x, context, memory="keep"):
    """All gradients as one vector, the context's among them; numbers that forward keeps; the loss."""
    kept = []
    flow.zero_grad()
    if context is not None:
        context.grad = None
    torch.manual_seed(1)
    if memory == "recompute":
        with checkpointed(flow):
            return gradient(flow, x, context)
    weights = {p.data_ptr() for p in flow.parameters()}  # these are there anyway
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel() * (t.data_ptr() not in weights)) or t, lambda t: t
    ):
        loss = -flow.log_prob(x, context).mean()
    much = sum(kept)
    loss.backward()
    gradients = [p.grad for p in flow.parameters() if p.grad is not None]
    gradients += [] if context is None else [context.grad]
    return torch.cat([g.double().flatten() for g in gradients]), much, loss.item()


def assert_same_but_for_the_context(kept, recomputed, context):
    """Bit for bit; of the context, which all segments share, but for the order of the sum."""
    count = len(kept) - context.numel()
    assert torch.equal(kept[:count], recomputed[:count])
    torch.testing.assert_close(kept[count:], recomputed[count:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FLOWS)
def test_the_same_gradients(name, dtype):
    flow, x, context = made(name, dtype)
    buffers = {name: value.clone() for name, value in flow.named_buffers()}
    kept, _, loss = gradient(flow, x, context)
    after = {name: value.clone() for name, value in flow.named_buffers()}
    for name, value in flow.named_buffers():
        value.copy_(buffers[name])  # running averages
    recomputed, _, same_loss = gradient(flow, x, context, "recompute")
    assert loss == same_loss
    of_weights = len(kept) - (0 if context is None else context.numel())
    assert torch.equal(kept[:of_weights], recomputed[:of_weights])
    torch.testing.assert_close(kept, recomputed)  # a context's is a sum over all layers
    assert all(torch.equal(value, after[name]) for name, value in flow.named_buffers())


@pytest.mark.parametrize("strength", [0.05, 0.3])
@pytest.mark.parametrize("name", ["spline", "realnvp"])
def test_ninety_six_couplings_in_float32_against_float64(name, strength):
    exact, _, _ = gradient(*made(name, torch.float64, strength))
    flow, x, context = made(name, torch.float32, strength)
    assert sum(isinstance(module, Coupling) for module in flow.modules()) == 96
    recomputed, _, _ = gradient(flow, x, context, "recompute")
    kept, _, _ = gradient(flow, x, context)
    assert (recomputed - exact).norm() < 1e-3 * exact.norm()
    assert torch.equal(recomputed, kept)


@pytest.mark.parametrize(("name", "times"), [("spline", 12), ("realnvp", 12), ("modern images", 5), ("mixture", 3)])
def test_forward_keeps_little(name, times):
    flow, x, context = made(name, torch.float32)
    _, much, _ = gradient(flow, x, context)
    _, little, _ = gradient(flow, x, context, "recompute")
    assert little * times < much


def test_all_but_the_last_segment_runs_twice():
    flow, x, _ = made("realnvp", torch.float32)
    runs = []
    for layer in [module for module in flow.modules() if isinstance(module, Coupling)]:
        layer.net.register_forward_hook(lambda net, *_: runs.append(net))
    gradient(flow, x, None, "recompute")
    assert [runs.count(net) for net in dict.fromkeys(runs)] == [2] * 90 + [1] * 6


def test_afterwards_every_class_has_its_forward_back():
    flow, _, _ = made("modern images", torch.float32)
    with checkpointed(flow):
        assert any("forward" in vars(module) for module in flow.modules())
    assert not any("forward" in vars(module) for module in flow.modules())


def test_without_gradients_nothing_is_different():
    flow, x, _ = made("spline", torch.float32)
    with torch.no_grad(), checkpointed(flow):
        inside = flow.log_prob(x)
    assert torch.equal(inside, flow.log_prob(x))


def test_weights_that_are_held_fixed_get_no_gradient():
    flow, x, context = made("given a context", torch.float64)
    for parameter in list(flow.parameters())[::2]:
        parameter.requires_grad_(False)
    kept, _, _ = gradient(flow, x, context)
    recomputed, _, _ = gradient(flow, x, context, "recompute")
    assert_same_but_for_the_context(kept, recomputed, context)


def test_weights_that_two_couplings_share_get_the_sum(float64):
    one = coupling()
    flow = flowstone.Flow(Chain(one, one, one), StandardNormal(2))
    disturb(flow, 0.3)
    x = torch.randn(8, 2)
    kept, _, _ = gradient(flow, x, None)
    recomputed, _, _ = gradient(flow, x, None, "recompute")
    assert (kept - recomputed).norm() < 1e-12 * kept.norm()


class Rough(torch.nn.Module):
    """A net with a layer that does not give the same twice, or changes when it is run."""

    def __init__(self, layer):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 8), layer, torch.nn.Tanh(), torch.nn.Linear(8, 4))

    def forward(self, x, context=None):
        return self.layers(x)


def rough(layer):
    """Nine couplings whose nets have such a layer, and rows."""
    torch.manual_seed(0)
    couplings = [Coupling(4, Affine(2, scale="soft"), Rough(layer()), swap=bool(i % 2)) for i in range(9)]
    flow = flowstone.Flow(Chain(*couplings), StandardNormal(4)).train()
    disturb(flow, 0.2)
    return flow, torch.randn(16, 4)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Dropout,
        torch.nn.AlphaDropout,
        torch.nn.RReLU,
        lambda: torch.nn.BatchNorm1d(8),
        lambda: torch.nn.BatchNorm1d(8, track_running_stats=False),
    ],
)
def test_nets_that_do_not_repeat_themselves(float64, layer):
    flow, x = rough(layer)
    buffers = {name: value.clone() for name, value in flow.named_buffers()}
    kept, _, _ = gradient(flow, x, None)
    after = {name: value.clone() for name, value in flow.named_buffers()}
    for name, value in flow.named_buffers():
        value.copy_(buffers[name])
    recomputed, _, _ = gradient(flow, x, None, "recompute")
    assert torch.equal(kept, recomputed)
    assert all(torch.equal(value, after[name]) for name, value in flow.named_buffers())


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_noise_between_couplings_is_the_same_again(float64, generator):
    links = [link for _ in range(9) for link in (Partial(2, Dequantize()), coupling())]
    flow = flowstone.Flow(Chain(*links), StandardNormal(2)).double()
    disturb(flow, 0.2)
    x = torch.randint(9, (16, 2)).double()
    both = []
    for memory in ("keep", "recompute"):
        with nullcontext() if generator is None else noise_from(generator.manual_seed(0)):
            both.append(gradient(flow, x, None, memory)[0])
    assert torch.equal(*both)


def test_hooks_of_weights_run_once():
    flow, x, context = made("given a context", torch.float64)
    weight = next(p for p in flow.parameters() if p.requires_grad)
    calls = []
    weight.register_hook(lambda g: calls.append(1) or 0.5 * g)
    kept, _, _ = gradient(flow, x, context)
    recomputed, _, _ = gradient(flow, x, context, "recompute")
    assert_same_but_for_the_context(kept, recomputed, context)
    assert len(calls) == 2


def test_one_within_another():
    flow, x, context = made("modern images", torch.float64)
    kept, _, _ = gradient(flow, x, context)
    with checkpointed(flow):
        recomputed, _, _ = gradient(flow, x, context, "recompute")
        assert any("forward" in vars(module) for module in flow.modules())
    assert torch.equal(kept, recomputed)
    assert not any("forward" in vars(module) for module in flow.modules())


def test_weights_that_change_before_the_backward_pass_are_noticed():
    flow, x, _ = made("spline", torch.float32)
    with checkpointed(flow):
        loss = -flow.log_prob(x).mean()
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_that_recomputes_ends_where_one_that_keeps_does(precision):
    x = torch.randint(256, (64, 1, 4, 4), dtype=torch.uint8)

    def after(**settings):
        torch.manual_seed(0)
        flow = flowstone.realnvp_image(
            (1, 4, 4), channels=4, blocks=1, couplings=2, preset="faithful", flow_norm="none"
        )
        history = flowstone.fit(flow, x, steps=8, batch_size=16, precision=precision, progress=False, **settings)
        return flow.state_dict(), history.column("train_nll")

    (kept, losses), (again, same_losses) = after(), after(memory="recompute")
    assert losses == same_losses
    assert all(torch.equal(kept[name], again[name]) for name in kept)  # running averages of the nets, too
    with pytest.raises(UnknownNameError, match="did you mean 'recompute'"):
        after(memory="recomput")


def test_random_numbers_go_on_where_they_were():
    after = []
    for memory in ("keep", "recompute"):
        flow, x = rough(torch.nn.Dropout)
        gradient(flow, x, None, memory)
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_an_average_that_two_batches_have_run_through_before_the_backward_pass():
    flow, x, _ = made("batch norm of the flow", torch.float64)
    start = {name: value.clone() for name, value in flow.state_dict().items()}

    def after_two():
        flow.load_state_dict(start)
        flow.zero_grad()
        loss = flow.log_prob(x[:8]).mean() + flow.log_prob(x[8:]).mean()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])
        return gradients, torch.cat([value.double().flatten() for value in flow.buffers()])

    torch.manual_seed(1)
    kept = after_two()
    torch.manual_seed(1)
    with checkpointed(flow):
        again = after_two()
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_a_second_backward_pass_is_the_first_again():
    torch.manual_seed(0)
    links = [link for i in range(9) for link in (Coupling(4, Affine(2), MLP(2, 4), swap=bool(i % 2)), BatchNorm(4))]
    flow, x = flowstone.Flow(Chain(*links), StandardNormal(4)).train(), torch.randn(16, 4)
    disturb(flow, 0.2)
    both = []
    with checkpointed(flow):
        loss = -flow.log_prob(x).mean()
        for retain_graph in (True, False):
            flow.zero_grad()
            loss.backward(retain_graph=retain_graph)
            both.append([parameter.grad for parameter in flow.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_gradients_by_other_ways_than_backward_are_refused():
    flow, x, context = made("given a context", torch.float64)
    x.requires_grad_()
    with checkpointed(flow), pytest.raises(RuntimeError, match=r"incompatible with \.grad"):
        torch.autograd.grad(flow.log_prob(x, context).sum(), x)


def test_a_flow_is_exported_as_ever():
    flow, x = rough(torch.nn.Identity)
    with checkpointed(flow):
        exported = torch.export.export(flow, (x,))
    torch.testing.assert_close(exported.module()(x), flow.log_prob(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", [torch.nn.Dropout, lambda: torch.nn.BatchNorm1d(8)])
def test_the_second_run_is_in_the_mode_of_the_first(layer):
    flow, x = rough(layer)

    def run():
        flow.train().zero_grad()
        torch.manual_seed(1)
        loss = -flow.log_prob(x).mean()
        flow.eval()
        loss.backward()
        assert not any(module.training for module in flow.modules())
        return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])

    kept = run()
    with checkpointed(flow):
        assert torch.equal(run(), kept)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: torch.nn.Sequential(
            torch.nn.Unflatten(1, (2, 4)),
            torch.nn.InstanceNorm1d(2, track_running_stats=True),
            torch.nn.Flatten(),
        ),
        lambda: spectral_norm(torch.nn.Linear(8, 8)),
    ],
)
def test_what_a_run_moves_moves_once(layer):
    both = []
    for memory in ("keep", "recompute"):
        flow, x = rough(layer)
        gradients, _, _ = gradient(flow, x, None, memory)
        both.append((gradients, torch.cat([value.double().flatten() for value in flow.buffers()])))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_weights_put_in_place_of_others_get_the_gradient():
    flow, x = rough(torch.nn.Identity)
    with checkpointed(flow):
        for module in flow.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(module.weight.detach().clone())
                module.bias.register_hook(lambda g: 0.5 * g)
        recomputed, _, _ = gradient(flow, x, None)
    kept, _, _ = gradient(flow, x, None)
    assert torch.equal(recomputed, kept)


def test_the_second_run_has_the_weights_of_the_first():
    """``functional_call`` puts other weights in, and takes them out before the backward pass."""
    flow, x = rough(torch.nn.Identity)
    others = {name: (2 * value.detach()).requires_grad_() for name, value in flow.named_parameters()}

    def gradients():
        torch.func.functional_call(flow, others, (x,)).sum().backward()
        values = [cast(torch.Tensor, value.grad) for value in others.values()]
        for value in others.values():
            value.grad = None
        return values

    kept = gradients()
    with checkpointed(flow):
        recomputed = gradients()
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


def test_a_copy_made_in_between_is_a_flow_of_its_own():
    flow, x = rough(torch.nn.Identity)
    with checkpointed(flow):
        other = copy.deepcopy(flow)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(2)
        recomputed, _, _ = gradient(other, x, None)
    disturbed, _ = rough(torch.nn.Identity)
    with torch.no_grad():
        for parameter in disturbed.parameters():
            parameter.mul_(2)
    kept, _, _ = gradient(disturbed, x, None)
    assert torch.equal(recomputed, kept)


def test_autocast_around_a_forward_pass_is_around_its_second_run():
    flow, x, _ = made("realnvp", torch.float32)

    def run():
        flow.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = -flow.log_prob(x).mean()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])

    kept = run()
    with checkpointed(flow):
        assert torch.equal(run(), kept)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_of_images_that_recomputes_goes_the_same_way(precision):
    x = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)

    def losses(**settings):
        torch.manual_seed(0)
        flow = flowstone.realnvp_image((1, 8, 8), **IMAGES)
        history = flowstone.fit(flow, x, steps=8, batch_size=16, precision=precision, progress=False, **settings)
        return history.column("val_nll")

    assert losses(memory="recompute") == losses()
