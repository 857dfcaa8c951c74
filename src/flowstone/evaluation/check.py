"""Whether a flow inverts and its log-dets are correct, layer by layer."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from flowstone.bijections import Bijection, Conditioned, noise_from, walk
from flowstone.density import Density
from flowstone.errors import SettingError
from flowstone.evaluation.diagnosis import FAR, Diagnosis, FlowReport, LayerReport, findings
from flowstone.evaluation.jacobian import jacobian
from flowstone.execution import bf16_conditioners
from flowstone.flow import Flow

__all__ = ["check", "require_flow"]

ROWS, JACOBIANS = 256, 8
Direction = Callable[..., tuple[Tensor, Tensor]]
MANY = 256  # dimensions beyond which Jacobians are left out


def check(flow: Density, x: Tensor, context: Tensor | None = None) -> Diagnosis:
    """Check layer by layer whether the flow inverts and its log-dets are correct; ``print`` shows the result.

    The figures are computed on up to 256 rows of the data, outside them and at the latent's edge: errors of round trips
    and log-dets in float64, condition numbers of the Jacobians, how near each scale is to its bound, and the errors of
    float32. A sentence on each thing that is wrong comes first (Behrmann et al. 2021 show how inverses fail unnoticed).

    Raises:
        SettingError: the density is no Flow.
        ShapeError: x or the context has another shape than the flow was built for.

    >>> import flowstone
    >>> import torch
    >>> flowstone.check(flowstone.nice(2), torch.randn(100, 2)).ok
    True
    """
    flow = require_flow(flow)
    flow.check_shapes(x, context)
    with torch.no_grad(), _same_noise(flow.device):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:ROWS].to(x.device)
        x, context = x[rows].to(flow.device), None if context is None else context[rows].to(flow.device)
        if not (flow.bijection.accepts_any_dtype and x.is_floating_point()):
            x = x.to(flow.dtype)
        pair = _Pair(flow)
        lost = pair.double.log_prob(x.double(), _to(context, torch.float64)) == -torch.inf
        left_out = [_outside_the_domain(lost, rows)] if lost.any() else []
        layers, whole = [], []
        if not lost.all():
            x, context = x[~lost], None if context is None else context[~lost]
            for place, start in _starts(pair, x, context).items():
                layers += pair.walk(start, context, place)
                whole.append(pair.whole(start, context, place))
    return Diagnosis(tuple(layers), tuple(whole), (*left_out, *findings(layers, whole)))


def require_flow(density: Density) -> Flow:
    """The density, which must be a flow."""
    if not isinstance(density, Flow):
        raise SettingError(f"check needs a Flow, with layers to look at, got a {type(density).__name__}")
    return density


def _same_noise(device: torch.device):
    return noise_from(torch.Generator(device).manual_seed(0))


def _outside_the_domain(lost: Tensor, rows: Tensor) -> str:
    first = rows[lost].min().item()
    return (
        f"{int(lost.sum())} of {len(lost)} rows have no density (log_prob is -inf), the first is row {first}, counted "
        "from 0; left out"
    )


def _starts(pair: "_Pair", x: Tensor, context: Tensor | None) -> dict[str, Tensor]:
    """What the flow is given at each place. Beyond the border of a bounded domain there is no density to check."""
    flow, given = pair.double, _to(context, torch.float64)
    z = flow.prior.sample(len(x), given, torch.Generator(flow.device).manual_seed(0))
    outside, edge = _farther(x), _farther(z)
    if pair.stochastic:
        outside = outside.round()
    has_density = flow.log_prob(outside.double(), given) != -torch.inf
    in_prior = flow.prior.log_prob(edge, given) != -torch.inf
    if any(getattr(module, "circular", False) for module in flow.modules()):  # a circle has no outside
        has_density, in_prior = has_density & False, in_prior & False
    return {"data": x, "outside": _where(has_density, outside, x), "edge": _where(in_prior, edge, z)}


@dataclass(frozen=True)
class _Call:
    """One layer as it is called: which one, in which direction, on what."""

    layer: int
    forwards: bool
    value: Tensor
    context: Tensor | None


class _Pair:
    """The flow in float64 and in float32, its layers side by side, in the order in which a data point meets them."""

    def __init__(self, flow: Flow) -> None:
        self.double = copy.deepcopy(flow).double().eval()
        self.single = copy.deepcopy(flow).float().eval()
        self.is_float32 = flow.dtype == torch.float32  # the float32 copy then reads the user's rows as they are
        self.layers = list(zip(_layers(self.double.bijection), _layers(self.single.bijection), strict=True))
        self.numbers: dict[int, int] = {}
        self.stochastic = flow.stochastic

    def walk(self, start: Tensor, context: Tensor | None, place: str) -> Iterator[LayerReport]:
        """A report of each layer, applied to the output that the layers before it have for ``start``."""
        backwards = place == "edge"
        run = self.double.from_latent if backwards else self.double.to_latent
        given = _to(context, torch.float64)
        for index, call in enumerate(self._calls(lambda: run(start.double(), given))):
            number = self.numbers.setdefault(call.layer, len(self.numbers) + 1)
            reads_rows = index == 0 and not backwards and self.is_float32
            yield self._report(call, number, place, start if reads_rows else call.value.float())

    def _calls(self, run: Callable[[], object]) -> list[_Call]:
        """What ``run`` calls, whatever the layers are nested in."""
        calls: list[_Call] = []

        def recording(index: int, direction: Direction, forwards: bool) -> Direction:
            def call(value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
                calls.append(_Call(index, forwards, value, context))
                return direction(value, context)

            return call

        for index, (layer, _) in enumerate(self.layers):
            layer.forward = recording(index, layer.forward, True)
            layer.inverse = recording(index, layer.inverse, False)
        try:
            run()
        finally:
            for layer, _ in self.layers:
                del layer.forward, layer.inverse  # the methods of the class are visible again
        return calls

    def _report(self, call: _Call, number: int, place: str, rounded: Tensor) -> LayerReport:
        layer, narrow = self.layers[call.layer]
        there, back = (layer.forward, layer.inverse) if call.forwards else (layer.inverse, layer.forward)
        out, log_det = there(call.value, call.context)
        returned, return_log_det = back(out, call.context)
        single = narrow.forward if call.forwards else narrow.inverse
        exact = there(rounded.double(), call.context)[0]
        noisy = layer.stochastic
        true_log_det, condition = (None, None) if noisy else _jacobian(there, call.value, call.context)
        claimed, wanted = (
            (log_det, -return_log_det) if true_log_det is None else (log_det[: len(true_log_det)], true_log_det)
        )
        return LayerReport(
            layer=number,
            name=_name(layer),
            place=place,
            round_trip=0.0 if noisy and not call.forwards else _relative(returned, call.value),
            log_det=0.0 if noisy else _worst(claimed - wanted),
            condition=condition,
            saturation=_saturation(layer, call.value if call.forwards else out, call.context),
            float32=0.0 if noisy else _relative(single(rounded, _to(call.context, torch.float32))[0].double(), exact),
        )

    def whole(self, start: Tensor, context: Tensor | None, place: str) -> FlowReport:
        """There and back through all layers, in both precisions."""
        backwards = place == "edge"
        given = _to(context, torch.float64)
        if self.stochastic and backwards:  # latents do not come back from integers: begin with the integers
            start, backwards = self.double.from_latent(start, given)[0], False
        rounded = start if self.is_float32 and not backwards else start.float()

        def there_and_back(flow: Flow, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            there, back = (flow.from_latent, flow.to_latent) if backwards else (flow.to_latent, flow.from_latent)
            reached = there(value, context)[0]
            return reached, back(reached, context)[0].double()

        def log_prob(flow: Flow, dtype: torch.dtype) -> Tensor:
            x = points if flow.accepts_any_dtype or not points.is_floating_point() else points.to(dtype)
            with _same_noise(flow.device):
                return flow.log_prob(x, _to(context, dtype)).double()

        _, wide = there_and_back(self.double, start.double(), given)
        reached, exact = there_and_back(self.double, rounded.double(), given)
        _, narrow = there_and_back(self.single, rounded, _to(context, torch.float32))
        points = reached if backwards else rounded
        points = points if self.single.accepts_any_dtype else points.float()  # the same for all
        true, single = log_prob(self.double, torch.float64), log_prob(self.single, torch.float32)
        with bf16_conditioners(self.single):
            low = log_prob(self.single, torch.float32)
        direction = self.double.from_latent if backwards else self.double.to_latent
        return FlowReport(
            place=place,
            round_trip=_relative(wide, start.double()),
            round_trip_float32=(_on_average if self.stochastic else _relative)(narrow, exact),
            condition=None if self.stochastic else _jacobian(direction, start.double(), given)[1],
            log_prob_float32=None if self.stochastic else _worst(single - true),
            log_prob_bf16=_worst(low - single),
        )


def _layers(bijection: Bijection) -> Iterator[Bijection]:
    """The layers that are not made of others."""
    return (layer for layer in walk(bijection) if not layer.sublayers())


def _jacobian(direction: Direction, value: Tensor, context: Tensor | None) -> tuple[Tensor | None, float | None]:
    """The log-determinants at the first rows and the largest condition number; None and None in many dimensions."""
    if value[0].numel() > MANY:
        return None, None
    few = slice(0, JACOBIANS)
    with torch.enable_grad():
        matrix = jacobian(direction, value[few], None if context is None else context[few]).detach()
    if not matrix.isfinite().all():
        return None, float("inf")
    before, after = _deviations(value), _deviations(direction(value, context)[0])
    spectrum = torch.linalg.svdvals(matrix * before / after[:, None])
    return torch.linalg.slogdet(matrix)[1], (spectrum[:, 0] / spectrum[:, -1].clamp_min(1e-300)).max().item()


def _deviations(value: Tensor) -> Tensor:
    """The standard deviation of each feature; 1 where it does not vary."""
    deviation = value.flatten(1).std(0, correction=0)
    return torch.where(deviation > 0, deviation, 1.0)


def _saturation(layer: Bijection, x: Tensor, context: Tensor | None) -> float | None:
    return layer.saturation(x, context) if isinstance(layer, Conditioned) else None


def _name(layer: Bijection) -> str:
    inner = getattr(layer, "transform", None) or getattr(layer, "bijection", None)
    return type(layer).__name__ + (f" {type(inner).__name__}" if inner is not None else "")


def _relative(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in parts of the largest number of the same feature; NaN stays."""
    off, size = ((value.abs().flatten(1).amax(0)) for value in (got - wanted, wanted))
    size = size.clamp_min(1e-9 * size.max())
    return (off / torch.where(size == 0, 1.0, size)).max().item()


def _on_average(got: Tensor, wanted: Tensor) -> float:
    """The mean error of integers, in parts of the largest one: a few may come back as the neighbouring integer."""
    return ((got - wanted).abs().mean() / wanted.abs().max().clamp_min(1)).item()


def _worst(values: Tensor) -> float:
    return values.abs().max().item()


def _farther(values: Tensor) -> Tensor:
    """The values, ``FAR`` times as far from their mean."""
    return values.mean(0) + FAR * (values - values.mean(0))


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *(1 for _ in one.shape[1:])), one, other)


def _to(context: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if context is None else context.to(dtype)
