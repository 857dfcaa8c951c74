"""What is right and what is wrong with a flow, layer by layer: ``Flow.check``."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowstone.bijections import Bijection, Conditioned, walk
from flowstone.execution import bf16_conditioners
from flowstone.testing import jacobian

__all__ = ["Diagnosis", "LayerReport", "WholeReport", "diagnose"]

ROWS, JACOBIANS = 256, 8
MANY = 256  # dimensions beyond which Jacobians are left out
EPS = torch.finfo(torch.float64).eps
PLACES = ("data", "outside", "edge")
FAR = 3.0  # how many times as far from the middle "outside" and "edge" are

# What is worth a sentence.
WRONG, SINGULAR, NEAR_BOUND, COARSE = 1e-8, 1e6, 0.9, 1e-3


@dataclass(frozen=True)
class LayerReport:
    """One layer at one place.

    Attributes:
        layer: its number in the walk of a data point, from 1.
        name: its class.
        place: on the ``data``, ``outside`` it, or at the latent's ``edge``.
        round_trip: largest error of there and back in float64, in parts of the largest number of the same feature.
        log_det: largest error of its log-det in nats, against its Jacobian (in many dimensions: against the way back).
        condition: largest ratio of the Jacobian's singular values, each feature in units of its own deviation before
            and after the layer; None in many dimensions.
        bound: how near its bound the layer runs, 1 is at it: of an affine log-scale what 19 of 20 values are below, in
            parts of the bound; of a spline the part of values that lie beyond; None where nothing is bounded for good.
        float32: largest difference between float32 and float64 on the same float32 numbers, in parts of the largest
            number of the same feature.
    """

    layer: int
    name: str
    place: str
    round_trip: float
    log_det: float
    condition: float | None
    bound: float | None
    float32: float


@dataclass(frozen=True)
class WholeReport:
    """The whole flow at one place: round trips in both precisions, condition number, and by how many nats log_prob is
    off at most: in float32 (None where noise of another precision is other noise), and with nets in bfloat16 besides
    (``precision="bf16"``).
    """

    place: str
    round_trip: float
    round_trip_float32: float
    condition: float | None
    log_prob_float32: float | None
    log_prob_bf16: float


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What ``Flow.check`` found; ``print`` makes a table of it, sentences first.

    Attributes:
        layers: a report for each layer at each place.
        whole: a report on the whole flow at each place.
        findings: a sentence for each thing that is wrong.
    """

    layers: tuple[LayerReport, ...]
    whole: tuple[WholeReport, ...]
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __repr__(self) -> str:
        return f"Diagnosis(ok={self.ok}, findings={list(self.findings)})"

    def __str__(self) -> str:
        lines = list(self.findings) or ["nothing wrong: the flow inverts and its log-dets are those of its Jacobians"]
        for whole in self.whole:
            lines += ["", PLACE_NAMES[whole.place], _line("", *COLUMNS)]
            for report in self.layers:
                if report.place == whole.place:
                    numbers = (report.round_trip, report.log_det, report.condition, report.bound, report.float32)
                    lines.append(_line(f"{report.layer:>3} {report.name}", *map(_number, numbers)))
            numbers = (whole.round_trip, None, whole.condition, None, whole.round_trip_float32)
            lines.append(_line("    the whole flow", *map(_number, numbers)))
            off = whole.log_prob_float32
            by_float32 = "" if off is None else f"by {off:.1e} nats in float32, "
            lines.append(f"    log_prob is off at most {by_float32}by {whole.log_prob_bf16:.1e} with nets in bfloat16")
        return "\n".join(lines)


PLACE_NAMES = {
    "data": "on the data",
    "outside": f"outside it ({FAR:g} times as far from its middle)",
    "edge": f"at the latent's edge ({FAR:g} times as far out as the prior's samples), from latent to data",
}
COLUMNS = ("round trip", "log-det", "condition", "bound", "float32")


def diagnose(flow: Any, x: Tensor, context: Tensor | None = None) -> Diagnosis:
    """``Flow.check``, of which this is the body: see there."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = torch.randperm(len(x))[:ROWS].to(x.device)
        x, context = x[rows].to(flow.device), None if context is None else context[rows].to(flow.device)
        if not (flow.bijection.accepts_any_dtype and x.is_floating_point()):
            x = x.to(flow.dtype)
        pair = _Pair(flow)
        lost = pair.double.log_prob(x.double(), _to(context, torch.float64)) == -torch.inf
        findings = [_outside_the_domain(lost, rows)] if lost.any() else []
        layers, whole = [], []
        if not lost.all():
            x, context = x[~lost], None if context is None else context[~lost]
            for place, start in _starts(pair, x, context).items():
                layers += pair.walk(start, context, place)
                whole.append(pair.whole(start, context, place))
    return Diagnosis(tuple(layers), tuple(whole), (*findings, *_findings(layers, whole)))


def _outside_the_domain(lost: Tensor, rows: Tensor) -> str:
    first = rows[lost].min().item()
    return (
        f"{int(lost.sum())} of {len(lost)} rows have no density (log_prob is -inf), the first is row {first}; left out"
    )


def _starts(pair: "_Pair", x: Tensor, context: Tensor | None) -> dict[str, Tensor]:
    """What the flow is given at each place. Beyond the border of a bounded domain there is no density to check."""
    flow, given = pair.double, _to(context, torch.float64)
    z = flow.prior.sample(len(x), given)
    outside, edge = _farther(x), _farther(z)
    if pair.stochastic:
        outside = outside.round()
    has_density = flow.log_prob(outside.double(), given) != -torch.inf
    in_prior = flow.prior.log_prob(edge, given) != -torch.inf
    if any(getattr(module, "circular", False) for module in flow.modules()):  # beyond its ends a circle begins again
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

    def __init__(self, flow: Any) -> None:
        self.double = copy.deepcopy(flow).double().eval()
        self.single = copy.deepcopy(flow).float().eval()
        self.as_handed = flow.dtype == torch.float32  # the float32 flow is the user's own, and reads the user's rows
        self.layers = list(zip(_layers(self.double.bijection), _layers(self.single.bijection), strict=True))
        self.numbers: dict[int, int] = {}
        self.stochastic = flow.stochastic

    def walk(self, start: Tensor, context: Tensor | None, place: str) -> Iterator[LayerReport]:
        """Each layer in turn on what the layers before it make of ``start``."""
        backwards = place == "edge"
        run = self.double.from_latent if backwards else self.double.to_latent
        given = _to(context, torch.float64)
        for index, call in enumerate(self._calls(lambda: run(start.double(), given))):
            number = self.numbers.setdefault(call.layer, len(self.numbers) + 1)
            reads_rows = index == 0 and not backwards and self.as_handed
            yield self._report(call, number, place, start if reads_rows else call.value.float())

    def _calls(self, run: Callable[[], object]) -> list[_Call]:
        """What ``run`` calls, whatever the layers are nested in."""
        calls: list[_Call] = []

        def spied(index: int, direction: Callable, forwards: bool) -> Callable:
            def call(value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
                calls.append(_Call(index, forwards, value, context))
                return direction(value, context)

            return call

        for index, (layer, _) in enumerate(self.layers):
            layer.forward, layer.inverse = spied(index, layer.forward, True), spied(index, layer.inverse, False)
        try:
            run()
        finally:
            for layer, _ in self.layers:
                del layer.forward, layer.inverse  # of this one copy: those of its class are back
        return calls

    def _report(self, call: _Call, number: int, place: str, rounded: Tensor) -> LayerReport:
        layer, narrow = self.layers[call.layer]
        there, back = (layer.forward, layer.inverse) if call.forwards else (layer.inverse, layer.forward)
        out, log_det = there(call.value, call.context)
        returned, return_log_det = back(out, call.context)
        single = narrow.forward if call.forwards else narrow.inverse
        exact = there(rounded.double(), call.context)[0]
        noisy = layer.stochastic
        truth, condition = (None, None) if noisy else _jacobian(there, call.value, call.context)
        claimed, wanted = (log_det, -return_log_det) if truth is None else (log_det[: len(truth)], truth)
        return LayerReport(
            layer=number,
            name=_name(layer),
            place=place,
            round_trip=0.0 if noisy and not call.forwards else _relative(returned, call.value),
            log_det=0.0 if noisy else _worst(claimed - wanted),
            condition=condition,
            bound=_bound(layer, call.value if call.forwards else out, call.context),
            float32=0.0 if noisy else _relative(single(rounded, _to(call.context, torch.float32))[0].double(), exact),
        )

    def whole(self, start: Tensor, context: Tensor | None, place: str) -> WholeReport:
        """There and back through all layers, in both precisions."""
        backwards = place == "edge"
        given = _to(context, torch.float64)
        if self.stochastic and backwards:  # rounding to integers: it is those that come back
            start, backwards = self.double.from_latent(start, given)[0], False
        rounded = start if self.as_handed and not backwards else start.float()

        def there_and_back(flow: Any, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            there, back = (flow.from_latent, flow.to_latent) if backwards else (flow.to_latent, flow.from_latent)
            reached = there(value, context)[0]
            return reached, back(reached, context)[0].double()

        def log_prob(flow: Any, dtype: torch.dtype) -> Tensor:
            torch.manual_seed(0)  # the same noise each time
            return flow.log_prob(
                points.to(dtype) if points.is_floating_point() else points, _to(context, dtype)
            ).double()

        _, wide = there_and_back(self.double, start.double(), given)
        reached, exact = there_and_back(self.double, rounded.double(), given)
        _, narrow = there_and_back(self.single, rounded, _to(context, torch.float32))
        points = reached.float() if backwards else rounded  # the same for all
        true, single = log_prob(self.double, torch.float64), log_prob(self.single, torch.float32)
        with bf16_conditioners(self.single):
            low = log_prob(self.single, torch.float32)
        direction = self.double.from_latent if backwards else self.double.to_latent
        return WholeReport(
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


def _jacobian(direction: Any, value: Tensor, context: Tensor | None) -> tuple[Tensor | None, float | None]:
    """Log|det| at the first rows and the largest condition number; None and None in many dimensions."""
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
    """Of each feature; 1 where it does not vary."""
    deviation = value.flatten(1).std(0, correction=0)
    return torch.where(deviation > 0, deviation, 1.0)


def _bound(layer: Bijection, x: Tensor, context: Tensor | None) -> float | None:
    """The transform's own measure, from the parameters that the layer's net gives it there."""
    return layer.saturation(x, context) if isinstance(layer, Conditioned) else None


def _findings(layers: Sequence[LayerReport], whole: Sequence[WholeReport]) -> Iterator[str]:
    """A sentence for each thing that is wrong; of layers that fail in the same way, the worst one."""
    for place in PLACES:
        here = [report for report in layers if report.place == place]
        yield from _layer_findings(here, place)
    for report in whole:
        yield from _whole_findings(report, len({layer.layer for layer in layers}))


def _layer_findings(here: Sequence[LayerReport], place: str) -> Iterator[str]:
    where = {"data": "on the data", "outside": "outside the data", "edge": "at the latent's edge"}[place]

    def worst(wrong: Sequence[LayerReport], key: str) -> tuple[LayerReport, str]:
        report = max(wrong, key=lambda one: getattr(one, key))
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return report, f"layer {report.layer}, {report.name},{others}"

    # What float64 itself loses in a layer this ill-conditioned is no fault of the layer.
    if wrong := [r for r in here if not r.round_trip <= max(WRONG, 1e3 * EPS * (r.condition or 1))]:
        report, name = worst(wrong, "round_trip")
        yield f"{name} does not invert {where}: there and back is off by {report.round_trip:.1e}"
    if wrong := [r for r in here if not r.log_det <= max(1e2 * WRONG, 1e3 * EPS * (r.condition or 1))]:
        report, name = worst(wrong, "log_det")
        yield f"{name} claims a log-det that is not its Jacobian's {where}: off by {report.log_det:.1e} nats"
    if wrong := [r for r in here if r.condition is not None and not r.condition <= SINGULAR]:
        report, name = worst(wrong, "condition")
        yield f"{name} is nearly singular {where}: condition number {report.condition:.1e}"
    affine = [r for r in here if r.bound is not None and "Affine" in r.name and r.bound > NEAR_BOUND]
    if affine and place == "data":
        report, name = worst(affine, "bound")
        yield f"{name} runs at the bound of its scale {where}: widen the bound, or add couplings"


def _whole_findings(report: WholeReport, depth: int) -> Iterator[str]:
    where = {"data": "on the data", "outside": "outside the data", "edge": "at the latent's edge"}[report.place]
    amplified = (
        f"its {depth} layers together have condition number {report.condition:.1e}"
        if report.condition
        else (f"rounding grows through its {depth} layers")
    )
    if not report.round_trip <= 100 * WRONG:
        yield f"the whole flow does not invert {where}, even in float64: off by {report.round_trip:.1e}; {amplified}"
    elif not report.round_trip_float32 <= COARSE:
        off = f"off by {report.round_trip_float32:.1e}"
        yield f"the whole flow does not invert in float32 {where}: {off}; {amplified}; use flow.double()"
    off = report.log_prob_float32
    if report.place == "data" and off is not None and not off <= 100 * COARSE:
        yield f"log_prob in float32 is off by up to {off:.2g} nats {where}; use flow.double()"


def _name(layer: Bijection) -> str:
    inner = getattr(layer, "transform", None) or getattr(layer, "bijection", None)
    return type(layer).__name__ + (f" {type(inner).__name__}" if inner is not None else "")


def _relative(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in parts of the largest number of the same feature; NaN stays."""
    off, size = ((value.abs().flatten(1).amax(0)) for value in (got - wanted, wanted))
    size = size.clamp_min(1e-9 * size.max())
    return (off / torch.where(size == 0, 1.0, size)).max().item()


def _on_average(got: Tensor, wanted: Tensor) -> float:
    """Of integers: one comes back as its neighbour where its noise ended within an error of the edge, and over all
    noise that is, on average, the error itself; in parts of the largest number.
    """
    return ((got - wanted).abs().mean() / wanted.abs().max().clamp_min(1)).item()


def _worst(values: Tensor) -> float:
    return values.abs().max().item()


def _farther(values: Tensor) -> Tensor:
    """From their middle."""
    return values.mean(0) + FAR * (values - values.mean(0))


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *(1 for _ in one.shape[1:])), one, other)


def _to(context: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if context is None else context.to(dtype)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _line(name: str, *cells: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells)
