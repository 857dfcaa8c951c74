"""The same flow, written with each library as its documentation does, for benchmarks/peers.py.

Couplings whose halves take turns, each with one net of two hidden layers of ``width`` units (ReLU), in float32, on
ordinary numbers: nothing is standardised. Every torch library gets torch's fused Adam (ours as ``fit`` has it, over one
array of all parameters), FlowJAX its own loop's optax.
"""

# The peers are in an environment of their own.
# pyright: reportMissingImports=false, reportArgumentType=false

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

BINS, BOUND = 8, 3.0


@dataclass(frozen=True)
class Task:
    """``kind``: affine, spline or autoregressive (affine); ``layers`` of them."""

    kind: str
    features: int
    layers: int
    width: int
    rate: float = 1e-4


PER_FEATURE = {"affine": 2, "autoregressive": 2, "spline": 3 * BINS - 1}


def net_sizes(task: Task) -> list[tuple[int, ...]]:
    """Of each layer's net: how many numbers go in, through its hidden layers, and out."""
    found = []
    for index in range(task.layers):
        kept = task.features // 2 if index % 2 == 0 else task.features - task.features // 2
        inputs, moved = (task.features,) * 2 if task.kind == "autoregressive" else (kept, task.features - kept)
        found.append((inputs, task.width, task.width, moved * PER_FEATURE[task.kind]))
    return found


@dataclass
class Contender:
    """One library's flow: a training step, densities, samples; and how many parameters it has."""

    step: Callable[[Tensor], object]
    log_prob: Callable[[Tensor], object]
    sample: Callable[[int], object]
    parameters: int


def mlp(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class WithContext(nn.Module):
    """A net as nflows calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x)


def by_torch(
    task: Task,
    module: nn.Module,
    log_prob: Callable,
    sample: Callable,
    *,
    loss: Callable[[Tensor], Tensor] | None = None,
    context: AbstractContextManager | None = None,
    optimizer: Any = None,
) -> Contender:
    """``loss``: what a step minimises, if it is not the mean of ``log_prob``; ``context``: what everything runs in;
    ``optimizer``: what makes its steps, if it is not torch's Adam.
    """
    optimizer = optimizer or torch.optim.Adam(module.parameters(), lr=task.rate, fused=True)
    loss = loss or (lambda x: -log_prob(x).mean())
    inside = context or nullcontext()

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        with inside:
            loss(x).backward()
        optimizer.step()

    def without_gradients(function: Callable) -> Callable:
        def run(value: Any) -> Tensor:
            with torch.inference_mode(), inside:
                return function(value)

        return run

    count = sum(p.numel() for p in module.parameters())
    return Contender(step, without_gradients(log_prob), without_gradients(sample), count)


def flowstone(task: Task, way: str = "") -> Contender:
    """``way``: ``"compiled"``, ``"bf16"`` or ``"recomputed"``: what ``fit`` does with the settings of those names."""
    from flowstone import Flow
    from flowstone.bijections import Affine, Autoregressive, Chain, Coupling, Permutation, RQSpline
    from flowstone.execution import bf16_conditioners, checkpointed, compiled
    from flowstone.nets import MADE, MLP
    from flowstone.priors import StandardNormal

    hidden, links = (task.width, task.width), []
    for index in range(task.layers):
        swap = index % 2 == 1
        kept, moved = Coupling.sizes(task.features, swap=swap)
        if task.kind == "autoregressive":
            links.append(Autoregressive(task.features, Affine(1, scale="soft"), MADE(task.features, 2, hidden=hidden)))
            links.append(Permutation.reverse(task.features))
            continue
        transform = Affine(moved) if task.kind == "affine" else RQSpline(bins=BINS, bound=BOUND)
        net = MLP(kept, moved * transform.parameters_per_feature, hidden=hidden)
        links.append(Coupling(task.features, transform, net, swap=swap))
    flow = Flow(Chain(*links), StandardNormal(task.features))
    contexts = {"bf16": bf16_conditioners, "recomputed": recomputed}
    return by_torch(
        task,
        flow,
        flow.log_prob,
        flow.sample,
        loss=compiled(lambda x: -flow.log_prob(x).mean()) if way == "compiled" else None,
        context=contexts[way](flow) if way in contexts else None,
        optimizer=AsInFit(flow, task.rate),
    )


class AsInFit:
    """The parameters as one array, and Adam over it: what ``flowstone.fit`` does."""

    def __init__(self, flow: nn.Module, rate: float) -> None:
        from flowstone.execution.flat import FlatParameters
        from flowstone.train.optimizer import Optimizer

        self.flat, self.rate = FlatParameters(list(flow.parameters())), rate
        self.adam, self.zero_grad = Optimizer("adam", [self.flat.array]), self.flat.zero_grad

    def step(self) -> None:
        self.adam.step(self.rate)


def zuko(task: Task) -> Contender:
    from zuko import flows
    from zuko.distributions import DiagNormal
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.transforms import MonotonicRQSTransform

    kwargs: dict[str, Any] = {"hidden_features": (task.width, task.width)}
    if task.kind == "spline":
        kwargs |= {"univariate": MonotonicRQSTransform, "shapes": ((BINS,), (BINS,), (BINS - 1,))}
    even = torch.arange(task.features) % 2
    if task.kind == "autoregressive":
        order = torch.arange(task.features)
        links = [
            MaskedAutoregressiveTransform(task.features, order=order.flip(0) if i % 2 else order, **kwargs)
            for i in range(task.layers)
        ]
    else:
        links = [GeneralCouplingTransform(task.features, mask=even == i % 2, **kwargs) for i in range(task.layers)]
    base = flows.UnconditionalDistribution(
        DiagNormal, torch.zeros(task.features), torch.ones(task.features), buffer=True
    )
    flow = flows.Flow(links, base)
    return by_torch(task, flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def nflows(task: Task) -> Contender:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        AffineCouplingTransform,
        CompositeTransform,
        MaskedAffineAutoregressiveTransform,
        PiecewiseRationalQuadraticCouplingTransform,
        ReversePermutation,
    )

    def net(inputs: int, outputs: int) -> nn.Module:
        return WithContext(mlp(inputs, outputs, task.width))

    links = []
    for index in range(task.layers):
        mask = (torch.arange(task.features) + index) % 2
        if task.kind == "affine":
            links.append(AffineCouplingTransform(mask, net))
        elif task.kind == "spline":
            links.append(
                PiecewiseRationalQuadraticCouplingTransform(mask, net, num_bins=BINS, tails="linear", tail_bound=BOUND)
            )
        else:
            links += [
                MaskedAffineAutoregressiveTransform(task.features, task.width, num_blocks=1, use_residual_blocks=False),
                ReversePermutation(task.features),
            ]
    flow = Flow(CompositeTransform(links), StandardNormal([task.features]))
    return by_torch(task, flow, flow.log_prob, flow.sample)


def normflows(task: Task) -> Contender:
    import normflows as nf
    from normflows.flows.affine.autoregressive import MaskedAffineAutoregressive
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    links = []
    for index in range(task.layers):
        if task.kind == "affine":
            first = task.features - task.features // 2
            links.append(nf.flows.AffineCouplingBlock(mlp(first, 2 * (task.features - first), task.width)))
            links.append(nf.flows.Permute(task.features, mode="swap"))
        elif task.kind == "spline":
            mask = (torch.arange(task.features) + index) % 2
            links.append(
                _Splines(
                    PiecewiseRationalQuadraticCoupling(
                        mask,
                        lambda inputs, outputs: WithContext(mlp(inputs, outputs, task.width)),
                        num_bins=BINS,
                        tails="linear",
                        tail_bound=BOUND,
                    )
                )
            )
        else:
            links.append(MaskedAffineAutoregressive(task.features, task.width, num_blocks=1, use_residual_blocks=False))
            links.append(nf.flows.Permute(task.features, mode="swap"))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(task.features, trainable=False), links)
    return by_torch(task, flow, flow.log_prob, flow.sample)


class _Splines(nn.Module):
    """As normflows' own wrapper has it: its splines run data → latent, its flows the other way."""

    def __init__(self, coupling: nn.Module) -> None:
        super().__init__()
        self.coupling = coupling

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.coupling.inverse(z)  # pyright: ignore[reportCallIssue]
        return x, log_det.view(-1)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.coupling(x)
        return z, log_det.view(-1)


def freia(task: Task) -> Contender | None:
    import FrEIA.framework as ff
    import FrEIA.modules as fm

    if task.kind != "affine":
        return None  # 0.2 has neither splines nor autoregressive layers
    inn = ff.SequenceINN(task.features)
    for _ in range(task.layers):
        inn.append(fm.AffineCouplingOneSided, subnet_constructor=lambda a, b: mlp(a, b, task.width))
        inn.append(fm.PermuteRandom, seed=0)

    def log_prob(x: Tensor) -> Tensor:
        z, log_det = inn(x)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * task.features * 1.8378770664093453

    return by_torch(task, inn, log_prob, lambda n: inn(torch.randn(n, task.features), rev=True)[0])


def flowjax(task: Task) -> Contender:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow
    from flowjax.train.losses import MaximumLikelihoodLoss
    from paramax import NonTrainable

    make = masked_autoregressive_flow if task.kind == "autoregressive" else coupling_flow
    transformer = RationalQuadraticSpline(knots=BINS, interval=BOUND) if task.kind == "spline" else None
    flow = make(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(task.features)),
        transformer=transformer,
        flow_layers=task.layers,
        nn_width=task.width,
        nn_depth=2,
    )
    optimizer = optax.adam(task.rate)
    trained, fixed = eqx.partition(flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable))
    state = optimizer.init(trained)
    loss = MaximumLikelihoodLoss()
    key = jax.random.key(1)

    @eqx.filter_jit
    def update(trained, state, x):
        value, gradient = eqx.filter_value_and_grad(loss)(trained, fixed, x, None, key)
        changes, state = optimizer.update(gradient, state, trained)
        return eqx.apply_updates(trained, changes), state, value

    def step(x: Tensor) -> None:
        nonlocal trained, state
        trained, state, value = update(trained, state, x.numpy())
        value.block_until_ready()

    density = eqx.filter_jit(lambda trained, x: eqx.combine(trained, fixed).log_prob(x))
    draw = eqx.filter_jit(lambda trained, key, n: eqx.combine(trained, fixed).sample(key, (n,)))
    count = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(trained, eqx.is_inexact_array)))
    return Contender(
        step,
        lambda x: density(trained, x.numpy()).block_until_ready(),
        lambda n: draw(trained, key, n).block_until_ready(),
        count,
    )


OURS, RECOMPUTED = ("Flowstone", "compiled", "bf16"), "recomputed"
LIBRARIES: dict[str, Callable[[Task], Contender | None]] = {
    OURS[0]: flowstone,
    **{way: partial(flowstone, way=way) for way in (*OURS[1:], RECOMPUTED)},
    "zuko": zuko,
    "nflows": nflows,
    "normflows": normflows,
    "FrEIA": freia,
    "FlowJAX": flowjax,
}
