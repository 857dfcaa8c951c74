r"""The layers of flows that ``direct`` knows: each with its formula and the gradient of that formula.

``forward`` puts what the gradient needs on a stack, the ``tape``; ``backward`` takes it from there, so that layers run
backward in reverse order. Gradients of parameters go to their ``grad``, those of values are returned. A bar denotes
the gradient of the loss: $\bar v = \partial\,\text{loss} / \partial v$. That of each log-det is ``-share``, where
``share`` is the part of one row in the mean.

Values between layers are transposed, ``(features, batch)``, and in two halves. Matrix products with few inputs or few
outputs are up to four times as fast in this order, and halves of features and parameters of transforms are contiguous.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from flowstone.bijections import Additive, Affine, Coupling, LULinear, Permutation, RQSpline, Scaling, Univariate
from flowstone.kernels import applicable
from flowstone.kernels.spline_call import backend
from flowstone.nets import MLP, Parallel, ResNet
from flowstone.priors import Logistic, StandardNormal

__all__ = ["LAYERS", "PRIORS", "Halves", "UnknownLayerError", "known", "split"]

Halves = tuple[Tensor, Tensor]
Tape = list[Any]
T = TypeVar("T")
aten = torch.ops.aten


class UnknownLayerError(Exception):
    """A layer whose gradient is not known here; the message says which."""


def known(module: nn.Module, table: Mapping[type, Callable[..., T]]) -> T:
    """What the table makes of a module of exactly this type: a subclass may compute something else."""
    if type(module) not in table:
        raise UnknownLayerError(f"{type(module).__name__} is none of {', '.join(kind.__name__ for kind in table)}")
    if type(module).forward is not FORWARDS[type(module)]:
        raise UnknownLayerError(f"the forward of {type(module).__name__} was replaced")
    return table[type(module)](module)


# --- layers of nets, on rows (batch, width) ---------------------------------------------------------------------------


class _Linear:
    r"""$y = x W^\top + b$: $\bar W = \bar y^\top x$, $\bar b = \sum_i \bar y_i$, $\bar x = \bar y W$."""

    def __init__(self, layer: nn.Linear) -> None:
        if layer.bias is None:
            raise UnknownLayerError("Linear without bias")
        self.weight: Any = layer.weight
        self.bias: Any = layer.bias

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        tape.append(x)
        return torch.addmm(self.bias, x, self.weight.t())

    def backward(self, by_y: Tensor, tape: Tape) -> Tensor:
        torch.mm(by_y.t(), tape.pop(), out=self.weight.grad)
        torch.sum(by_y, 0, out=self.bias.grad)
        return torch.mm(by_y, self.weight)


class _FirstLinear(_Linear):
    """``_Linear`` of a transposed x; ``backward_into`` adds to ``by_x``, the gradient by the first inputs, if given."""

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        tape.append(x)
        return torch.addmm(self.bias, x.t(), self.weight.t())

    def backward_into(self, by_y: Tensor, tape: Tape, by_x: Tensor | None) -> None:
        self.weight.grad.copy_(torch.mm(tape.pop(), by_y).t())
        torch.sum(by_y, 0, out=self.bias.grad)
        if by_x is not None:
            by_x.addmm_(self.weight[:, : len(by_x)].t().contiguous(), by_y.t())


class _LastLinear(_Linear):
    """``_Linear`` with a transposed y."""

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        tape.append(x)
        return torch.addmm(self.bias[:, None], self.weight, x.t())

    def backward(self, by_y: Tensor, tape: Tape) -> Tensor:
        torch.mm(by_y, tape.pop(), out=self.weight.grad)
        torch.sum(by_y, 1, out=self.bias.grad)
        return torch.mm(by_y.t(), self.weight)


class _Activation:
    r"""$y = \phi(x)$: $\bar x = \phi'(x)\,\bar y$; ReLU and tanh have φ' as a function of y, which is kept then."""

    def __init__(self, layer: nn.Module) -> None:
        self.phi, self.gradient = layer.forward, ACTIVATIONS[type(layer)]
        self.keeps_y = type(layer) in (nn.ReLU, nn.Tanh)
        overwrites_x = getattr(layer, "inplace", False) and not self.keeps_y
        if overwrites_x or getattr(layer, "approximate", "none") != "none":
            raise UnknownLayerError(f"{layer}")

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        y = self.phi(x)
        tape.append(y if self.keeps_y else x)
        return y

    def backward(self, by_y: Tensor, tape: Tape) -> Tensor:
        return self.gradient(by_y, tape.pop())


ACTIVATIONS: dict[type, Callable[[Tensor, Tensor], Tensor]] = {
    nn.ReLU: lambda by_y, y: aten.threshold_backward.grad_input(by_y, y, 0, grad_input=by_y),
    nn.Tanh: aten.tanh_backward,
    nn.SiLU: aten.silu_backward,
    nn.GELU: aten.gelu_backward,
}


class _Residual:
    r"""$y = x + f(x)$: $\bar x = \bar y + \bar y\,\partial f / \partial x$, of a block of ``ResNet``."""

    def __init__(self, block: nn.Sequential) -> None:
        self.layers = _known_in_turn([layer for layer in block if type(layer) is not nn.Dropout or layer.p])
        if len(self.layers) != 4 or getattr(block[0], "inplace", False):
            raise UnknownLayerError(f"{block} is no block of ResNet")

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return _forward(self.layers, x, tape).add_(x)

    def backward(self, by_y: Tensor, tape: Tape) -> Tensor:
        return _backward(self.layers, by_y, tape).add_(by_y)


def _known_in_turn(layers: Sequence[nn.Module]) -> list[Any]:
    """An activation, a linear layer, and so on in turn."""
    turns = (dict.fromkeys(ACTIVATIONS, _Activation), {nn.Linear: _Linear})
    return [known(layer, turns[index % 2]) for index, layer in enumerate(layers)]


def _forward(layers: Sequence[Any], x: Tensor, tape: Tape) -> Tensor:
    for layer in layers:
        x = layer.forward(x, tape)
    return x


def _backward(layers: Sequence[Any], by_y: Tensor, tape: Tape) -> Tensor:
    for layer in reversed(layers):
        by_y = layer.backward(by_y, tape)
    return by_y


# --- nets: (inputs, batch) → (outputs, batch) -------------------------------------------------------------------------


class _Net:
    """Layers one after the other."""

    def __init__(self, net: MLP | ResNet) -> None:
        if isinstance(net, MLP):
            first, *hidden = net.layers if len(net.layers) else [net.layers]
            rest = _known_in_turn(hidden)
        else:
            first, rest = net.input, [known(block, {nn.Sequential: _Residual}) for block in net.blocks]
        self.first, self.outputs = known(first, {nn.Linear: _FirstLinear}), net.output.out_features
        self.rest = [*rest, known(net.output, {nn.Linear: _LastLinear})]

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return _forward(self.rest, self.first.forward(x, tape), tape)

    def backward(self, by_y: Tensor, tape: Tape, by_x: Tensor | None) -> None:
        self.first.backward_into(_backward(self.rest, by_y, tape), tape, by_x)


class _Parallel:
    """Several nets on one input; the outputs of all for one feature are next to each other."""

    def __init__(self, nets: Parallel) -> None:
        self.nets = [known(net, NETS) for net in nets.nets]
        self.outputs = sum(net.outputs for net in self.nets)

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return torch.stack([net.forward(x, tape) for net in self.nets], 1).flatten(0, 1)

    def backward(self, by_y: Tensor, tape: Tape, by_x: Tensor | None) -> None:
        for index, net in reversed([*enumerate(self.nets)]):
            net.backward(by_y[index :: len(self.nets)], tape, by_x)


NETS: dict[type, Callable[[Any], Any]] = {MLP: _Net, ResNet: _Net, Parallel: _Parallel}


# --- transforms of (features, batch) by parameters (features * parameters_per_feature, batch) -------------------------


class _Additive:
    r"""$z = x + t$: $\bar x = \bar t = \bar z$."""

    def __init__(self, transform: Additive) -> None:
        pass

    def forward(self, x: Tensor, t: Tensor, tape: Tape) -> tuple[Tensor, None]:
        return x + t, None

    def backward(self, by_z: Tensor, share: float, tape: Tape) -> tuple[Tensor, Tensor]:
        return by_z, by_z


class _Affine:
    r"""$z = x e^{s} + t$: $\bar x = \bar z e^s$, $\bar t = \bar z$; s is the log-slope, so $\bar s = \bar x x - share$.

    With $s = a \tanh r$: $\bar a = \sum_i \bar s_i \tanh r_i$ and $\bar r = \bar s\,a\,(1 - \tanh^2 r)$; with a soft
    clamp $s = c \arctan(r / c)$: $\bar r = \bar s / (1 + (r / c)^2)$. With ``shift_first``, $z = (x + t)\,e^{s}$, it is
    x + t that takes the place of x, and $\bar t = \bar x$.
    """

    def __init__(self, transform: Affine) -> None:
        self.factor, self.cap = transform.factor, 2 * transform.limit / math.pi
        self.shift_first = transform.shift_first
        if self.factor is not None and self.factor.ndim != 1:
            raise UnknownLayerError("a factor of images")

    def forward(self, x: Tensor, parameters: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        raw, shift = parameters[0::2], parameters[1::2]
        if self.factor is not None:
            bent = raw.tanh()
            log_scale = self.factor[:, None] * bent
        else:
            bent = raw / self.cap
            log_scale = self.cap * bent.atan()
        scale = log_scale.exp()
        if self.shift_first:
            x = x + shift
        tape += (x, scale, bent)
        return x * scale if self.shift_first else torch.addcmul(shift, x, scale), log_scale

    def backward(self, by_z: Tensor, share: float, tape: Tape) -> tuple[Tensor, Tensor]:
        bent, scale, x = tape.pop(), tape.pop(), tape.pop()
        by_parameters = by_z.new_empty(2 * len(x), x.shape[1])
        by_raw, by_shift = by_parameters[0::2], by_parameters[1::2]
        by_x = by_z * scale
        by_shift.copy_(by_x if self.shift_first else by_z)
        by_log_scale = (by_x * x).sub_(share)
        if self.factor is not None:
            torch.sum(by_log_scale * bent, 1, out=self.factor.grad)
            aten.tanh_backward.grad_input(by_log_scale.mul_(self.factor[:, None]), bent, grad_input=by_raw)
        else:
            torch.div(by_log_scale, bent.square_().add_(1), out=by_raw)
        return by_x, by_parameters


class _Spline:
    """A rational-quadratic spline by the fused kernels, which hold its gradient."""

    def __init__(self, spline: RQSpline, run: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.spline, self.run = spline, run
        self.unit = math.log(math.expm1(1 - spline.min_slope))

    def forward(self, x: Tensor, parameters: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        tape += (x, parameters)
        return self.run("transform", self.spline, (x,), parameters, x.shape[1], self.unit, along_y=False)

    def backward(self, by_z: Tensor, share: float, tape: Tape) -> tuple[Tensor, Tensor]:
        parameters, x = tape.pop(), tape.pop()
        values = (x, by_z, torch.full_like(x, -share))
        return self.run("backward", self.spline, values, parameters, x.shape[1], self.unit, along_y=False)


class _ByAutograd:
    """A transform without parameters of its own, whose gradient is that of a graph of this transform alone."""

    def __init__(self, transform: RQSpline) -> None:
        self.transform = transform

    @torch.inference_mode(False)
    def forward(self, x: Tensor, parameters: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        x, parameters = x.clone().requires_grad_(), parameters.clone().requires_grad_()
        results = self.transform(x, parameters.unflatten(0, (len(x), -1)).movedim(1, -1))
        tape += ((x, parameters), results)
        return results[0].detach(), results[1].detach()

    @torch.inference_mode(False)
    def backward(self, by_z: Tensor, share: float, tape: Tape) -> tuple[Tensor, ...]:
        results, inputs = tape.pop(), tape.pop()
        return torch.autograd.grad(results, inputs, (by_z.clone(), torch.full_like(results[1], -share)))


TRANSFORMS: dict[type, Callable[[Any], Any]] = {Additive: _Additive, Affine: _Affine, RQSpline: _ByAutograd}


def _known_transform(transform: Univariate, like: Tensor) -> Any:
    """The transform of values like these, by fused kernels where they apply."""
    if type(transform) is RQSpline and not transform.circular and like.dtype == torch.float32 and applicable(like):
        kernels = backend("cpu")
        if kernels is not None:
            return _Spline(transform, kernels.run)
    return known(transform, TRANSFORMS)


# --- links: halves (first, second) of (features, batch) ---------------------------------------------------------------


class _Coupling:
    r"""$z = (a,\, \tau(b;\, \theta(a, c)))$: $\bar a$ is the gradient by the first part of z, plus that through θ."""

    def __init__(self, coupling: Coupling) -> None:
        transform, self.swap = coupling.transform, coupling.swap
        self.net = known(coupling.net, NETS)
        self.transform = _known_transform(transform, next(coupling.net.parameters()))
        if self.net.outputs != coupling.transformed * transform.parameters_per_feature:
            raise UnknownLayerError(f"a net with {self.net.outputs} outputs, which are not those of its transform")

    def forward(self, halves: Halves, context: Tensor | None, tape: Tape) -> tuple[Halves, Tensor | None]:
        a, b = reversed(halves) if self.swap else halves
        inputs = a if context is None else torch.cat((a, context))
        parameters = self.net.forward(inputs if len(inputs) else a.new_ones(1, a.shape[1]), tape)
        b, log_slope = self.transform.forward(b, parameters, tape)
        return (b, a) if self.swap else (a, b), log_slope

    def backward(self, by_halves: Halves, share: float, tape: Tape, *, is_first: bool) -> Halves:
        by_a, by_b = reversed(by_halves) if self.swap else by_halves
        by_b, by_parameters = self.transform.backward(by_b, share, tape)
        self.net.backward(by_parameters, tape, None if is_first else by_a)
        return (by_b, by_a) if self.swap else (by_a, by_b)


class _Unsplit:
    """A link that does not keep the halves apart: ``transform`` is its formula, ``gradient`` the gradient."""

    transform: Callable[[Tensor, Tape], tuple[Tensor, Tensor | None]]
    gradient: Callable[[Tensor, float, Tape], Tensor]

    def forward(self, halves: Halves, context: Tensor | None, tape: Tape) -> tuple[Halves, Tensor | None]:
        z, log_det = self.transform(torch.cat(halves), tape)
        return split(z), log_det

    def backward(self, by_halves: Halves, share: float, tape: Tape, *, is_first: bool) -> Halves:
        return split(self.gradient(torch.cat(by_halves), share, tape))


class _Permutation(_Unsplit):
    r"""$z_i = x_{\text{order}_i}$: $\bar x$ is $\bar z$ in the order of x."""

    def __init__(self, link: Permutation) -> None:
        self.link = link

    def transform(self, x: Tensor, tape: Tape) -> tuple[Tensor, None]:
        return x.index_select(0, self.link.order), None

    def gradient(self, by_z: Tensor, share: float, tape: Tape) -> Tensor:
        return by_z.index_select(0, self.link.undo)


class _LULinear(_Unsplit):
    r"""$z = W x + b$ with $W = L U$: $\bar x = W^\top \bar z$, $\bar W = \bar z x^\top$, $\bar b = \sum_i \bar z_i$;
    $\bar L = \bar W U^\top$ below the diagonal, $\bar U = L^\top \bar W$ above it and, with the log-det
    $\sum_k d_k$, $\bar d_k = \bar U_{kk} U_{kk} - \text{share} \cdot \text{rows}$.
    """

    def __init__(self, link: LULinear) -> None:
        self.triangles, self.bias = link.triangles, link.bias

    def transform(self, x: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        below, above = self.triangles.factors()
        matrix = below @ above
        tape += (x, below, above, matrix)
        return torch.addmm(self.bias[:, None], matrix, x), self.triangles.log_diagonal[:, None].expand_as(x)

    def gradient(self, by_z: Tensor, share: float, tape: Tape) -> Tensor:
        matrix, above, below, x = (tape.pop() for _ in range(4))
        by_matrix = by_z @ x.t()
        by_above = below.t() @ by_matrix
        torch.sum(by_z, 1, out=self.bias.grad)
        torch.tril(by_matrix @ above.t(), -1, out=self.triangles.below.grad)
        torch.triu(by_above, 1, out=self.triangles.above.grad)
        torch.mul(by_above.diagonal(), above.diagonal(), out=self.triangles.log_diagonal.grad).sub_(share * x.shape[1])
        return matrix.t() @ by_z


class _Scaling(_Unsplit):
    r"""$z = x e^d$: $\bar x = \bar z e^d$, $\bar d = \sum_i \bar z_i z_i - \text{share} \cdot \text{rows}$."""

    def __init__(self, link: Scaling) -> None:
        self.log_scale = link.log_scale

    def transform(self, x: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()[:, None]
        z = x * scale
        tape += (z, scale)
        return z, self.log_scale[:, None].expand_as(x)

    def gradient(self, by_z: Tensor, share: float, tape: Tape) -> Tensor:
        scale, z = tape.pop(), tape.pop()
        torch.sum(by_z * z, 1, out=self.log_scale.grad).sub_(share * z.shape[1])
        return by_z * scale


LAYERS: dict[type, Callable[[Any], Any]] = {
    Coupling: _Coupling, Permutation: _Permutation, LULinear: _LULinear, Scaling: _Scaling,
}  # fmt: skip


def split(value: Tensor) -> Halves:
    """The halves of ``(features, batch)``, as ``Coupling`` splits features."""
    return value[: len(value) // 2], value[len(value) // 2 :]


# --- priors: the gradient of -share * log p(z) by z -------------------------------------------------------------------


def _logistic(z: Tensor, share: float) -> Tensor:
    r"""The gradient of ``share`` times $\sum_i \text{softplus}(z_i) + \text{softplus}(-z_i)$."""
    g = torch.full_like(z, share)
    return aten.softplus_backward(g, z, 1, 20).sub_(aten.softplus_backward(g, -z, 1, 20))


PRIORS: dict[type, Callable[[Any], Callable[[Tensor, float], Tensor]]] = {
    StandardNormal: lambda _: torch.mul,
    Logistic: lambda _: _logistic,
}

KINDS: tuple[Any, ...] = (*LAYERS, *PRIORS, *TRANSFORMS, *NETS, *ACTIVATIONS, nn.Linear, nn.Sequential)
FORWARDS = {kind: kind.forward for kind in KINDS}
