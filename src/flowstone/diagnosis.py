"""What is right and what is wrong with a flow, layer by layer: ``Flow.check``."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowstone.bijections import Autoregressive, Bijection, Chain, Coupling
from flowstone.testing import jacobian

__all__ = ["Diagnosis", "LayerReport", "WholeReport", "diagnose"]

ROWS, JACOBIANS = 256, 8
MANY = 256  # dimensions beyond which Jacobians are left out
EPS = torch.finfo(torch.float64).eps
PLACES = ("data", "outside", "edge")
FAR = 3.0  # how many times as far from the middle "outside" and "edge" are

# What is worth a sentence.
WRONG, SINGULAR, NEAR_BOUND, COARSE = 1e-8, 1e6, 0.98, 1e-3


@dataclass(frozen=True)
class LayerReport:
    """One layer at one place.

    Attributes:
        layer: its number in the walk of a data point, from 1.
        name: its class.
        place: on the ``data``, ``outside`` it, or at the latent's ``edge``.
        round_trip: largest error of there and back in float64, in parts of the largest number.
        log_det: largest error of its log-det in nats, against its Jacobian (in many dimensions: against the way back).
        condition: largest ratio of the Jacobian's singular values; None in many dimensions.
        bound: how near its bound the layer runs, 1 is at it: of an affine scale its part of the bound, of a spline the
            part of values that lie beyond; None where there is none.
        float32: largest difference between float32 and float64, in parts of the largest number.
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
    """The whole flow at one place: round trips in both precisions, condition number, nats that float32 is off by."""

    place: str
    round_trip: float
    round_trip_float32: float
    condition: float | None
    log_prob_float32: float


@dataclass(frozen=True)
class Diagnosis:
    """What ``Flow.check`` found; ``str`` makes a table of it, sentences first."""

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

    def __str__(self) -> str:
        lines = list(self.findings) or ["nothing wrong: the flow inverts and its log-dets are those of its Jacobians"]
        for place, whole in zip(PLACES, self.whole, strict=True):
            lines += ["", PLACE_NAMES[place], _line("", *COLUMNS)]
            for report in self.layers:
                if report.place == place:
                    numbers = (report.round_trip, report.log_det, report.condition, report.bound, report.float32)
                    lines.append(_line(f"{report.layer:>3} {report.name}", *map(_number, numbers)))
            numbers = (whole.round_trip, None, whole.condition, None, whole.round_trip_float32)
            lines.append(_line("    the whole flow", *map(_number, numbers)))
        return "\n".join(lines)


PLACE_NAMES = {
    "data": "on the data",
    "outside": f"outside it ({FAR:g} times as far from its middle)",
    "edge": f"at the latent's edge ({FAR:g} times as far out as the prior's samples), from latent to data",
}
COLUMNS = ("round trip", "log-det", "condition", "bound", "float32")


def diagnose(flow: Any, x: Tensor, context: Tensor | None = None) -> Diagnosis:
    """``Flow.check``, of which this is the body: see there."""
    double = copy.deepcopy(flow).double().eval()
    single = copy.deepcopy(flow).float().eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = torch.randperm(len(x))[:ROWS].to(x.device)
        x = x[rows].to(device=double.device, dtype=torch.float64)
        context = None if context is None else context[rows].to(device=double.device, dtype=torch.float64)
        conditioning = context if double.standardize_context is None else double.standardize_context(context)[0]
        centre = x.mean(0)
        outside = centre + FAR * (x - centre)
        # Beyond the border of a bounded domain there is no density to check.
        within = double.log_prob(outside, context).isfinite().reshape(-1, *(1 for _ in x.shape[1:]))
        starts = {
            "data": x,
            "outside": torch.where(within, outside, x),
            "edge": FAR * double.prior.sample(len(x), context),
        }
        layers, whole = [], []
        for place, start in starts.items():
            layers += _walk(double, single, start, conditioning, place)
            whole.append(_whole(double, single, start, context, place))
    return Diagnosis(tuple(layers), tuple(whole), tuple(_findings(layers, whole)))


def _links(bijection: Bijection) -> list[Bijection]:
    """The layers, chains within chains laid out."""
    if not isinstance(bijection, Chain):
        return [bijection]
    return [layer for link in bijection.links for layer in _links(link)]  # pyright: ignore[reportArgumentType]


def _walk(double: Any, single: Any, value: Tensor, context: Tensor | None, place: str) -> Iterator[LayerReport]:
    """Each layer in turn on what the layers before it make of ``value``."""
    pairs = list(enumerate(zip(_links(double.bijection), _links(single.bijection), strict=True), 1))
    backwards = place == "edge"
    for number, (layer, narrow) in reversed(pairs) if backwards else pairs:
        there, back = (layer.inverse, layer.forward) if backwards else (layer.forward, layer.inverse)
        out, log_det = there(value, context)
        returned, return_log_det = back(out, context)
        rounded = (narrow.inverse if backwards else narrow.forward)(value.float(), _float(context))[0]
        stochastic = layer.stochastic
        truth, condition = (None, None) if stochastic else _jacobian(there, value, context)
        claimed = log_det if truth is None else log_det[: len(truth)]
        yield LayerReport(
            layer=number,
            name=_name(layer),
            place=place,
            round_trip=_relative(returned, value) if not (stochastic and backwards) else 0.0,
            log_det=0.0 if stochastic else _worst(claimed - (-return_log_det if truth is None else truth)),
            condition=condition,
            bound=_bound(layer, out if backwards else value, context),
            float32=0.0 if stochastic else _relative(rounded.double(), out),
        )
        value = out


def _whole(double: Any, single: Any, start: Tensor, context: Tensor | None, place: str) -> WholeReport:
    def there_and_back(flow: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        value, given = start.to(dtype), None if context is None else context.to(dtype)
        x = flow.from_latent(value, given)[0] if place == "edge" else value
        z = flow.to_latent(x, given)[0]
        returned = z if place == "edge" else flow.from_latent(z, given)[0]
        return returned.double(), flow.log_prob(x, given).double()

    stochastic = any(layer.stochastic for layer in _links(double.bijection))
    if stochastic and place == "edge":  # rounding to integers: it is those that come back
        start, place = double.from_latent(start, context)[0], "integers"
    wide, log_prob = there_and_back(double, torch.float64)
    narrow, log_prob_narrow = there_and_back(single, torch.float32)
    condition = None
    if not stochastic:
        direction = double.from_latent if place == "edge" else double.to_latent
        condition = _jacobian(direction, start, context)[1]
    return WholeReport(
        place="edge" if place == "integers" else place,
        round_trip=_relative(wide, start),
        round_trip_float32=_relative(narrow, start),
        condition=condition,
        log_prob_float32=0.0 if stochastic else _worst(log_prob_narrow - log_prob),
    )


def _jacobian(direction: Any, value: Tensor, context: Tensor | None) -> tuple[Tensor | None, float | None]:
    """Log|det| at the first rows and the largest condition number; None and None in many dimensions."""
    if value[0].numel() > MANY:
        return None, None
    few = slice(0, JACOBIANS)
    with torch.enable_grad():
        matrix = jacobian(direction, value[few], None if context is None else context[few]).detach()
    if not matrix.isfinite().all():
        return None, float("inf")
    spectrum = torch.linalg.svdvals(matrix)
    return torch.linalg.slogdet(matrix)[1], (spectrum[:, 0] / spectrum[:, -1].clamp_min(1e-300)).max().item()


def _bound(layer: Bijection, x: Tensor, context: Tensor | None) -> float | None:
    """The transform's own measure, from the parameters that the layer's net gives it there."""
    if not isinstance(layer, Coupling | Autoregressive):
        return None
    moving, parameters = layer.asked(x, context)
    return layer.transform.nearness(moving, parameters)


def _findings(layers: Sequence[LayerReport], whole: Sequence[WholeReport]) -> Iterator[str]:
    """A sentence for each thing that is wrong; of layers that fail in the same way, the worst one."""
    for place in PLACES:
        here = [report for report in layers if report.place == place]
        yield from _layer_findings(here, place)
    for report in whole:
        yield from _whole_findings(report, len(layers) // len(PLACES))


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
    if report.place == "data" and not report.log_prob_float32 <= 100 * COARSE:
        yield f"log_prob in float32 is off by up to {report.log_prob_float32:.2g} nats {where}; use flow.double()"


def _name(layer: Bijection) -> str:
    inner = getattr(layer, "transform", None) or getattr(layer, "bijection", None)
    return type(layer).__name__ + (f" {type(inner).__name__}" if inner is not None else "")


def _relative(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, in parts of the largest number; NaN stays."""
    return _worst(got - wanted) / max(1.0, _worst(wanted))


def _worst(values: Tensor) -> float:
    return values.abs().max().item()


def _float(context: Tensor | None) -> Tensor | None:
    return None if context is None else context.float()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _line(name: str, *cells: str) -> str:
    return f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells)
