"""The same flow, written with each library as its documentation does, for benchmarks/peers.py.

Couplings that change either half of the features in turn, each with one net of two hidden layers of ``width`` units
(ReLU), in float32; the data are standard normal, so nothing is standardised. Every torch library is trained with fused
Adam (Flowstone's is that of ``fit``, over one array of all parameters), FlowJAX with optax as in its own loop.
"""

# The peers are installed in another environment than the one that pyright reads.
# pyright: reportMissingImports=false, reportArgumentType=false

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
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
    """The widths of each layer's net: inputs, hidden layers, outputs."""
    sizes = []
    for index in range(task.layers):
        kept = task.features // 2 if index % 2 == 0 else task.features - task.features // 2
        inputs, changed = (task.features,) * 2 if task.kind == "autoregressive" else (kept, task.features - kept)
        sizes.append((inputs, task.width, task.width, changed * PER_FEATURE[task.kind]))
    return sizes


@dataclass
class Contender:
    """One library's flow: its training step, densities and samples as functions, and its number of parameters."""

    step: Callable[[Tensor], object]
    log_prob: Callable[[Tensor], object]
    sample: Callable[[int], object]
    parameters: int


def mlp(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )


class WithContext(nn.Module):
    """A net that takes the context as nflows passes it, and ignores it."""

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
    step_context: AbstractContextManager | None = None,
    gradient: Callable[[Tensor], object] | None = None,
    optimizer: Any = None,
) -> Contender:
    """A flow written with torch.

    Args:
        loss: what a step minimises; None: the mean of ``-log_prob``.
        context: in which everything runs.
        step_context: in which training steps run, besides.
        gradient: computes the loss with its gradient; None: by autograd.
        optimizer: None: torch's fused Adam.
    """
    optimizer = optimizer or torch.optim.Adam(module.parameters(), lr=task.rate, fused=True)
    loss = loss or (lambda x: -log_prob(x).mean())
    context, step_context = context or nullcontext(), step_context or nullcontext()

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        if gradient is not None:
            gradient(x)
        else:
            with step_context, context:
                loss(x).backward()
        optimizer.step()

    def without_gradients(function: Callable) -> Callable:
        def run(value: Any) -> Tensor:
            with torch.inference_mode(), context:
                return function(value)

        return run

    count = sum(p.numel() for p in module.parameters())
    return Contender(step, without_gradients(log_prob), without_gradients(sample), count)


def flowstone_flow(task: Task) -> Any:
    """The flow of the task, made of Flowstone's bijections."""
    from flowstone import Flow
    from flowstone.bijections import Affine, Autoregressive, Chain, Coupling, Permutation, RQSpline
    from flowstone.nets import MADE, MLP
    from flowstone.priors import StandardNormal

    hidden, layers = (task.width, task.width), []
    for index in range(task.layers):
        swap = index % 2 == 1
        kept, changed = Coupling.sizes(task.features, swap=swap)
        if task.kind == "autoregressive":
            net = MADE(task.features, 2, hidden=hidden)
            layers += [
                Autoregressive(task.features, Affine(task.features, scale="soft"), net),
                Permutation.reverse(task.features),
            ]
            continue
        transform = Affine(changed) if task.kind == "affine" else RQSpline(bins=BINS, bound=BOUND)
        net = MLP(kept, changed * transform.parameters_per_feature, hidden=hidden)
        layers.append(Coupling(task.features, transform, net, swap=swap))
    return Flow(Chain(*layers), StandardNormal(task.features))


def flowstone(task: Task, variant: str = "") -> Contender:
    """``variant``: ``"compiled"``, ``"bf16"`` or ``"checkpointed"``: how ``fit`` runs it if its settings say so."""
    from flowstone.execution import (
        DirectGradient,
        bf16_conditioners,
        checkpointed,
        compiled,
        fast_few_inputs,
        threads_for,
    )

    flow = flowstone_flow(task)
    contexts = {"bf16": bf16_conditioners, CHECKPOINTED: checkpointed}
    contender = by_torch(
        task,
        flow,
        flow.log_prob,
        flow.sample,
        loss=compiled(lambda x: -flow.log_prob(x).mean()) if variant == "compiled" else None,
        context=contexts[variant](flow) if variant in contexts else None,
        step_context=fast_few_inputs(flow),
        gradient=DirectGradient(flow) if variant == "" and task.kind != "autoregressive" else None,
        optimizer=AsInFit(flow, task.rate),
    )

    def step(x: Tensor) -> None:
        with threads_for(flow, len(x)):
            contender.step(x)

    return replace(contender, step=step)


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
    """Exchanges directions as normflows' own wrapper does: its splines run data → latent, its flows latent → data."""

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


OURS, CHECKPOINTED = ("Flowstone", "compiled", "bf16"), "checkpointed"
LIBRARIES: dict[str, Callable[[Task], Contender | None]] = {
    OURS[0]: flowstone,
    **{variant: partial(flowstone, variant=variant) for variant in (*OURS[1:], CHECKPOINTED)},
    "zuko": zuko,
    "nflows": nflows,
    "normflows": normflows,
    "FrEIA": freia,
    "FlowJAX": flowjax,
}
